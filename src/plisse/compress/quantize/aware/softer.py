"""Softenings that follow the curvature of the loss, or harden step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plisse.compress.quantize.aware.noise import Softened
from plisse.compress.quantize.aware.proximal import growing
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import bfloat16_through, spread
from plisse.core.reparam import Reparam
from plisse.errors import InputError
from plisse.train.run import State


@dataclass(frozen=True)
class LossAware:
    """After every step, the importance of every weight on a grid that is fitted to it (`LossAwareBinary`,
    `LossAwareTernary`) becomes sqrt(v) + epsilon, v the moving average of its squared gradients, the
    curvature that Adam knows (Hou, Yao and Kwok 2017; Hou and Kwok 2018). Weights on other grids train
    as without.

    momentum: of the average, 0 to 1, without 1. epsilon: above 0.
    """

    momentum: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if not (0 <= self.momentum < 1 and self.epsilon > 0):
            raise InputError(str(self), expected="a momentum from 0, below 1, and an epsilon above 0")

    def wrapped(self, quantized: Reparam) -> Softened:
        return Weighed(quantized)

    def __call__(self, state: State) -> None:
        for module in state.model.modules():
            if isinstance(module, Weighed):
                module.look(self.momentum, self.epsilon)


class Weighed(Softened):
    def __init__(self, inner: Reparam) -> None:
        super().__init__(inner)
        self.average: Tensor | None = None

    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    def look(self, momentum: float, epsilon: float) -> None:
        inner: Any = self.inner
        weight = getattr(inner.source, "weight", None)
        if not hasattr(inner, "importance") or weight is None or weight.grad is None:
            return
        square = weight.grad.detach().float().square()
        self.average = square if self.average is None else momentum * self.average + (1 - momentum) * square
        inner.importance = (self.average.sqrt() + epsilon).contiguous()


@dataclass(frozen=True)
class Staircase:
    """The forward pass uses a soft staircase that hardens: with u = x / s - floor(x / s) - 1/2 and growing k,
    floor(x / s) + 1/2 + tanh(k u) / (2 tanh(k / 2)), and its own gradient (DSQ, Gong et al. 2019; sums of
    sigmoids annealed, quantization networks, Yang et al. 2019, are the same curve). From the share `until` of
    the steps on, it rounds. Uniform grids; others train as without.

    start: k at the beginning, above 0. until: above 0, at most 1.
    """

    start: float = 2.0
    until: float = 0.75

    def __post_init__(self) -> None:
        if not (0 < self.start < 100 and 0 < self.until <= 1):
            raise InputError(str(self), expected="a start of 0 to 100 and a share above 0, at most 1")

    def wrapped(self, quantized: Reparam) -> Softened:
        return Softstairs(quantized, self.start)

    def __call__(self, state: State) -> None:
        end = max(1, round(self.until * state.steps))
        for module in state.model.modules():
            if isinstance(module, Softstairs):
                hardness = growing(self.start, min(state.step + 1, end), end)
                module.hardness = self.start + hardness


class Softstairs(Softened):
    def __init__(self, inner: Reparam, hardness: float) -> None:
        super().__init__(inner)
        self.hardness = hardness

    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        inner = self.inner
        if not isinstance(inner, FakeQuantized) or math.isinf(self.hardness):
            return rounded
        scale = spread(bfloat16_through(inner.scale), exact, inner.group)
        zero = spread(inner.zero, exact, inner.group)
        place = torch.clamp(exact / scale + zero, inner.form.low, inner.form.high)
        floor = torch.floor(place.detach())
        k = min(self.hardness, 1e4)
        bent = torch.tanh(k * (place - floor - 0.5)) / (2 * math.tanh(k / 2))
        return (floor + 0.5 + bent - zero) * scale


@dataclass(frozen=True)
class AlphaBlending:
    """The forward pass uses (1 - a) w + a q(w) with a from 0 to 1 along a cube, and the gradient
    reaches w through the first term only, (1 - a) g (Liu and Mattina 2019). From the share `until` of the
    steps on it rounds, and weights stay.

    until: above 0, at most 1.
    """

    until: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise InputError(f"until {self.until}", expected="above 0, at most 1, a share of the steps")

    def wrapped(self, quantized: Reparam) -> Softened:
        return Mixed(quantized)

    def __call__(self, state: State) -> None:
        share = min(1.0, (state.step + 1) / max(1.0, self.until * state.steps))
        for module in state.model.modules():
            if isinstance(module, Mixed):
                module.share = 1 - (1 - share) ** 3


class Mixed(Softened):
    def __init__(self, inner: Reparam) -> None:
        super().__init__(inner)
        self.share = 0.0

    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        return (1 - self.share) * exact + self.share * rounded.detach()
