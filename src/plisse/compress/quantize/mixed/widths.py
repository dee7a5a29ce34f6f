"""Ways of learning a width for every weight together with the weights (family `WidthLearning`).

Each wraps a weight in a `Learning`, whose trained numbers say how much every width is wanted. The choice
under the budget is made afterwards, by the one solver (`LearnedPrecision`). To add one: a frozen dataclass
with `wrapped`, `penalty` and `__call__`, and a line in tests/compress/test_learned_precision.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from plisse.compress.quantize.fake import FakeQuantized, ScaleGradient
from plisse.compress.quantize.grids import Format
from plisse.compress.quantize.mixed.candidates import Uniformly
from plisse.core.fakequant import round_through
from plisse.core.reparam import Plain, Reparam
from plisse.core.stored import Stored, raw
from plisse.errors import InputError
from plisse.train.run import State

SMALLEST = 1e-12


class Learning(Reparam):
    """A weight whose width is being learned. In training only: it is never written."""

    size: int

    def bits(self) -> Tensor:
        """The width as it is now, or what stands for it, differentiable."""
        raise NotImplementedError

    def losses(self, widths: Sequence[int]) -> list[float]:
        """How much is lost by each width, 0 or more."""
        raise NotImplementedError

    def trained(self) -> Reparam:
        """The weight that is to be rounded at the width chosen."""
        raise NotImplementedError

    def stored(self) -> Stored:
        with torch.no_grad():
            return raw(self.forward().cpu().numpy())


class WidthLearning(Protocol):
    def wrapped(self, source: Reparam, widths: Sequence[int], how: Uniformly) -> Learning: ...

    def penalty(self, model: nn.Module, mean_bits: float) -> Tensor:
        """What is added to the objective for widths that are too large."""
        ...

    def __call__(self, state: State) -> None:
        """A hook of `fit`."""
        ...


@dataclass(frozen=True)
class Blend:
    """EdMIPS (Cai and Vasconcelos 2020), the differentiable search of DNAS (Wu et al. 2018) on weights: the
    forward pass uses sum_b p_b Q_b(w), p = softmax(a), and a is trained with the weights; weight times the
    excess of sum_b p_b b over the mean width is added to the objective. Lost by width b: -log p_b.

    rate: how much faster than weights a is trained, above 0.
    """

    weight: float = 1.0
    rate: float = 10.0

    def __post_init__(self) -> None:
        _positive(self.weight, self.rate)

    def wrapped(self, source: Reparam, widths: Sequence[int], how: Uniformly) -> Learning:
        return Blended(source, widths, how, self.rate)

    def penalty(self, model: nn.Module, mean_bits: float) -> Tensor:
        return self.weight * (mean_width(model) - mean_bits).clamp_min(0)

    def __call__(self, state: State) -> None:
        pass


class Blended(Learning):
    def __init__(self, source: Reparam, widths: Sequence[int], how: Uniformly, rate: float) -> None:
        super().__init__()
        self.source, self.widths, self.rate = source, tuple(widths), rate
        self.size = source().numel()
        grids = [FakeQuantized(source, Format(b, how.symmetric), how.granularity, how.range) for b in widths]
        self.grids = nn.ModuleList(grids)
        self.preference = nn.Parameter(torch.zeros(len(widths)))

    def shares(self) -> Tensor:
        return (self.preference * self.rate).softmax(0)

    def forward(self) -> Tensor:
        shares = self.shares()
        return torch.stack([share * grid() for share, grid in zip(shares, self.grids, strict=True)]).sum(0)

    def bits(self) -> Tensor:
        return (self.shares() * torch.tensor(self.widths, dtype=torch.float32)).sum()

    def losses(self, widths: Sequence[int]) -> list[float]:
        found = dict(zip(self.widths, self.shares().detach().tolist(), strict=True))
        return [-math.log(max(found[bits], SMALLEST)) for bits in widths]

    def trained(self) -> Reparam:
        return self.source


@dataclass(frozen=True)
class LearnedRange:
    """Step d and largest value q of a symmetric grid are trained for every tensor, and with them the width
    log2(q / d + 1) + 1 (Uhlich et al. 2020, Mixed precision DNNs, the parametrization by d and q). weight
    times the excess of the mean width is added. Lost by width b: N times the bits that it lacks.

    Starts at the widest width with q = max|w|. weight: above 0.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.weight)

    def wrapped(self, source: Reparam, widths: Sequence[int], how: Uniformly) -> Learning:
        return Ranged(source, max(widths))

    def penalty(self, model: nn.Module, mean_bits: float) -> Tensor:
        return self.weight * (mean_width(model) - mean_bits).clamp_min(0)

    def __call__(self, state: State) -> None:
        pass


