"""The integer network as a module: steps in order, values freed after their last use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plisse.core.batch import Inputs
from plisse.errors import InputError
from plisse.integer.graph import Pieces
from plisse.integer.operators import Operator
from plisse.integer.plan import Plan

Backend = Callable[[Operator], nn.Module]


class IntegerNetwork(nn.Module):
    """Runs a plan on a backend. For inference only: no gradients, and no state dict that could be loaded
    into another network. Deep copies share the packed weights, which nothing changes."""

    def __init__(self, plan: Plan, pieces: Pieces, backend: Backend) -> None:
        super().__init__()
        self.inputs, self.keywords = dict(pieces.inputs), dict(pieces.keywords)
        self.output, self.results = pieces.output, plan.results
        self.operators = nn.ModuleList(backend(step.operator) for step in plan.steps)
        self.names = [step.name for step in plan.steps]
        self.routes = list(_routes(plan))
        self.eval()

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = self._given(args, kwargs)
        for run, (result, sources, last) in zip(self.operators, self.routes, strict=True):
            values[result] = run(*[values[name] for name in sources])
            for name in last:
                del values[name]
        return self.output(*[values[name] for name in self.results])

    @torch.no_grad()
    def replay(self, visit: Callable[[int, tuple[Any, ...], Any], None], inputs: Inputs) -> None:
        """Run, and show every step's number, operands and result to `visit`."""
        values = self._given(*_called(inputs))
        for number, (result, sources, last) in enumerate(self.routes):
            operands = tuple(values[name] for name in sources)
            values[result] = self.operators[number](*operands)
            visit(number, operands, values[result])
            for name in last:
                del values[name]

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self.inputs) or not set(kwargs) <= set(self.keywords):
            raise InputError(
                f"{len(args)} inputs and {', '.join(kwargs) or 'no names'}",
                expected=f"inputs {', '.join(self.keywords)}",
            )
        named = {self.keywords[key]: value for key, value in kwargs.items()}
        return {**self.inputs, **dict(zip(self.inputs, args, strict=False)), **named}


def layer_differences(
    network: IntegerNetwork, other: IntegerNetwork, inputs: Inputs
) -> dict[str, tuple[int, float]]:
    """How far every operator of `other` is off that of `network` on the same operands.

    Both must be made from one network by `to_integer`, on different backends. Gives for each integer result
    the largest difference, in steps of its grid, and the share of symbols that differ.
    """
    found: dict[str, tuple[int, float]] = {}

    def visit(number: int, operands: tuple[Any, ...], result: Any) -> None:
        if isinstance(result, Tensor) and result.dtype == torch.uint8:
            apart = (other.operators[number](*operands).int() - result.int()).abs()
            found[network.routes[number][0]] = int(apart.max()), float((apart > 0).float().mean())

    network.replay(visit, inputs)
    return found


def _called(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _routes(plan: Plan) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """For every step: its result, its operands, and the values that nothing reads after it."""
    needed = set(plan.results)
    routes = []
    for step in reversed(plan.steps):
        last = tuple(name for name in dict.fromkeys(step.sources) if name not in needed)
        needed.update(last)
        routes.append((step.result, step.sources, last))
    return routes[::-1]
