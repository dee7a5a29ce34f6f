"""Ranges whose scale is a power of two, so that requantization is a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plisse.compress.quantize.grids import Format, scale_and_zero
from plisse.compress.quantize.ranges.family import Interval, Range, over_batches
from plisse.compress.quantize.ranges.mse import MSE


@dataclass(frozen=True)
class PowerOfTwo:
    """The inner range with its scale rounded up to a power of two, s = 2^ceil(log2 s_inner) (Jain et al.
    2020; HPTQ, Habi et al. 2021). The step grows by less than 2, so nothing more is clipped.

    inner: the range that is widened; it sees batches where it can.

    >>> low, high = PowerOfTwo(MSE()).range(torch.tensor([[-1.0, 0.3, 0.9]]), Format(4))
    >>> float(high) / 7
    0.25
    """

    inner: Range = field(default_factory=MSE)

    def range(self, samples: Tensor, form: Format) -> Interval:
        return _widened(*self.inner.range(samples, form), form)

    def over(self, batches: Sequence[Tensor], form: Format) -> Interval:
        return _widened(*over_batches(self.inner, batches, form), form)


def _widened(low: Tensor, high: Tensor, form: Format) -> Interval:
    scale, _ = scale_and_zero(low, high, form)
    mantissa, exponent = torch.frexp(scale)  # 0.5 <= mantissa < 1
    power = torch.ldexp(torch.ones_like(scale), torch.where(mantissa == 0.5, exponent - 1, exponent))
    if form.symmetric:
        reach = power * form.steps / 2
        return -reach, reach
    below = torch.clamp(torch.round(-low / power), 0, form.high)
    return -below * power, (form.high - below) * power
