"""The handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 pixels, values 0 to 16.

From the Optical Recognition of Handwritten Digits set (Alpaydin and Kaynak 1998, CC BY 4.0).
"""

from __future__ import annotations

import numpy as np

from plisse.data.images import ImageSet

N_TRAIN = 1200
CLASSES = tuple("0123456789")


def read_digits(seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """1,200 images to train on and the other 597 to test on, drawn by `seed`.

    >>> train, test = read_digits()
    >>> train.pixels.shape, len(test), train.white
    ((1200, 8, 8, 1), 597, 16)
    """
    from sklearn.datasets import load_digits

    stored = load_digits()
    pixels = stored.images.astype(np.uint8)[..., None]
    images = ImageSet(pixels, stored.target.astype(np.int64), CLASSES, white=16)
    order = np.random.default_rng(seed).permutation(len(images))
    return images.take(order[:N_TRAIN]), images.take(order[N_TRAIN:])
