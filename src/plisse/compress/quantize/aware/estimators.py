"""Gradients that rounding is given in training (family `Estimator`): all round to whole numbers in the
forward pass, and differ in what they let through backward.

To add one: a frozen dataclass with `round`, and a line in tests/contracts/test_estimators.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plisse.core.fakequant import round_through
from plisse.errors import InputError


@dataclass(frozen=True)
class StraightThrough:
    """dQ/dx = 1 (Bengio, Leonard and Courville 2013). Clipping, where a grid ends, stops the gradient.

    >>> StraightThrough().round(torch.tensor([0.4, 1.6]))
    tensor([0., 2.])
    """

    def round(self, value: Tensor) -> Tensor:
        return round_through(value)


@dataclass(frozen=True)
class Clipped:
    """dQ/dx = 1 where |x| <= reach, else 0: the hard tanh of binary networks (Hubara et al. 2016).

    reach: in steps of the grid, above 0. polynomial: 2 - 2 |x| / reach in place of 1, the slope of the
    piecewise polynomial of Bi-Real Net (Liu et al. 2018), which is closer to that of a step.
    """

    reach: float = 1.0
    polynomial: bool = False

    def __post_init__(self) -> None:
        _above_zero("reach", self.reach)

    def round(self, value: Tensor) -> Tensor:
        size = value.detach().abs() / self.reach
        slope = (2 - 2 * size).clamp_min(0) if self.polynomial else (size <= 1).to(value.dtype)
        return _Sloped.apply(value, slope)


@dataclass(frozen=True)
class ElementwiseScaled:
    """EWGS: gradient g becomes g (1 + delta sign(g) (x - round(x))), so that it depends on how far x lies
    from its rounded value, and on which side (Lee, Kim and Ham 2021). delta 0 is straight through.

    delta: 0 to 2, so that no gradient changes its sign; the paper's values lie around 0.001 to 0.2.
    """

    delta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.delta <= 2:
            raise InputError(f"delta {self.delta}", expected="0 to 2", hint="ElementwiseScaled(0.1)")

    def round(self, value: Tensor) -> Tensor:
        return _Scaled.apply(value, self.delta)


@dataclass(frozen=True)
class SoftStep:
    """The slope of a soft staircase: with u = x - floor(x) - 1/2 and k = 1 / temperature,
    dQ/dx = k (1 - tanh(k u)^2) / (2 tanh(k / 2)) (DSQ, Gong et al. 2019). Its mean over a step is 1.

    temperature: 0.03 to 1000; high is straight through, low lets only values near a threshold move. The
    forward pass rounds hard at any temperature.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        if not 0.03 < self.temperature < 1000:
            raise InputError(f"temperature {self.temperature}", expected="0.03 to 1000", hint="SoftStep(0.5)")

    def round(self, value: Tensor) -> Tensor:
        k = 1 / self.temperature
        with torch.no_grad():  # thresholds lie half way between whole numbers
            u = value - torch.floor(value) - 0.5
            slope = k * (1 - torch.tanh(k * u).square()) / (2 * math.tanh(k / 2))
        return _Sloped.apply(value, slope)


@dataclass(frozen=True)
class PolynomialStep:
    """dQ/dx = 2 - 2 |u|, u being the distance to the nearest threshold in half steps, -1 to 1: the piecewise
    polynomial of Bi-Real Net (Liu et al. 2018, section 3.3) at every threshold; for signs there is one."""

    def round(self, value: Tensor) -> Tensor:
        return _Sloped.apply(value, 2 - 2 * _half_steps(value))


@dataclass(frozen=True)
class PowerStep:
    """ReSTE: the step as sign(u) |u|^(1/power), so dQ/dx = |u|^(1/power - 1) / power with u as above (Wu et
    al. 2023, Estimator meets equilibrium, section 4). power 1 is straight through; its mean over a step is 1.

    power: 1 to 10; the paper raises it from 1 to 3. largest: bound on the slope, which is infinite at u = 0.
    """

    power: float = 2.0
    largest: float = 10.0

    def __post_init__(self) -> None:
        if not (1 <= self.power <= 10 and self.largest >= 1):
            raise InputError(
                str(self), expected="a power of 1 to 10, largest at least 1", hint="PowerStep(2.0)"
            )

    def round(self, value: Tensor) -> Tensor:
        u = _half_steps(value).clamp_min(1e-12)
        return _Sloped.apply(value, (u ** (1 / self.power - 1) / self.power).clamp_max(self.largest))


@dataclass(frozen=True)
class RandomRounding:
    """Rounds up with the probability that x lies above its floor: E[Q(x)] = x (Gupta et al. 2015). Straight
    through backward. Draws from torch's generator, which `fit` seeds in every step; networks that are
    evaluated or written round to nearest."""

    def round(self, value: Tensor) -> Tensor:
        with torch.no_grad():
            rounded = torch.floor(value + torch.rand_like(value))
        return _Given.apply(value, rounded)


class _Sloped(torch.autograd.Function):
    """round(value); its gradient times `slope`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return torch.round(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, delta: float) -> Tensor:
        rounded = torch.round(value)
        ctx.save_for_backward(value - rounded)
        ctx.delta = delta
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * (1 + ctx.delta * torch.sign(gradient) * ctx.saved_tensors[0]), None


class _Given(torch.autograd.Function):
    """`rounded`; the gradient passes to `value`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _half_steps(value: Tensor) -> Tensor:
    """Distance from the nearest threshold, 0 to 1; thresholds lie half way between whole numbers."""
    with torch.no_grad():
        return 2 * (value - torch.floor(value) - 0.5).abs()


def _above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name} {value}", expected="above 0")
