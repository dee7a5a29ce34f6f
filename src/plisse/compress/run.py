"""One compression as it goes: run a step, write the file, time the network, note what was saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.correct import BiasCorrection
from plisse.compress.finetune import FineTune, ReestimateNorm
from plisse.compress.notes import notes_of
from plisse.compress.quantize.compensate import Compensate
from plisse.compress.result import StepRow, TensorRow
from plisse.compress.step import Step
from plisse.core import modules
from plisse.core.config import is_default
from plisse.core.origin import Origin, origin_of
from plisse.core.reparam import baked, plain
from plisse.cost.budget import Cost
from plisse.cost.measure import interleaved, measure
from plisse.errors import SavedNothingError
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import build
from plisse.train.evaluate import evaluate
from plisse.train.run import Hook
from plisse.train.task import Task

REPAIRS = (FineTune, ReestimateNorm, BiasCorrection, Compensate)
"""Steps that are there for the score; nobody expects them to save anything."""

REPEATS = 15
"""Timed passes of each network for a row of the table."""


@dataclasses.dataclass
class Run:
    """The network as it came and as it is now, and the rows so far.

    task: what the steps see (with the original as teacher). strict: a step that saves nothing is an error.
    allow: factories that may build the skeleton. say: told what is being done. notes: go into the file.
    hooks: of training.
    """

    original: nn.Module
    model: nn.Module
    task: Task
    strict: bool
    allow: tuple[str, ...]
    say: Callable[[str], None]
    notes: Mapping[str, Any]
    hooks: tuple[Hook, ...] = ()
    rows: list[StepRow] = dataclasses.field(default_factory=list)

    def start(self, score: float) -> Cost:
        """The first row: the network as its users have it, in a plain safetensors file."""
        plain = safetensors.torch.save(modules.distinct_state(self.model))
        cost = measure(self.model, self.task.example, written=len(plain))
        self.rows.append(StepRow("original", cost, score))
        return cost

    def state(self) -> tuple[nn.Module, tuple[StepRow, ...]]:
        """What `back` returns to."""
        return self.model, tuple(self.rows)

    def back(self, state: tuple[nn.Module, tuple[StepRow, ...]]) -> None:
        """Forget what was done since."""
        self.model, self.rows[:] = state

    def step(self, step: Step, asked: bool = True) -> None:
        """Run one step and note what it did. asked: by the user, rather than by a budget, so that it has to
        save something."""
        label = short(step)
        self.say(label)
        if isinstance(step, FineTune):
            self.model = step.watched(self.model, self.task, self.hooks)
        else:
            self.model = step(self.model, self.task)
        self.note(label, repairs=not asked or isinstance(step, REPAIRS))

    def note(self, label: str, repairs: bool = False) -> None:
        """Add a row for the network as it is now.

        Raises SavedNothingError under `strict` where neither bytes nor MACs nor time went down.
        """
        cost = self.cost(self.model)
        score = evaluate(baked(self.model), self.task).score
        nothing = not repairs and _saved_nothing(self.rows[-1].cost, cost)
        self.rows.append(StepRow(label, cost, score, nothing, notes_of(self.model)))
        if nothing and self.strict:
            raise SavedNothingError(
                f"step {label}: {self.rows[-2].cost.bytes} bytes before, {cost.bytes} after",
                expected="fewer bytes, MACs or seconds",
                hint="leave the step out, or drop --strict",
            )

    def cost(self, model: nn.Module, written: int | None = None, repeats: int = REPEATS) -> Cost:
        """Cost of `model`. It is timed in turns with the original, and its seconds are those of the original
        in the first row times the ratio, so that the rows of one run compare. repeats: timed passes."""
        length = self.written(model) if written is None else written
        found = measure(baked(model), self.task.example, written=length, timed=False)
        times = interleaved({"original": self.original, "now": model}, self.task.example, repeats=repeats)
        unit = (self.rows[0].cost.latency or 0.0) / times["original"].median
        return dataclasses.replace(
            found, latency=unit * times["now"].median, latency_spread=unit * times["now"].spread
        )

    def written(self, model: nn.Module) -> int:
        """Length of the file of `model` as it is now."""
        return len(self.data(model))

    def data(self, model: nn.Module) -> bytes:
        """That file."""
        skeleton = self.build(origin_of(plain(model)))
        return modelfile.dumps(model, skeleton, assets=assets(self.original), notes=self.notes)

    def decoded(self, data: bytes) -> nn.Module:
        """What a reader of the file gets."""
        return with_assets(modelfile.loads(data, self.build), assets(self.original))

    def tensor_rows(self, data: bytes) -> tuple[TensorRow, ...]:
        """The tensors of a file, largest first."""
        rows = [
            TensorRow(entry.name, entry.shape, entry.bytes, entry.coding, entry.zeros)
            for entry in modelfile.summary(data, self.build).tensors
        ]
        return tuple(sorted(rows, key=lambda row: -row.bytes))

    def build(self, origin: Origin) -> nn.Module:
        return build(origin, allow=self.allow)


def short(step: Any) -> str:
    """A step's name and its fields that are not at their default, and so for values in these; long mappings
    are counted, not listed.

    >>> short(FineTune(steps=300))
    'FineTune(steps=300)'
    """
    parts = []
    for field in dataclasses.fields(step):  # type: ignore[arg-type]
        value = getattr(step, field.name)
        if isinstance(value, Mapping):
            parts.append(f"{len(value)} {field.name}")
        elif not is_default(field, value):
            parts.append(f"{field.name}={short(value) if dataclasses.is_dataclass(value) else repr(value)}")
    return f"{type(step).__name__}({', '.join(parts)})"


def _saved_nothing(before: Cost, after: Cost) -> bool:
    """Neither bytes nor MACs went down, nor time by more than both spreads together."""
    faster = (
        before.latency is not None
        and after.latency is not None
        and after.latency < before.latency - (before.latency_spread or 0.0) - (after.latency_spread or 0.0)
    )
    return not (after.bytes < before.bytes or after.macs < before.macs or faster)
