"""Training as a step: fine-tune on the task's objective, with or without the original as teacher."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from plisse.compress.hold import HoldRate
from plisse.core import modules
from plisse.data.mixing import Transform, transformed
from plisse.errors import InputError
from plisse.train.intermediate import intermediate
from plisse.train.loop import fit
from plisse.train.objectives import distillation, feature_matching
from plisse.train.optimizers import SGD, Optimizer
from plisse.train.run import Hook
from plisse.train.schedules import Cosine, Schedule
from plisse.train.statistics import reestimate_statistics
from plisse.train.task import Objective, Task, kl_divergence


@dataclass(frozen=True)
class FineTune:
    """Minimise `task.objective` on `task.train`; computed weights (`Reparametrized`) stay computed.

    steps: batches to train on; 0 gives a copy. lr: peak learning rate, in place of the optimizer's own.
    hold: bytes that all entropy-coded weights together shall take at the end (compress/hold); None leaves
    their steps alone. transforms: changes of batches, such as (MixUp(), CutOut()); mixtures need a teacher.
    The teacher is the task's affair: `FineTune(300)(model, distilled(task, original))`.
    """

    steps: int
    lr: float = 0.02
    hold: int | None = None
    transforms: tuple[Transform, ...] = ()
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    clip: float | None = None
    precision: str = "auto"
    seed: int = 0
    devices: int = 1
    checkpoint: str | None = None
    progress: str | None = None

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"lr={self.lr} of FineTune", expected="a learning rate above 0, such as 0.02")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        return self.watched(model, task)

    def watched(self, model: nn.Module, task: Task, hooks: tuple[Hook, ...] = ()) -> nn.Module:
        """The same, with `hooks` called after every batch."""
        tuned = modules.clone(model)
        if self.steps > 0:
            fit(
                tuned,
                task.objective,
                transformed(task.train, self.transforms, self.seed),
                steps=self.steps,
                optimizer=dataclasses.replace(self.optimizer, lr=self.lr),
                schedule=self.schedule,
                clip=self.clip,
                precision=self.precision,
                seed=self.seed,
                devices=self.devices,
                checkpoint=Path(self.checkpoint) if self.checkpoint else None,
                progress=self.progress,
                hooks=(*((HoldRate(self.hold),) if self.hold else ()), *hooks),
            )
        return tuned


@dataclass(frozen=True)
class ReestimateNorm:
    """Measure batch-norm statistics anew on inputs of `task.train`, without labels (train/statistics)."""

    batches: int = 50

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        measured = modules.clone(model)
        reestimate_statistics(measured, task.train, self.batches)
        return measured


def distilled(
    task: Task, original: nn.Module, temperature: float = 2.0, hard: float = 0.0, hints: float = 0.0
) -> Task:
    """The same task with `original` as teacher: its class probabilities where the task compares outputs as
    such (KL divergence), else its outputs. `hard` is the weight of the labels in the former; the labels, and
    `temperature`, play no part in the latter. hints: weight of its intermediate outputs, from 0, for class
    probabilities without labels (train/intermediate)."""
    if hints > 0:
        if hard > 0 or task.divergence is not kl_divergence:
            raise InputError(
                f"hints={hints} with labels, or outputs that are no logits", expected="hints=0.0"
            )
        objective: Objective = intermediate(original, weight=hints, temperature=temperature)
    elif task.divergence is kl_divergence:
        objective = distillation(original, temperature, hard)
    else:
        objective = feature_matching(original)
    return dataclasses.replace(task, objective=objective)
