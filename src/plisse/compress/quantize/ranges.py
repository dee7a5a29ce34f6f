"""Ranges (calibrators): which interval [low, high] a uniform grid should span, given samples of each unit.

All are vectorised over the units, the rows of `samples` [U, n], and give low [U] and high [U] with
low <= 0 <= high. Symmetric grids get low = -high.

To add one: a frozen dataclass with `range`, a line in the list of tests/contracts/test_ranges.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from plisse.compress.quantize.grids import Format, scale_and_zero, symbols, values_of
from plisse.errors import InputError

BLOCK = 1 << 18  # samples that are searched at once, so that they stay in the processor's cache
COARSE, FINE = 24, 12


class Range(Protocol):
    """Contract: tests/contracts/test_ranges.py."""

    def range(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class MinMax:
    """The whole range of the samples. Clips nothing; one outlier widens every step.

    >>> MinMax().range(torch.tensor([[-1.0, 0.0, 3.0]]), Format(8, symmetric=False))
    (tensor([-1.]), tensor([3.]))
    """

    def range(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]:
        low, high = samples.amin(1).clamp_max(0), samples.amax(1).clamp_min(0)
        return _balanced(low, high, form)


@dataclass(frozen=True)
class Percentile:
    """What p percent of the samples stay below, on each side (McKinstry et al. 2019, Wu et al. 2020).

    p: percent, above 50, at most 100 (= MinMax). Nearest rank; symmetric grids take it of the magnitudes.
    """

    p: float = 99.9

    def __post_init__(self) -> None:
        if not 50 < self.p <= 100:
            raise InputError(
                f"percentile {self.p}", expected="above 50, at most 100", hint="Percentile(99.9)"
            )

    def range(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]:
        if form.symmetric:
            high = self._rank(samples.abs())
            return -high, high
        return -self._rank(-samples).clamp_min(0), self._rank(samples).clamp_min(0)

    def _rank(self, samples: Tensor) -> Tensor:
        n = samples.shape[1]
        rank = min(n, math.ceil(self.p / 100 * n - 1e-9))
        return samples.kthvalue(rank, 1).values


@dataclass(frozen=True)
class MSE:
    """The share of the min-max range with the least sum of |x - x^|^norm over the samples, by search
    (Choukroun et al. 2019; norm 2.4 weighs outliers more). Never worse than MinMax by that measure.

    norm: above 0; 2 is the squared error.
    """

    norm: float = 2.0

    def __post_init__(self) -> None:
        if self.norm <= 0:
            raise InputError(f"norm {self.norm}", expected="above 0", hint="MSE(2.0)")

    def range(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]:
        rows = max(1, BLOCK // samples.shape[1])
        found = [self._search(block, form) for block in samples.split(rows)]
        return torch.cat([low for low, _ in found]), torch.cat([high for _, high in found])

    def _search(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]:
        low, high = MinMax().range(samples, form)

        def error(share: Tensor) -> Tensor:  # share [U] to error [U]
            scale, zero = (part[:, None] for part in scale_and_zero(low * share, high * share, form))
            rounded = values_of(symbols(samples, scale, zero, form), scale, zero)
            return _power(rounded - samples, self.norm).sum(1)

        whole = torch.ones_like(high)
        coarse = [whole * (step / COARSE) for step in range(1, COARSE)]
        best, least = _best(error, coarse, whole, error(whole))
        unit = 1 / (COARSE * FINE)
        near = [(best + step * unit).clamp(unit, 1) for step in range(1 - FINE, FINE)]
        best, _ = _best(error, near, best, least)
        return low * best, high * best


@dataclass(frozen=True)
class MeanMagnitude:
    """The step s = 2 E|x| / sqrt(q_max) where learned steps start (LSQ, Esser et al. 2020, section 2.1)."""

    def range(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]:
        reach = 2 * samples.abs().mean(1) * form.high**0.5
        low, high = MinMax().range(samples, form)
        if form.symmetric:
            return -reach, reach
        share = reach / (high - low).clamp_min(1e-30)
        return low * share, high * share


def _balanced(low: Tensor, high: Tensor, form: Format) -> tuple[Tensor, Tensor]:
    reach = torch.maximum(-low, high)
    return (-reach, reach) if form.symmetric else (low, high)


def _best(
    error: Callable[[Tensor], Tensor], candidates: list[Tensor], best: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    """Per unit, the candidate with the least error, or `best` where none has less than `least`."""
    for candidate in candidates:
        found = error(candidate)
        best = torch.where(found < least, candidate, best)
        least = torch.minimum(found, least)
    return best, least


def _power(error: Tensor, norm: float) -> Tensor:
    return error.square_() if norm == 2 else error.abs_().pow_(norm)
