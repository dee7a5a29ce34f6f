"""Train the variables of one unit until its output is near the original's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from plisse.compress.quantize.rounding.capture import Call
from plisse.core import modules
from plisse.core.batch import Batch, main_output
from plisse.train.run import State
from plisse.train.task import Divergence, Loss

WARM = 0.2
SHARPEST, BLUNTEST = 20.0, 2.0


class Trained(nn.Module):
    """A unit with variables in the place of its weights, biases and input quantizers.

    tensors: variables by the name of the tensor within the unit. inputs: by the name of the quantizer.
    """

    def __init__(
        self, unit: nn.Module, tensors: Mapping[str, nn.Module], inputs: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        self.unit = (unit,)  # in a tuple: no part of this network, so that it stays in evaluation mode
        self.tensors, self.inputs = _table(tensors), _table(inputs)

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        values = {_name(key): part() for key, part in self.tensors.items()}
        with _replaced(self.unit[0], {_name(key): part for key, part in self.inputs.items()}):
            return main_output(functional_call(self.unit[0], values, args, kwargs))

    def by_name(self) -> dict[str, Any]:
        """Every variable by what it stands for."""
        return {_name(key): part for table in (self.tensors, self.inputs) for key, part in table.items()}

    def penalty(self, sharpness: float) -> Tensor:
        """Mean over the weights, see `Rounder`."""
        rounders: list[Any] = [part.rounder for part in self.tensors.values() if hasattr(part, "rounder")]
        return torch.stack([rounder.penalty(sharpness) for rounder in rounders]).mean()


@dataclass
class Nearness:
    """The objective: E[weight (output - wanted)^2] / unit + strength penalty(sharpness), or, with a
    divergence, that of outputs in the place of the first term.

    unit: the error before training. importance: the weights, one per value of every call's output. strength:
    of the penalty; it comes after a warm start, and its sharpness falls from 20 to 2 (Nagel et al. 2020,
    section 3.2). mixed: the probability with which a value of the original's inputs takes the place of the
    rounded network's (Wei et al. 2022).
    """

    calls: tuple[Call, ...]
    wanted: tuple[Call, ...]
    unit: float
    importance: tuple[Tensor, ...] | None = None
    divergence: Divergence | None = None
    strength: float = 0.0
    mixed: float = 0.0
    done: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        picked: Any = batch.inputs
        index, rows = int(picked[0]), picked[1:]
        came, wanted = self.calls[index].rows(rows), self.wanted[index].rows(rows)
        output = model(mixed(came.args, wanted.args, self.mixed), came.kwargs).float()
        total = self._error(output, wanted.output, index, rows) / self.unit
        if self.strength > 0 and self.done >= WARM:
            share = (self.done - WARM) / (1 - WARM)
            sharpness = BLUNTEST + (SHARPEST - BLUNTEST) * 0.5 * (1 + float(np.cos(share * np.pi)))
            total = total + self.strength * model.penalty(sharpness)  # type: ignore[operator]
        return Loss(total)

    def hook(self, state: State) -> None:
        """For `fit`: tells how much of the training is done."""
        self.done = (state.step + 1) / state.steps

    def measured(self, model: nn.Module) -> float:
        """The error over all calls."""
        total, n = 0.0, 0
        with torch.no_grad():
            for index, (came, wanted) in enumerate(zip(self.calls, self.wanted, strict=True)):
                for rows in torch.arange(came.n).split(256):
                    part, goal = came.rows(rows), wanted.rows(rows)
                    output = model(part.args, part.kwargs).float()
                    total += float(self._error(output, goal.output, index, rows)) * len(rows)
                    n += len(rows)
        return total / max(n, 1)

    def _error(self, output: Tensor, wanted: Tensor, index: int, rows: Tensor) -> Tensor:
        if self.divergence is not None:
            return self.divergence(wanted, output)
        error = (output - wanted).square()
        return error.mean() if self.importance is None else (error * self.importance[index][rows]).mean()


@dataclass(frozen=True, eq=False)
class Draws:
    """Batches of [which call, which rows of it], drawn by index alone."""

    calls: tuple[Call, ...]
    batch: int
    seed: int

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, index: int) -> Batch:
        draw = np.random.default_rng((self.seed, index))
        sizes = np.array([each.n for each in self.calls], float)
        which = int(draw.choice(len(sizes), p=sizes / sizes.sum()))
        rows = draw.permutation(self.calls[which].n)[: self.batch]
        return Batch(torch.from_numpy(np.concatenate([[which], rows])))

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))


def mixed(came: tuple[Any, ...], wanted: tuple[Any, ...], share: float) -> tuple[Any, ...]:
    """The first argument with a `share` of its values taken from the other call's."""
    if share == 0 or not came or not isinstance(came[0], Tensor) or not came[0].is_floating_point():
        return came
    return (torch.where(torch.rand_like(came[0]) < share, wanted[0], came[0]), *came[1:])


@contextmanager
def _replaced(unit: nn.Module, parts: dict[str, nn.Module]) -> Iterator[None]:
    """`parts` in the place of modules of the unit."""
    before = {name: unit.get_submodule(name) for name in parts}
    for name, part in parts.items():
        modules.replace(unit, name, part)
    try:
        yield
    finally:
        for name, part in before.items():
            modules.replace(unit, name, part)


def _table(parts: Mapping[str, nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({name.replace(".", "|") or "|": part for name, part in parts.items()})


def _name(key: str) -> str:
    return "" if key == "|" else key.replace("|", ".")
