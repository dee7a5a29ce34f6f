"""Weights that jump to and fro between two levels at the end of training: freeze or damp them
(Nagel, Fournarakis, Bondarenko and Blankevoort 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.quantize import grids
from plisse.compress.quantize.fake import FakeQuantized
from plisse.core.reparam import Plain
from plisse.errors import InputError
from plisse.train.run import State


@dataclass(frozen=True)
class FreezeOscillating:
    """A weight whose symbol turns back more often than `threshold` per step, by a moving average, is fixed at
    the level where it was most (algorithm 1). Plain weights on uniform grids only.

    threshold: above 0, below 1, turns per step. momentum: of the averages, above 0, at most 1. begin: share
    of the steps before which nothing is frozen, 0 to 1.
    """

    threshold: float = 0.02
    momentum: float = 0.01
    begin: float = 0.25

    def __post_init__(self) -> None:
        if not (0 < self.threshold < 1 and 0 < self.momentum <= 1 and 0 <= self.begin <= 1):
            raise InputError(str(self), expected="a threshold, momentum and begin between 0 and 1")

    def hook(self) -> Freezing:
        return Freezing(self)


@dataclass
class Freezing:
    """The hook of `fit`, with what it remembers of every weight: a new one for every training."""

    how: FreezeOscillating
    memory: dict[str, _Memory] = field(default_factory=dict)

    def __call__(self, state: State) -> None:
        freezing = state.step >= self.how.begin * state.steps
        with torch.no_grad():
            for name, grid in plain_grids(state.model):
                symbols, scale, zero = grid._symbols()
                memory = self.memory.setdefault(name, _Memory(symbols))
                memory.look(symbols, self.how.momentum)
                if freezing:
                    memory.freeze(symbols, self.how.threshold)
                weight: Tensor = grid.source.weight  # type: ignore[assignment]
                pinned = grids.values_of(memory.pin, scale, zero).to(weight.dtype)
                weight.copy_(torch.where(memory.frozen, pinned, weight))


class _Memory:
    """Of one tensor: last symbols, the sign of their last change, averages of turns and symbols, what is
    frozen and at which symbol."""

    def __init__(self, symbols: Tensor) -> None:
        self.last, self.mean, self.pin = symbols.clone(), symbols.clone(), symbols.clone()
        self.sign, self.turns = torch.zeros_like(symbols), torch.zeros_like(symbols)
        self.frozen = torch.zeros_like(symbols, dtype=torch.bool)

    def look(self, symbols: Tensor, momentum: float) -> None:
        change = torch.sign(symbols - self.last)
        turned = (change * self.sign < 0).to(symbols.dtype)
        self.turns.lerp_(turned, momentum)
        self.mean.lerp_(symbols, momentum)
        self.sign = torch.where(change != 0, change, self.sign)
        self.last = symbols.clone()

    def freeze(self, symbols: Tensor, threshold: float) -> None:
        new = (self.turns > threshold) & ~self.frozen
        self.pin = torch.where(new, torch.round(self.mean), self.pin)
        self.frozen |= new


@dataclass(frozen=True)
class DampOscillating:
    """Adds weight * sum of (q(w) - w)^2 over weights within their range: draws weights to the middle of their
    interval. weight: 0 or more."""

    weight: float = 1e-3

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"weight {self.weight}", expected="0 or more")


def rounding_energy(model: nn.Module) -> Tensor:
    """The sum of (q(w) - w)^2 over all weights on uniform grids, those clipped left out; q(w) is constant."""
    parts = []
    for _, grid in plain_grids(model):
        values = grid.source()
        with torch.no_grad():
            symbols, scale, zero = grid._symbols()
            inside = (torch.round(values / scale) + zero) == symbols
        parts.append(((grids.values_of(symbols, scale, zero).detach() - values) * inside).square().sum())
    return torch.stack(parts).sum() if parts else torch.zeros(())


def plain_grids(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every uniform grid over a plain weight, by the name of its module."""
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantized) and isinstance(module.source, Plain):
            yield name, module
