"""Uniform grids: which weights share a scale, and the one place where values become symbols.

x^ = s (clip(round(x / s) + z, q_min, q_max) - z). Symmetric grids have z = 0 and the narrow symbol range
[-(2^(b-1) - 1), 2^(b-1) - 1], or the full one with one more symbol below; affine grids have symbols 0 to
2^b - 1 and an integer z, so that zero is exact either way (Jacob et al. 2018, Krishnamoorthi 2018).

To add a granularity: a frozen dataclass with `group`, `split` and `join`, and a line in the tests' list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from plisse.core.fakequant import round_through
from plisse.errors import InputError, WeightsError

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


def check_finite(values: Tensor) -> Tensor:
    """`values`, or WeightsError for NaN or infinity among them."""
    if not bool(torch.isfinite(values).all()):
        raise WeightsError("a NaN or infinity to quantize", expected="finite values")
    return values


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
    """One scale per output channel (first axis): for an embedding, one per row. Tensors with fewer than two
    axes get a single scale."""

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
class PerBlock:
    """One scale per block of `rows` neighbouring channels times `columns` neighbouring values of each; blocks
    at the ends may be smaller. Tensors with fewer than two axes get a single scale.

    For hardware that wants tiles. The file writes the scale again for every channel of a block, and learned
    steps may drift apart there.

    rows, columns: at least 1.
    """

    rows: int = 4
    columns: int = 16

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise InputError(
                f"blocks of {self.rows} x {self.columns}", expected="at least 1 x 1", hint="PerBlock(4, 16)"
            )

    @property
    def group(self) -> int:
        return self.columns

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        if values.dim() < 2:
            return (values.reshape(1, -1),)
        return tuple(
            part.reshape(-1, height, part.shape[1] // width, width)
            .transpose(1, 2)
            .reshape(-1, height * width)
            for band in self._quarters(values.flatten(1))
            for part, height, width in band
        )

    def join(self, parts: tuple[Tensor, ...], values: Tensor) -> Tensor:
        if values.dim() < 2:
            return parts[0]
        left = iter(parts)
        bands = [
            [
                next(left).reshape(-1, part.shape[1] // width).repeat_interleave(height, 0)
                for part, height, width in band
            ]
            for band in self._quarters(values.flatten(1))
        ]
        return torch.cat([torch.cat(band, 1) for band in bands])

    def _quarters(self, rows: Tensor) -> list[list[tuple[Tensor, int, int]]]:
        """Upper and lower band of [C, W], each its left and right part with the size of its blocks."""
        top, left = (n - n % size for n, size in zip(rows.shape, (self.rows, self.columns), strict=True))
        bands = ((rows[:top], self.rows), (rows[top:], len(rows) - top))
        return [
            [
                (part, height, width)
                for part, width in (
                    (band[:, :left], self.columns),
                    (band[:, left:], rows.shape[1] - left),
                )
                if part.numel()
            ]
            for band, height in bands
            if band.numel()
        ]


@dataclass(frozen=True)
class Format:
    """The symbols of a uniform grid.

    narrow: symmetric grids spare the lowest symbol, so that the range is symmetric too: a step of
    2 max|x| / (2^b - 2) rather than 2 max|x| / (2^b - 1). Affine grids use all symbols.

    >>> Format(4, symmetric=True).low, Format(4, symmetric=True).high, Format(4, symmetric=False).high
    (-7, 7, 15)
    >>> Format(4, narrow=False).low, Format(4, narrow=False).steps
    (-8, 15)
    """

    bits: int
    symmetric: bool = True
    narrow: bool = True

    @property
    def low(self) -> int:
        return -self.high - (not self.narrow) if self.symmetric else 0

    @property
    def steps(self) -> int:
        """Steps between the ends of the range."""
        return self.high - self.low

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
        scale = _bfloat16_above(2 * torch.maximum(low.abs(), high.abs()) / form.steps)
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
