"""When images are good enough. Batch-norm statistics of real data do not agree with the stored ones either:
those were averaged over training, with augmentation. Below that floor, lower is not more real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from plisse.errors import InputError

REAL_FLOOR = 0.0176
"""BNS of real CIFAR-10 test images on a ResNet-20; of training images 0.0178, of 64 as of 512 images."""


@runtime_checkable
class Stop(Protocol):
    """Contract: a frozen dataclass; called after each iteration with the BNS of all so far, the last one the
    newest; whether that was the last. The list is empty where the network has no statistics."""

    def __call__(self, values: Sequence[float]) -> bool: ...


@dataclass(frozen=True)
class Never:
    """All iterations."""

    def __call__(self, values: Sequence[float]) -> bool:
        return False


@dataclass(frozen=True)
class Floor:
    """Stop where the mean of the last `window` values is at or below `bns`.

    bns: that of real data, where it is known, or of a similar network; default: a ResNet-20 on CIFAR-10.

    >>> Floor(0.02, window=2)([0.05, 0.03, 0.005])
    True
    """

    bns: float = REAL_FLOOR
    window: int = 5

    def __post_init__(self) -> None:
        if not self.bns > 0 or self.window < 1:
            raise InputError(f"{self}", expected="bns above 0, a window of at least 1")

    def __call__(self, values: Sequence[float]) -> bool:
        last = values[-self.window :]
        return len(last) == self.window and sum(last) / self.window <= self.bns


@dataclass(frozen=True)
class Plateau:
    """Stop where the mean of the last `window` values is less than `share` below that of those before.

    >>> Plateau(0.1, window=2)([4.0, 2.0, 1.0, 1.0, 1.0, 0.99])
    True
    """

    share: float = 0.05
    window: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.window < 1:
            raise InputError(f"{self}", expected="a share between 0 and 1, a window of at least 1")

    def __call__(self, values: Sequence[float]) -> bool:
        if len(values) < 2 * self.window:
            return False
        before, last = values[-2 * self.window : -self.window], values[-self.window :]
        return sum(last) > (1 - self.share) * sum(before)