class Ranged(Learning):
    """log_step and log_end: base 2, of d and q."""

    def __init__(self, source: Reparam, widest: int) -> None:
        super().__init__()
        self.source = source
        with torch.no_grad():
            values = source().detach().float()
            end = values.abs().max().clamp_min(SMALLEST)
        self.size = values.numel()
        self.log_end = nn.Parameter(end.log2())
        self.log_step = nn.Parameter((end / (2 ** (widest - 1) - 1)).log2())
        self.factor = max(self.size, 1) ** -0.5

    def forward(self) -> Tensor:
        values = self.source().float()
        end, step = (
            torch.exp2(ScaleGradient.apply(part, self.factor)) for part in (self.log_end, self.log_step)
        )
        inside = torch.maximum(torch.minimum(values, end), -end)
        return step * round_through(inside / step)

    def bits(self) -> Tensor:
        return torch.log2(torch.exp2(self.log_end - self.log_step) + 1) + 1

    def losses(self, widths: Sequence[int]) -> list[float]:
        wanted = float(self.bits().detach())
        return [self.size * max(0.0, wanted - bits) ** 2 for bits in widths]

    def trained(self) -> Reparam:
        return self.source


@dataclass(frozen=True)
class BitPlanes:
    """BSQ (Yang, Duan, Chen and Li 2021): every bit of every weight is trained as a number of 0 to 2,
    w = s round(sum_i 2^i (p_i - n_i)), and weight times the group lasso sum_i |(p_i, n_i)|_2 / sqrt(N) of the
    planes, averaged over weights, empties whole planes. Every `every` steps the planes become the bits of
    the rounded numbers again. Lost by width b: the squared error of rounding what was trained to b bits.

    Takes 2 (b - 1) numbers per weight, b the widest width. weight: above 0. every: at least 1.
    """

    weight: float = 0.1
    every: int = 50

    def __post_init__(self) -> None:
        _positive(self.weight, self.every)

    def wrapped(self, source: Reparam, widths: Sequence[int], how: Uniformly) -> Learning:
        return Planes(source, max(widths), how)

    def penalty(self, model: nn.Module, mean_bits: float) -> Tensor:
        return self.weight * mean_width(model)

    def __call__(self, state: State) -> None:
        last = state.step + 1 == state.steps
        for part in learnings(state.model):
            if isinstance(part, Planes):
                part.limit()
                if last or (state.step + 1) % self.every == 0:
                    part.rebuild()


class Planes(Learning):
    """bits_up, bits_down: p and n, [b - 1, ...]."""

    places: Tensor
    scale: Tensor

    def __init__(self, source: Reparam, widest: int, how: Uniformly) -> None:
        super().__init__()
        self.how, n = how, widest - 1
        with torch.no_grad():
            values = source().detach().float()
            scale = values.abs().max().clamp_min(SMALLEST) / (2**n - 1)
        self.size = values.numel()
        self.register_buffer("scale", scale)
        self.register_buffer("places", 2.0 ** torch.arange(n).reshape(-1, *[1] * values.dim()))
        self.bits_up = nn.Parameter(torch.zeros(n, *values.shape))
        self.bits_down = nn.Parameter(torch.zeros(n, *values.shape))
        self._write(torch.round(values / scale))

    def forward(self) -> Tensor:
        return self.scale * round_through(((self.bits_up - self.bits_down) * self.places).sum(0))

    def bits(self) -> Tensor:
        energy = self.bits_up.square().flatten(1).sum(1) + self.bits_down.square().flatten(1).sum(1)
        return ((energy + SMALLEST) / max(self.size, 1)).sqrt().sum() + 1

    def losses(self, widths: Sequence[int]) -> list[float]:
        source = self.trained()
        values = source().detach()
        energy = float(values.square().sum()) + SMALLEST
        rounded = [self.how.rounded(source, bits)().detach() for bits in widths]
        return [self.size * float((each - values).square().sum()) / energy for each in rounded]

    def trained(self) -> Reparam:
        return Plain(self.forward().detach())

    def limit(self) -> None:
        with torch.no_grad():
            self.bits_up.clamp_(0, 2)
            self.bits_down.clamp_(0, 2)

    def rebuild(self) -> None:
        """Planes become the bits of the numbers that they add up to, in place."""
        with torch.no_grad():
            self._write(torch.round(self.forward() / self.scale))

    def _write(self, whole: Tensor) -> None:
        top = 2 ** len(self.places) - 1
        size = whole.abs().clamp_max(top)[None]
        found = torch.remainder(torch.floor(size / self.places), 2)
        with torch.no_grad():
            self.bits_up.copy_(found * (whole > 0))
            self.bits_down.copy_(found * (whole < 0))


def learnings(model: nn.Module) -> Iterator[Learning]:
    """Every weight of `model` whose width is being learned."""
    return (module for module in model.modules() if isinstance(module, Learning))


def mean_width(model: nn.Module) -> Tensor:
    """The mean of `bits` over all weights that are being learned, each value counted once."""
    parts = list(learnings(model))
    return torch.stack([part.size * part.bits() for part in parts]).sum() / sum(part.size for part in parts)


def _positive(*numbers: float) -> None:
    if not all(0 < number < float("inf") for number in numbers):
        raise InputError(f"settings {numbers}", expected="numbers above 0")
