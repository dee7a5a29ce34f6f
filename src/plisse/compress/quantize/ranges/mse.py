"""The range with the least rounding error of the samples, by search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plisse.compress.quantize.grids import Format, scale_and_zero, symbols, values_of
from plisse.compress.quantize.ranges.family import Interval
from plisse.compress.quantize.ranges.minmax import MinMax
from plisse.errors import InputError

BLOCK = 1 << 18  # samples that are searched at once, so that they stay in the processor's cache
COARSE, FINE = 24, 12


@dataclass(frozen=True)
class MSE:
    """The share of the min-max range with the least sum of |x - x^|^norm over the samples, by search
    (Choukroun et al. 2019; norm 2.4 weighs outliers more). Never worse than MinMax by that measure.

    norm: above 0; 2 is the squared error.

    For weights of 3 bits and fewer it clips too much: see `OutputMSE`, which weighs errors by the inputs.
    """

    norm: float = 2.0

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise InputError(f"norm {self.norm}", expected="above 0", hint="MSE(2.0)")

    def range(self, samples: Tensor, form: Format) -> Interval:
        return searched(samples, form, self.norm)


def searched(samples: Tensor, form: Format, norm: float, weight: Tensor | None = None) -> Interval:
    """The share of the min-max range with the least sum of weight |x - x^|^norm over the samples.

    samples: [U, n]. weight: of each error, 0 or more, [U, n]; None weighs all alike.
    """
    rows = max(1, BLOCK // samples.shape[1])
    weights = [None] * len(samples) if weight is None else weight.split(rows)
    found = [
        _search(block, form, norm, part) for block, part in zip(samples.split(rows), weights, strict=False)
    ]
    return torch.cat([low for low, _ in found]), torch.cat([high for _, high in found])


def _search(samples: Tensor, form: Format, norm: float, weight: Tensor | None) -> Interval:
    low, high = MinMax().range(samples, form)

    def error(share: Tensor) -> Tensor:  # share [U] to error [U]
        scale, zero = (part[:, None] for part in scale_and_zero(low * share, high * share, form))
        rounded = values_of(symbols(samples, scale, zero, form), scale, zero)
        found = _power(rounded - samples, norm)
        return found.sum(1) if weight is None else found.mul_(weight).sum(1)

    whole = torch.ones_like(high)
    coarse = [whole * (step / COARSE) for step in range(1, COARSE)]
    best, least = _best(error, coarse, whole, error(whole))
    unit = 1 / (COARSE * FINE)
    near = [(best + step * unit).clamp(unit, 1) for step in range(1 - FINE, FINE)]
    best, _ = _best(error, near, best, least)
    return low * best, high * best


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
