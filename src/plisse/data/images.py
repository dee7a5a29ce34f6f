"""Images in memory and batches of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plisse.core.batch import Batch
from plisse.errors import InputError


@dataclass(frozen=True)
class Normalization:
    """x' = (x - mean) / std per channel, for x from 0 (black) to 1 (white)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = Normalization((0.0,), (1.0,))


@dataclass(frozen=True)
class Augmentation:
    """Random crop after padding with `pad` black pixels on each side, and random horizontal flip."""

    pad: int = 4
    flip: bool = True

    def __call__(self, pixels: NDArray[np.uint8], draw: np.random.Generator) -> NDArray[np.uint8]:
        """Augmented copies of pixels [N, H, W, C], every image with its own draw."""
        n, height, width, _ = pixels.shape
        padded = np.pad(pixels, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        offsets = draw.integers(0, 2 * self.pad + 1, (2, n, 1))
        rows = offsets[0] + np.arange(height)  # [N, H]
        columns = offsets[1] + np.arange(width)  # [N, W]
        flipped = draw.random(n) < (0.5 if self.flip else 0.0)
        columns[flipped] = columns[flipped, ::-1]
        return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """pixels: [N, H, W, C] uint8. labels: class indices [N], None for images without. white: the pixel value
    that stands for 1. classes: the names of the classes, if known."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] = ()
    white: int = 255

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or len(self.pixels) == 0:
            raise InputError(f"images of shape {self.pixels.shape}", expected="at least one [H, W, C] image")
        if self.labels is not None and len(self.labels) != len(self.pixels):
            raise InputError(f"{len(self.labels)} labels for {len(self.pixels)} images", expected="one each")

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """The images at `indices`, in that order."""
        labels = None if self.labels is None else self.labels[indices]
        return dataclasses.replace(self, pixels=self.pixels[indices], labels=labels)

    def sample(self, n: int, seed: int = 0) -> ImageSet:
        """At most n images drawn without replacement."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[:n]))

    def unlabelled(self) -> ImageSet:
        """The same images without their labels."""
        return dataclasses.replace(self, labels=None)


def normalized(pixels: NDArray[np.uint8], white: int, normalization: Normalization) -> Tensor:
    """Pixels [N, H, W, C] uint8 as a float32 tensor [N, C, H, W], normalized."""
    mean = torch.tensor(normalization.mean).view(1, -1, 1, 1)
    std = torch.tensor(normalization.std).view(1, -1, 1, 1)
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return planes.float().div_(white).sub_(mean).div_(std)


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches of an `ImageSet`: any index gives the same batch every time, whatever was asked before.

    With `shuffle` each epoch has its own order, drawn from (seed, epoch); with `augmentation` each batch its
    own draw, from (seed, epoch, position). With `drop_last` the last, smaller batch of an epoch is left out,
    unless it is the only one.

    >>> images = ImageSet(np.zeros((10, 8, 8, 1), np.uint8), np.arange(10))
    >>> batches = ImageBatches(images, batch_size=4, normalization=UNIT)
    >>> len(batches), batches[2].inputs.shape, batches[3].target.tolist()
    (3, torch.Size([2, 1, 8, 8]), [0, 1, 2, 3])
    """

    images: ImageSet
    batch_size: int = 128
    normalization: Normalization = IMAGENET
    seed: int = 0
    shuffle: bool = False
    augmentation: Augmentation | None = None
    drop_last: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size {self.batch_size}", expected="at least 1")

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole if whole and (self.drop_last or not rest) else whole + 1

    def __getitem__(self, index: int) -> Batch:
        epoch, position = divmod(index, len(self))
        order = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        pixels, labels = self.images.pixels[order], self.images.labels
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, np.random.default_rng((self.seed, epoch, position, 1)))
        inputs = normalized(pixels, self.images.white, self.normalization)
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return Batch(inputs, None if labels is None else torch.from_numpy(labels[order].astype(np.int64)))

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(len(self.images))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.images))


def split(images: ImageSet, share: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Two parts, the first with about `share` (0 to 1) of every class, drawn by `seed`.

    A class of two or more images is in both."""
    if images.labels is None:
        raise InputError("images without labels", expected="labels to split every class alike")
    draw = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(images.labels):
        members = draw.permutation(np.flatnonzero(images.labels == label))
        cut = max(1, min(len(members) - 1, round(share * len(members))))
        first.append(members[:cut])
        second.append(members[cut:])
    return images.take(np.sort(np.concatenate(first))), images.take(np.sort(np.concatenate(second)))
