from __future__ import annotations

import numpy as np
import pytest
import torch

from plisse.data.images import IMAGENET, UNIT, Augmentation, ImageBatches, ImageSet, Normalization, split
from plisse.errors import InputError


def numbered(n: int = 23, side: int = 6, channels: int = 3) -> ImageSet:
    """Random images whose label is their number."""
    draw = np.random.default_rng(0)
    return ImageSet(draw.integers(0, 256, (n, side, side, channels), np.uint8), np.arange(n))


def test_any_index_gives_the_same_batch_in_any_order() -> None:
    batches = ImageBatches(numbered(), 5, shuffle=True, augmentation=Augmentation())
    forward = [batches[i] for i in range(12)]
    for i in reversed(range(12)):
        assert torch.equal(batches[i].inputs, forward[i].inputs)
        assert torch.equal(batches[i].target, forward[i].target)


def test_every_epoch_is_another_permutation() -> None:
    batches = ImageBatches(numbered(), 5, shuffle=True)
    epochs = [torch.cat([batches[e * 5 + i].target for i in range(5)]).tolist() for e in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert torch.cat([batch.target for batch in batches]).tolist() == epochs[0]


def test_seeds_differ() -> None:
    first, second = (ImageBatches(numbered(), 23, seed=seed, shuffle=True)[0].target for seed in (0, 1))
    assert not torch.equal(first, second)


def test_the_ragged_batch_is_dropped_only_if_asked() -> None:
    images = numbered()
    assert [len(batch.target) for batch in ImageBatches(images, 5)] == [5, 5, 5, 5, 3]
    assert [len(batch.target) for batch in ImageBatches(images, 5, drop_last=True)] == [5, 5, 5, 5]
    assert [len(batch.target) for batch in ImageBatches(images, 50, drop_last=True)] == [23]


def test_augmented_images_are_windows_of_the_padded_ones() -> None:
    pixels, pad = numbered(40).pixels, 2
    result = Augmentation(pad)(pixels, np.random.default_rng(3))
    padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    seen = set()
    for image, source in zip(result, padded, strict=True):
        windows = {
            (row, column, flip): source[row : row + 6, column : column + 6][:, :: -1 if flip else 1]
            for row in range(2 * pad + 1)
            for column in range(2 * pad + 1)
            for flip in (False, True)
        }
        matches = [key for key, window in windows.items() if np.array_equal(window, image)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 15, "draws must differ from image to image"


def test_an_augmentation_of_nothing_is_the_identity() -> None:
    pixels = numbered().pixels
    assert np.array_equal(Augmentation(0, flip=False)(pixels, np.random.default_rng(0)), pixels)


def test_normalization_gives_mean_zero_and_deviation_one() -> None:
    images = numbered(50)
    scaled = images.pixels.reshape(-1, 3) / 255
    own = Normalization(tuple(scaled.mean(0)), tuple(scaled.std(0)))
    inputs = ImageBatches(images, 50, own)[0].inputs
    assert inputs.shape == (50, 3, 6, 6)
    assert inputs.dtype == torch.float32
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(inputs.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_white_is_one_and_channels_last_keeps_values() -> None:
    white = ImageSet(np.full((2, 4, 4, 1), 16, np.uint8), None, white=16)
    assert torch.equal(ImageBatches(white, 2, UNIT)[0].inputs, torch.ones(2, 1, 4, 4))
    plain = ImageBatches(numbered(), 4)[0].inputs
    last = ImageBatches(numbered(), 4, channels_last=True)[0].inputs
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


def test_unlabelled_batches_have_no_target() -> None:
    assert ImageBatches(numbered().unlabelled(), 5, IMAGENET)[0].target is None


def test_a_split_is_disjoint_and_has_every_class_in_both_parts() -> None:
    labels = np.repeat(np.arange(4), [2, 10, 20, 30])
    images = ImageSet(np.arange(62, dtype=np.uint8).reshape(62, 1, 1, 1), labels)
    first, second = split(images, 0.8)
    numbers = [set(part.pixels.ravel().tolist()) for part in (first, second)]
    assert numbers[0].isdisjoint(numbers[1])
    assert numbers[0] | numbers[1] == set(range(62))
    assert np.bincount(first.labels).tolist() == [1, 8, 16, 24]


def test_a_sample_has_no_image_twice() -> None:
    assert len(set(numbered().sample(10, seed=4).labels.tolist())) == 10
    assert len(numbered().sample(1000)) == 23


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="batch size 0"):
        ImageBatches(numbered(), 0)
    with pytest.raises(InputError, match="at least one"):
        ImageSet(np.zeros((0, 4, 4, 3), np.uint8), None)
    with pytest.raises(InputError, match="3 labels for 2 images"):
        ImageSet(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64))
