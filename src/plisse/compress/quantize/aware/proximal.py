"""Training without straight-through gradients: weights are drawn to their grid, ever more strongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plisse.compress.quantize.aware.noise import Softened
from plisse.core.reparam import Plain, Reparam
from plisse.errors import InputError
from plisse.train.run import State


def drawn(value: Tensor, rounded: Tensor, strength: float) -> Tensor:
    """(w + lambda q(w)) / (1 + lambda): nearest to w where lambda / 2 (w - q(w))^2 is added to the distance
    |.|^2 / 2. lambda: 0 (w itself) to infinity (q(w)).

    >>> drawn(torch.tensor([0.4]), torch.tensor([1.0]), 1.0)
    tensor([0.7000])
    """
    share = 1.0 if strength == float("inf") else strength / (1 + strength)
    return torch.lerp(value, rounded, share) if share < 1 else rounded.clone()


def growing(strength: float, step: int, steps: int) -> float:
    """lambda = strength t / (1 - t) with t = step / steps: 0 at the start, infinite at the end."""
    return strength * step / (steps - step) if step < steps else float("inf")


@dataclass(frozen=True)
class Proximal:
    """After every step, w <- (w + lambda q(w)) / (1 + lambda); the gradient is that of the weights as they
    are, without rounding (ProxQuant, Bai, Wang and Liberty 2019, algorithm 1). lambda grows to infinity, so
    that the training ends on the grid.

    strength: lambda at half of the training, above 0. Steps add up: at 0.01, a weight is drawn a hundredth
    of the way per step. Weights whose innermost source is not a plain parameter of their shape are left.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        _check(self.strength, "Proximal(0.01)")

    def wrapped(self, quantized: Reparam) -> Softened:
        return Unrounded(quantized)

    def __call__(self, state: State) -> None:
        strength = growing(self.strength, state.step + 1, state.steps)
        for module in state.model.modules():
            if isinstance(module, Unrounded):
                module.pull(strength)


class Unrounded(Softened):
    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        return exact

    def pull(self, strength: float) -> None:
        """Draw the plain weight to the grid, in place."""
        inner: Any = self.inner
        if isinstance(inner.source, Plain):
            with torch.no_grad():
                weight = inner.source.weight
                weight.copy_(drawn(weight, inner().to(weight.dtype), strength))


@dataclass(frozen=True)
class Relaxed:
    """The forward pass uses (w + lambda q(w)) / (1 + lambda) with a growing lambda, and the gradient reaches
    w as if it were w itself (BinaryRelax, Yin et al. 2018; PARQ, Jin et al. 2025, does so with a slope that
    grows). From the share `until` of the steps on, it uses q(w).

    strength: lambda at half of the way to `until`, above 0. until: above 0, at most 1.
    """

    strength: float = 1.0
    until: float = 0.75

    def __post_init__(self) -> None:
        _check(self.strength, "Relaxed(1.0)")
        if not 0 < self.until <= 1:
            raise InputError(f"until {self.until}", expected="above 0, at most 1, a share of the steps")

    def wrapped(self, quantized: Reparam) -> Softened:
        return Between(quantized)

    def __call__(self, state: State) -> None:
        end = max(1, round(self.until * state.steps))
        for module in state.model.modules():
            if isinstance(module, Between):
                module.strength = growing(self.strength, min(state.step + 1, end), end)


class Between(Softened):
    def __init__(self, inner: Reparam) -> None:
        super().__init__(inner)
        self.strength = 0.0

    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        return drawn(exact, rounded.detach(), self.strength).detach() + (exact - exact.detach())


def _check(strength: float, hint: str) -> None:
    if not 0 < strength < float("inf"):
        raise InputError(f"strength {strength}", expected="a number above 0", hint=hint)
