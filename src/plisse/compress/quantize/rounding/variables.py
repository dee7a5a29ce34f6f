"""What is trained while symbols are chosen: roundings, scales, biases and scales of activations.

All are measured in natural units (steps of the grid, shares of a scale, shares of a bias's size), so that one
learning rate suits them all.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plisse.compress.quantize import grids
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rounding.chosen import choose, pinned, real_symbols
from plisse.core.fakequant import InputQuantizer, round_through

ZETA, GAMMA = 1.1, -0.1


class Rounder(Protocol):
    """How the symbols of a weight are varied; a module that trains some of them."""

    def symbols(self) -> Tensor:
        """As they enter the forward pass; real numbers while they are softly rounded."""
        ...

    def final(self) -> Tensor:
        """The choice: real numbers whose nearest whole ones are meant."""
        ...

    def penalty(self, sharpness: float) -> Tensor:
        """Mean over the weights, 1 for an undecided symbol and 0 for a decided one."""
        ...


class Adaptive(nn.Module):
    """floor(w / s + z) + h(V) with the rectified sigmoid h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1), which
    starts where the weight lies (Nagel et al. 2020, equations 22 to 24). Ends 0 or 1: next to the weight."""

    base: Tensor

    def __init__(self, fake: FakeQuantized) -> None:
        super().__init__()
        real = real_symbols(fake)
        base = torch.floor(real).clamp(fake.form.low, fake.form.high - 1)
        self.register_buffer("base", base)
        share = (real - base).clamp(0.01, 0.99)
        self.v = nn.Parameter(-torch.log((ZETA - GAMMA) / (share - GAMMA) - 1))

    def h(self) -> Tensor:
        return torch.clamp(torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def symbols(self) -> Tensor:
        return self.base + self.h()

    def final(self) -> Tensor:
        return self.base + (self.h() >= 0.5).float()

    def penalty(self, sharpness: float) -> Tensor:
        return (1 - (2 * self.h() - 1).abs().pow(sharpness)).mean()


class Continuous(nn.Module):
    """round(w / s + z + t) with t trained and the gradient passed through the rounding (Hubara et al. 2020,
    section 3.1). May end at any symbol."""

    real: Tensor

    def __init__(self, fake: FakeQuantized) -> None:
        super().__init__()
        self.form = fake.form
        self.register_buffer("real", real_symbols(fake))
        self.moved = nn.Parameter(torch.zeros_like(self.real))

    def symbols(self) -> Tensor:
        return torch.clamp(round_through(self.final()), self.form.low, self.form.high)

    def final(self) -> Tensor:
        return self.real + self.moved

    def penalty(self, sharpness: float) -> Tensor:
        return self.real.new_zeros(())


class Scale(nn.Module):
    """s0 exp(rate t) with t trained, rounded to bfloat16; a rate of 0 trains nothing."""

    start: Tensor

    def __init__(self, start: Tensor, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("start", start.detach().clone())
        self.moved = nn.Parameter(torch.zeros_like(start), requires_grad=rate > 0)

    def forward(self) -> Tensor:
        return grids.bfloat16_through(self.start * torch.exp(self.rate * self.moved))


class Weight(nn.Module):
    """A weight in training: (symbols - z) s, with the symbol of zero where the source is exactly zero."""

    zero: Tensor
    held: Tensor

    def __init__(self, fake: FakeQuantized, rounder: Any, scale_rate: float) -> None:
        super().__init__()
        self.group, self.rounder = fake.group, rounder
        self.scale = Scale(fake.scale, scale_rate)
        self.register_buffer("zero", fake.zero.detach().clone())
        self.register_buffer("held", pinned(fake))

    def forward(self) -> Tensor:
        symbols = self.rounder.symbols()
        zero = grids.spread(self.zero, symbols, self.group)
        symbols = torch.where(self.held, zero, symbols)
        return grids.values_of(symbols, grids.spread(self.scale(), symbols, self.group), zero)

    def settle(self, fake: FakeQuantized) -> None:
        """Write the choice into `fake`."""
        with torch.no_grad():
            choose(fake, self.rounder.final(), self.scale() if self.scale.rate > 0 else None)


class Bias(nn.Module):
    """b0 + rate m t with t trained and m the mean magnitude of b0."""

    start: Tensor

    def __init__(self, start: Tensor, rate: float) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().clone())
        self.unit = rate * max(float(start.detach().abs().mean()), 1e-3)
        self.moved = nn.Parameter(torch.zeros_like(start))

    def forward(self) -> Tensor:
        return self.start + self.unit * self.moved


class Dropping(nn.Module):
    """An InputQuantizer in training: every value stays unrounded with probability `drop` (Wei et al. 2022),
    and its scale is trained with the gradient of LSQ (Esser et al. 2020)."""

    zero: Tensor

    def __init__(self, quantizer: InputQuantizer, drop: float, scale_rate: float) -> None:
        super().__init__()
        self.top, self.drop = 2.0**quantizer.bits - 1, drop
        self.scale = Scale(quantizer.scale, scale_rate)
        self.register_buffer("zero", quantizer.zero_point.detach().clone())

    def forward(self, value: Tensor) -> Tensor:
        scale = self.scale()
        symbols = torch.clamp(round_through(value / scale) + self.zero, 0.0, self.top)
        rounded = ((symbols - self.zero) * scale).to(value.dtype)
        if self.drop == 0:
            return rounded
        return torch.where(torch.rand_like(value) < self.drop, value, rounded)

    def settle(self, quantizer: Any) -> None:
        with torch.no_grad():
            quantizer.scale.copy_(self.scale())
