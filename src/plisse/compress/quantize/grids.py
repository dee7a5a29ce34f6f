"""Uniform grids: which weights share a scale, and the one place where values become symbols.

x^ = s (clip(round(x / s) + z, q_min, q_max) - z). Symmetric grids have z = 0 and the narrow symbol range
[-(2^(b-1) - 1), 2^(b-1) - 1]; affine grids have symbols 0 to 2^b - 1 and an integer z, so that zero is exact
either way (Jacob et al. 2018, Krishnamoorthi 2018).

To add a granularity: a frozen dataclass with `group`, `split` and `join`, and a line in the tests' list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from plisse.core.fakequant import round_through
from plisse.errors import InputError

SMALLEST = 1.2e-38  # a scale is never zero; the same floor as core.stored.to_bfloat16


class Granularity(Protocol):
    """Which values share one scale. `group` is what `Uniform.group` says: 0 unless channels have groups."""

    @property
    def group(self) -> int: ...

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """The units of a tensor, as blocks [U, n] of units with equally many values."""
        ...

    def join(self, parts: tuple[Tensor, ...], values: Tensor) -> Tensor:
        """One number per unit of each block, arranged as `Uniform.scale` wants it."""
        ...


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""

    @property
    def group(self) -> int:
        return 0

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        return (values.reshape(1, -1),)

    def join(self, parts: tuple[Tensor, ...], values: Tensor) -> Tensor:
        return parts[0]


@dataclass(frozen=True)
class PerChannel:
    """One scale per output channel (first axis). Tensors with fewer than two axes get a single scale."""

    @property
    def group(self) -> int:
        return 0

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        return (values.flatten(1) if values.dim() > 1 else values.reshape(1, -1),)

    def join(self, parts: tuple[Tensor, ...], values: Tensor) -> Tensor:
        return parts[0]


@dataclass(frozen=True)
class PerGroup:
    """One scale per `size` neighbouring values of a flattened channel; a channel's last group may be shorter
    (Shen et al. 2020). Tensors with fewer than two axes get a single scale.

    size: values per group, at least 1.
    """

    size: int = 64

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"groups of {self.size} values", expected="at least 1", hint="PerGroup(64)")

    @property
    def group(self) -> int:
        return self.size

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        if values.dim() < 2:
            return (values.reshape(1, -1),)
        rows = values.flatten(1)
        whole = rows.shape[1] - rows.shape[1] % self.size
        blocks = rows[:, :whole].reshape(-1, self.size), rows[:, whole:]
        return tuple(block for block in blocks if block.numel())

    def join(self, parts: tuple[Tensor, ...], values: Tensor) -> Tensor:
        if values.dim() < 2:
            return parts[0]
        return torch.cat([part.reshape(values.shape[0], -1) for part in parts], 1)


@dataclass(frozen=True)
class Format:
    """The symbols of a uniform grid.

    >>> Format(4, symmetric=True).low, Format(4, symmetric=True).high, Format(4, symmetric=False).high
    (-7, 7, 15)
    """

    bits: int
    symmetric: bool = True

    @property
    def low(self) -> int:
        return -self.high if self.symmetric else 0

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1


def check_bits(bits: int) -> None:
    """Raise InputError unless 2 <= bits <= 8."""
    if not 2 <= bits <= 8:
        raise InputError(f"{bits} bits", expected="2 to 8 bits per value", hint="bits=4")


def bfloat16_through(scale: Tensor) -> Tensor:
    """The magnitude rounded to bfloat16 (never 0), kept as float32; the gradient passes the rounding."""
    size = scale.abs()
    kept = size.detach().clamp_min(SMALLEST).to(torch.bfloat16).float()
    return kept + (size - size.detach())


def scale_and_zero(low: Tensor, high: Tensor, form: Format) -> tuple[Tensor, Tensor]:
    """Scale (bfloat16 numbers) and zero point (integers, as float32) of ranges low [U] to high [U].

    The range is widened to hold zero. The scale is rounded up, so that no value within the range is off by
    more than half a step, and before the zero point is chosen.
    """
    if form.symmetric:
        scale = _bfloat16_above(torch.maximum(low.abs(), high.abs()) / form.high)
        return scale, torch.zeros_like(scale)
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = _bfloat16_above((high - low) / form.high)
    return scale, torch.clamp(torch.round(-low / scale), 0, form.high)


def _bfloat16_above(scale: Tensor) -> Tensor:
    nearest = bfloat16_through(scale)
    return torch.where(nearest < scale, bfloat16_through(scale * (1 + 2**-8)), nearest)


def spread(per_unit: Tensor, values: Tensor, group: int) -> Tensor:
    """One number per unit, repeated so that it broadcasts against `values`: core.stored.spread for torch."""
    if per_unit.dim() == 1:
        wide = per_unit.numel() > 1
        return per_unit.reshape(-1, *([1] * (values.dim() - 1))) if wide else per_unit.reshape(())
    width = values[0].numel()
    return per_unit.repeat_interleave(group, 1)[:, :width].reshape(values.shape)


def symbols(values: Tensor, scale: Tensor, zero: Tensor, form: Format) -> Tensor:
    """The symbols of `values`, whole numbers in float32; scale and zero broadcast against the values.

    Everything that rounds weights goes through here, so that a forward pass and a file agree bit for bit.
    Differentiable: rounding passes the gradient, clipping stops it.
    """
    return torch.clamp(round_through(values / scale) + zero, form.low, form.high)


def values_of(symbols: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The inverse of `symbols` up to rounding: one multiplication in float32 per value, as Stored.values."""
    return (symbols - zero) * scale
