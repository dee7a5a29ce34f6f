"""What an integer network is made of, as plain data. `reference` and `kernels` each turn these into modules.

An activation is uint8 on a `Symbols` grid; only what enters the network, leaves it, or has no integer form
is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plisse.integer.dyadic import Combination, combination
from plisse.integer.weights import IntegerWeight

TOP = 255


@dataclass(frozen=True)
class Symbols:
    """x = (q - zero) scale with q in 0 to `top`, at most 255."""

    scale: float
    zero: int
    top: int = TOP

    def clipped(self, low: float, high: float) -> tuple[int, int]:
        """The symbols to which clipping of values to [low, high] confines."""
        least = 0 if low == -float("inf") else self.zero + round(low / self.scale)
        most = self.top if high == float("inf") else self.zero + round(high / self.scale)
        return min(max(least, 0), self.top), max(min(most, self.top), 0)


@dataclass(frozen=True)
class Clip:
    """Values are confined to [low, high]: ReLU is (0, inf), ReLU6 (0, 6)."""

    low: float = -float("inf")
    high: float = float("inf")

    def then(self, other: Clip) -> Clip:
        return Clip(max(self.low, other.low), min(max(self.high, other.low), other.high))


@dataclass(frozen=True)
class Window:
    """Where a convolution or a pool looks: kernel, stride, padding, dilation per axis, and groups. line: over
    sequences [N, C, T], taken as images of one row."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    ceil: bool = False
    line: bool = False


@dataclass(frozen=True, eq=False)
class Weighted:
    """clip(W x + b [+ r]) for a convolution (with `window`) or a linear layer (without).

    source: grid of x. target: of the result; None gives float32. added: grid of the shortcut r, if any.
    """

    weight: IntegerWeight
    bias: Tensor | None
    source: Symbols
    target: Symbols | None
    window: Window | None = None
    clip: Clip = Clip()
    added: Symbols | None = None

    @property
    def accumulator_scale(self) -> Tensor:
        """s_x s_w: what one unit of the accumulator means, float64 [C]."""
        return self.weight.scale.double() * self.source.scale

    def requantization(self) -> Combination:
        """From accumulator (and shortcut) to steps of `target`."""
        assert self.target is not None
        step = self.target.scale
        ratios = [self.accumulator_scale / step]
        if self.added is not None:
            ratios.append(torch.tensor(self.added.scale / step, dtype=torch.float64))
        return combination(tuple(ratios), 0.0 if self.bias is None else self.bias.double() / step)


@dataclass(frozen=True)
class Addition:
    """clip(a + b) of two activations."""

    first: Symbols
    second: Symbols
    target: Symbols
    clip: Clip = Clip()

    def requantization(self) -> Combination:
        ratios = [torch.tensor(a.scale / self.target.scale).double() for a in (self.first, self.second)]
        return combination(tuple(ratios))


@dataclass(frozen=True)
class Average:
    """Mean over windows, or over all pixels (or times) where `window` is None. `keep`: whether axes stay."""

    source: Symbols
    target: Symbols
    window: Window | None = None
    keep: bool = True

    def requantization(self, count: int) -> Combination:
        """From a sum of `count` symbols."""
        ratio = self.source.scale / (self.target.scale * count)
        return combination((torch.tensor(ratio, dtype=torch.float64),))


@dataclass(frozen=True)
class Requantization:
    """Clip, and another grid: a table with one entry per symbol."""

    source: Symbols
    target: Symbols
    clip: Clip = Clip()

    def table(self) -> Tensor:
        """uint8 [256]."""
        centred = torch.arange(TOP + 1) - self.source.zero
        ratio = torch.tensor(self.source.scale / self.target.scale, dtype=torch.float64)
        low, high = self.target.clipped(self.clip.low, self.clip.high)
        values = combination((ratio,))(centred) + self.target.zero
        return values.clamp(low, high).to(torch.uint8)


@dataclass(frozen=True)
class Maximum:
    """Largest symbol of each window; the grid stays."""

    window: Window


@dataclass(frozen=True, eq=False)
class Movement:
    """Symbols moved, not changed: flatten, slice, transpose, pad with the symbol of zero.

    move: called with the symbols and, where the network computes them, sizes.
    """

    move: Callable[..., Tensor]


@dataclass(frozen=True)
class Entry:
    """From float32 to symbols, as `InputQuantizer` rounds."""

    target: Symbols


@dataclass(frozen=True)
class Exit:
    """From symbols to float32."""

    source: Symbols


@dataclass(frozen=True, eq=False)
class Floating:
    """An operator without an integer form, run as the network runs it."""

    run: Callable[..., Any]


Operator = Weighted | Addition | Average | Requantization | Maximum | Movement | Entry | Exit | Floating
