"""The operators of an integer network in plain integer arithmetic: slow, exact, the same on every machine."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.integer.dyadic import Combination, requantized
from plisse.integer.operators import (
    Addition,
    Average,
    Entry,
    Exit,
    Floating,
    Maximum,
    Movement,
    Operator,
    Requantization,
    Weighted,
)


class Enter(nn.Module):
    """round(x / s) + z, clipped; the only step that reads floating point."""

    def __init__(self, spec: Entry) -> None:
        super().__init__()
        self.grid = spec.target

    def forward(self, x: Tensor) -> Tensor:
        symbols = torch.round(x / self.grid.scale).add_(self.grid.zero)
        return symbols.clamp_(0, self.grid.top).to(torch.uint8)


class Leave(nn.Module):
    """(q - z) s in float32."""

    def __init__(self, spec: Exit) -> None:
        super().__init__()
        self.grid = spec.source

    def forward(self, q: Tensor) -> Tensor:
        return q.float().sub_(self.grid.zero).mul_(self.grid.scale)


class Run(nn.Module):
    """An operator left in floating point."""

    def __init__(self, spec: Floating) -> None:
        super().__init__()
        self.run = spec.run  # a module is registered, a function kept

    def forward(self, *operands: Tensor) -> Tensor:
        return self.run(*operands)


class Move(nn.Module):
    """Symbols in other places."""

    def __init__(self, spec: Movement) -> None:
        super().__init__()
        self.move = spec.move

    def forward(self, q: Tensor, *sizes: Any) -> Tensor:
        return self.move(q, *sizes)


class Look(nn.Module):
    """A table with an entry per symbol."""

    table: Tensor

    def __init__(self, spec: Requantization) -> None:
        super().__init__()
        self.register_buffer("table", spec.table())

    def forward(self, q: Tensor) -> Tensor:
        return self.table[q.to(torch.int64)]


class Accumulate(nn.Module):
    """Convolution or linear layer: int32 sums of products, then one dyadic requantization in 64 bits."""

    symbols: Tensor

    def __init__(self, spec: Weighted) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("symbols", spec.weight.symbols)
        self.combine = None if spec.target is None else spec.requantization()

    def forward(self, q: Tensor, shortcut: Tensor | None = None) -> Tensor:
        total = self._accumulated(q.to(torch.int32) - self.spec.source.zero)
        axis = 1 if self.spec.window else -1
        if self.spec.target is None or self.combine is None:
            return _dequantized(total, self.spec, axis)
        terms: tuple[Tensor, ...] = (total,)
        if shortcut is not None and self.spec.added is not None:
            terms = (total, shortcut.to(torch.int32) - self.spec.added.zero)
        low, high = self.spec.target.clipped(self.spec.clip.low, self.spec.clip.high)
        return requantized(self.combine, terms, self.spec.target.zero, low, high, axis)

    def _accumulated(self, centred: Tensor) -> Tensor:
        """int32 sums of products. centred: symbols less their zero point, so that padding is zero."""
        weight, window = self.symbols.to(torch.int32), self.spec.window
        if window is None:
            return F.linear(centred, weight)
        wide = _spread(weight, window.dilation)  # torch has no dilated convolution of integers
        pixels = centred.unsqueeze(-2) if window.line else centred
        total = F.conv2d(pixels, wide, None, window.stride, window.padding, 1, window.groups)
        return total.squeeze(-2) if window.line else total


class Add(nn.Module):
    """Two activations on a common scale."""

    def __init__(self, spec: Addition) -> None:
        super().__init__()
        self.spec, self.combine = spec, spec.requantization()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        spec = self.spec
        terms = (a.to(torch.int32) - spec.first.zero, b.to(torch.int32) - spec.second.zero)
        low, high = spec.target.clipped(spec.clip.low, spec.clip.high)
        return requantized(self.combine, terms, spec.target.zero, low, high)


class Mean(nn.Module):
    """A sum, and the division folded into the dyadic multiplier."""

    def __init__(self, spec: Average) -> None:
        super().__init__()
        self.spec = spec
        self.combinations: dict[int, Combination] = {}

    def forward(self, q: Tensor) -> Tensor:
        spec, window = self.spec, self.spec.window
        if window is None:
            axes, count = tuple(range(2, q.dim())), math.prod(q.shape[2:])
            total = q.sum(axes, keepdim=spec.keep, dtype=torch.int64) - count * spec.source.zero
        else:
            count = window.kernel[0] * window.kernel[1]
            centred = q.to(torch.int64) - spec.source.zero
            total = F.avg_pool2d(
                centred, window.kernel, window.stride, window.padding, window.ceil, divisor_override=1
            )
        if count not in self.combinations:
            self.combinations[count] = spec.requantization(count)
        return requantized(self.combinations[count], (total,), spec.target.zero, 0, spec.target.top)


class Largest(nn.Module):
    """Max-pooling of symbols; what lies beyond the edge counts as the smallest."""

    def __init__(self, spec: Maximum) -> None:
        super().__init__()
        self.window = spec.window

    def forward(self, q: Tensor) -> Tensor:
        w = self.window
        pooled = F.max_pool2d(q.to(torch.int32), w.kernel, w.stride, w.padding, w.dilation, w.ceil)
        return pooled.to(torch.uint8)


def _spread(weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The kernel with zeros between its rows and columns."""
    if dilation == (1, 1):
        return weight
    rows, columns = ((n - 1) * step + 1 for n, step in zip(weight.shape[2:], dilation, strict=True))
    wide = weight.new_zeros(*weight.shape[:2], rows, columns)
    wide[:, :, :: dilation[0], :: dilation[1]] = weight
    return wide


def _dequantized(total: Tensor, spec: Weighted, axis: int) -> Tensor:
    """The last accumulator as float32, which is where an integer network ends."""
    shape = [1] * total.dim()
    shape[axis] = -1
    values = total.double() * spec.accumulator_scale.reshape(shape)
    if spec.bias is not None:
        values = values + spec.bias.double().reshape(shape)
    return values.clamp(spec.clip.low, spec.clip.high).float()


def reference(spec: Operator) -> nn.Module:
    """The module of an operator, in integers only."""
    return MODULES[type(spec)](spec)


MODULES: dict[type, type] = {
    Weighted: Accumulate,
    Addition: Add,
    Average: Mean,
    Requantization: Look,
    Maximum: Largest,
    Movement: Move,
    Entry: Enter,
    Exit: Leave,
    Floating: Run,
}
