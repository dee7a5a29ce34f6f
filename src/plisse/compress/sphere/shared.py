"""One grid for all weights of one fan-in: all that quantization needs once rows are on the unit sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from plisse.compress.quantize.codebooks.onlevels import finite_values
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, Granularity, PerTensor, check_bits
from plisse.compress.quantize.ranges import MSE
from plisse.core.reparam import Reparam
from plisse.errors import InputError

NEAR = 1e-3


@dataclass(frozen=True)
class SharedGrid:
    """A uniform grid whose step follows from bits and fan-in d alone: c(bits) stretch / sqrt(d), for tensors
    whose rows have norm 1, as `Canonicalize` makes them. The coordinates of a uniform unit vector have
    variance 1 / d and are nearly normal; c(bits) is the step of least squared error for N(0, 1).

    One number per tensor is in the file, none per channel. Tensors with other rows (the last layer, layers
    whose scale is shared with a shortcut) get `elsewhere` with ranges of least squared error.

    bits: 2 to 8. stretch: above 0; more than 1 for heavier tails than the normal ones. For use as
    `Quantize(grid=SharedGrid(4))`, after `Canonicalize()`.

    >>> from plisse.core.reparam import Plain
    >>> rows = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    >>> [round(float(s), 3) for s in SharedGrid(4).quantized(Plain(rows)).scale]
    [0.25]
    """

    bits: int = 4
    stretch: float = 1.0
    elsewhere: Granularity = field(default_factory=PerTensor)

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not 0 < self.stretch < math.inf:
            raise InputError(f"stretch={self.stretch}", expected="a number above 0")

    def quantized(self, source: Reparam) -> Reparam:
        form = Format(self.bits)
        values = finite_values(source)
        if not unit_rows(values):
            return FakeQuantized(source, form, self.elsewhere, MSE())
        step = gaussian_step(self.bits) * self.stretch / math.sqrt(values[0].numel())
        return FakeQuantized(source, form, PerTensor(), _UpTo(step * form.high))


@dataclass(frozen=True)
class _UpTo:
    """The range [-limit, limit], whatever the samples."""

    limit: float

    def range(self, samples: Tensor, form: Format) -> tuple[Tensor, Tensor]:
        end = samples.new_full((len(samples),), self.limit)
        return -end, end


def unit_rows(values: Tensor) -> bool:
    """Whether every row (first axis) has norm 1, or 0."""
    if values.dim() < 2 or not values.numel():
        return False
    norms = values.flatten(1).norm(dim=1)
    return bool(((norms - 1).abs() < NEAR).logical_or(norms == 0).all())


@cache
def gaussian_step(bits: int) -> float:
    """The step of the symmetric grid of 2^bits - 1 values with least E[(x - x^)^2], x ~ N(0, 1).

    >>> [round(gaussian_step(bits), 3) for bits in (2, 3, 4)]
    [1.224, 0.651, 0.353]
    """
    x = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = torch.exp(-x * x / 2)
    high = Format(bits).high

    def error(step: float) -> float:
        return float((density * (x - step * torch.clamp(torch.round(x / step), -high, high)).square()).sum())

    low, top = 0.5 / high, 4.0 / high + 0.5
    for _ in range(60):  # golden section
        a, b = top - (top - low) * 0.6180339887, low + (top - low) * 0.6180339887
        low, top = (low, b) if error(a) < error(b) else (a, top)
    return (low + top) / 2
