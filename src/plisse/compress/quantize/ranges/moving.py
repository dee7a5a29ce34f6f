"""A range that forgets: the average over batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from plisse.compress.quantize.grids import Format
from plisse.compress.quantize.ranges.family import Interval, Range
from plisse.compress.quantize.ranges.minmax import MinMax
from plisse.errors import InputError


@dataclass(frozen=True)
class MovingAverage:
    """The exponential average of each batch's range: r <- m r + (1 - m) r_batch, from the first batch's
    (Jacob et al. 2018, section 3.1). One wild batch moves it by a share of 1 - m only.

    momentum: m, 0 (the last batch) up to, not including, 1. inner: the range of one batch. Weights, and
    samples without batches, count as one batch.

    >>> import torch
    >>> batches = [torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 3.0]])]
    >>> MovingAverage(0.5).over(batches, Format(8, symmetric=False))[1]
    tensor([2.])
    """

    momentum: float = 0.9
    inner: Range = field(default_factory=MinMax)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"momentum {self.momentum}", expected="0 or more, below 1", hint="MovingAverage(0.9)"
            )

    def range(self, samples: Tensor, form: Format) -> Interval:
        return self.inner.range(samples, form)

    def over(self, batches: Sequence[Tensor], form: Format) -> Interval:
        low, high = self.inner.range(batches[0], form)
        for samples in batches[1:]:
            below, above = self.inner.range(samples, form)
            low, high = low.lerp(below, 1 - self.momentum), high.lerp(above, 1 - self.momentum)
        return low, high
