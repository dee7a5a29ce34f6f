"""A range by rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from plisse.compress.quantize.grids import Format
from plisse.compress.quantize.ranges.family import Interval
from plisse.errors import InputError


@dataclass(frozen=True)
class Percentile:
    """What p percent of the samples stay below, on each side (McKinstry et al. 2019, Wu et al. 2020).

    p: percent, above 50, at most 100 (= MinMax). Nearest rank; symmetric grids take it of the magnitudes.

    >>> import torch
    >>> Percentile(75).range(torch.tensor([[1.0, 2.0, 3.0, 90.0]]), Format(8))[1]
    tensor([3.])
    """

    p: float = 99.9

    def __post_init__(self) -> None:
        if not 50 < self.p <= 100:
            raise InputError(
                f"percentile {self.p}", expected="above 50, at most 100", hint="Percentile(99.9)"
            )

    def range(self, samples: Tensor, form: Format) -> Interval:
        if form.symmetric:
            high = self._rank(samples.abs())
            return -high, high
        return -self._rank(-samples).clamp_min(0), self._rank(samples).clamp_min(0)

    def _rank(self, samples: Tensor) -> Tensor:
        n = samples.shape[1]
        rank = min(n, math.ceil(self.p / 100 * n - 1e-9))
        return samples.kthvalue(rank, 1).values
