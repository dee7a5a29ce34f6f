"""Changes of whole batches for training: mixtures of samples, squares left out. Values, drawn by index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from plisse.core.batch import Batch, Batches, first_tensor, map_inputs
from plisse.errors import InputError


@runtime_checkable
class Transform(Protocol):
    """Contract: a frozen dataclass; (batch, generator) to a batch with inputs of the same shape; the given
    one stays as it is."""

    def __call__(self, batch: Batch, draw: np.random.Generator) -> Batch: ...


@dataclass(frozen=True)
class MixUp:
    """x = share * x_i + (1 - share) * x_j, share from Beta(alpha, alpha), j a permutation; one share a batch.

    Targets are left out: a mixture has none. Meant for training with a teacher, who answers to the mixture
    itself. Source: Zhang et al. 2018, with the teacher's answers as in Haroush et al. 2020.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise InputError(f"alpha {self.alpha}", expected="a number above zero")

    def __call__(self, batch: Batch, draw: np.random.Generator) -> Batch:
        share = float(draw.beta(self.alpha, self.alpha))
        order = torch.from_numpy(draw.permutation(len(first_tensor(batch.inputs))))

        def mixed(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                raise InputError(f"inputs of type {value.dtype} to mix", expected="floats, such as images")
            return share * value + (1 - share) * value[order]

        return Batch(map_inputs(batch.inputs, mixed))


@dataclass(frozen=True)
class CutOut:
    """Set squares of images [N, C, H, W] to 0, the mean of normalized ones; each image has its own.

    holes: squares per image. size: their side as a share of the image's; squares may reach over the border.
    Source: DeVries and Taylor 2017.
    """

    holes: int = 1
    size: float = 0.5

    def __post_init__(self) -> None:
        if self.holes < 1 or not 0 < self.size <= 1:
            raise InputError(f"{self}", expected="at least one hole, of a share above 0 and up to 1")

    def __call__(self, batch: Batch, draw: np.random.Generator) -> Batch:
        images = batch.inputs
        if not isinstance(images, Tensor) or images.dim() != 4:
            raise InputError(
                "inputs that are no images to cut squares from", expected="one tensor [N, C, H, W]"
            )
        n, _, height, width = images.shape
        covered = np.zeros((n, height, width), bool)
        for _ in range(self.holes):
            rows, columns = (self._inside(n, side, draw) for side in (height, width))
            covered |= rows[:, :, None] & columns[:, None, :]
        return Batch(images.masked_fill(torch.from_numpy(covered)[:, None], 0.0), batch.target)

    def _inside(self, n: int, side: int, draw: np.random.Generator) -> np.ndarray:
        """Which of `side` positions are covered, for every image, [N, side]."""
        reach = max(1, round(self.size * side))
        first = draw.integers(0, side, (n, 1)) - reach // 2
        places = np.arange(side)[None]
        return (places >= first) & (places < first + reach)


@dataclass(frozen=True, eq=False)
class Transformed:
    """`Batches` with changes one after the other; batch i is changed by what (seed, i) draws.

    >>> from plisse.core.batch import BatchList
    >>> plain = BatchList((Batch(torch.ones(2, 1, 8, 8)),))
    >>> float(Transformed(plain, (CutOut(size=1.0),))[0].inputs.mean()) < 1
    True
    """

    batches: Batches
    transforms: tuple[Transform, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        draw = np.random.default_rng((self.seed, index, 2))
        batch = self.batches[index]
        for transform in self.transforms:
            batch = transform(batch, draw)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))


def transformed(batches: Batches, transforms: tuple[Transform, ...], seed: int = 0) -> Batches:
    """`batches` changed by `transforms`; the same where there are none."""
    return Transformed(batches, transforms, seed) if transforms else batches
