"""A step: one offline change of a network, as a printable value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from plisse.train.task import Task


@runtime_checkable
class Step(Protocol):
    """Contract: a frozen dataclass, comparable, saved in recipes; calling it returns a new network and leaves
    the given one, its tensors and its training flag as they were. The result may be a `Reparametrized`."""

    def __call__(self, model: nn.Module, task: Task) -> nn.Module: ...


@dataclass(frozen=True)
class Chain:
    """Steps one after the other."""

    steps: tuple[Step, ...]

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        for step in self.steps:
            model = step(model, task)
        return model


def chain(*steps: Step) -> Chain:
    """Join steps; chains within chains are flattened."""
    flat: list[Step] = []
    for step in steps:
        flat.extend(step.steps if isinstance(step, Chain) else [step])
    return Chain(tuple(flat))
