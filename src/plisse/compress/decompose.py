"""Decompose: choose ranks, train towards them where asked to, truncate and fine-tune, with one knob."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from plisse.compress.finetune import FineTune, ReestimateNorm, distilled
from plisse.compress.lowrank.balance import balance
from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.factorize import Factorize
from plisse.compress.lowrank.problem import Problem, pose
from plisse.compress.lowrank.schemes import LAYERS, Scheme, Spatial
from plisse.compress.lowrank.selectors import Selector
from plisse.compress.lowrank.spectrum import covariances, input_space
from plisse.compress.lowrank.stable_rank import Rising, StableRank, tails
from plisse.compress.notes import notes_of, with_notes
from plisse.core import modules
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.loop import fit
from plisse.train.optimizers import SGD, Optimizer
from plisse.train.schedules import Cosine, Schedule
from plisse.train.task import Task


@dataclass(frozen=True)
class Decompose:
    """Low rank in one step (BSR, Eo et al. 2023): choose the ranks, train the whole network with the modified
    stable rank as a penalty until it has them (with `strength`), truncate, measure batch norm anew, fine-tune
    the factors.

    ratio: the one knob, share of the numbers of all decomposable layers that goes, 0 to below 1. select: how
    ranks are chosen. `BeamSearch()` looks at what the network loses: four minutes of one core for ResNet-20
    on CIFAR-10 down to 70 %, and time that grows with the number of layers (see there; ResNet-56 takes six
    minutes with half the levels and half the images). `EnergyPerParameter()` looks at singular values alone
    and takes none. scheme, whitened: as in `Factorize`; with `whitened`, values are those of the weight times
    the inputs that calibration shows, in the choice, the penalty and the cut alike. ignore: layers, or parts
    of the network, that stay whole, beside the first and the last layer.

    strength: 0 truncates at once and trains on all `steps + finetune` batches after the cut. Above 0 it is
    lambda * lr * steps of a penalty, which is what counts: 20 to 70 empties the tails with SGD and momentum;
    less leaves some of them to be cut, more costs accuracy that fine-tuning must bring back. 0 is the default
    since it lost less at equal training (benchmarks/lowrank_training.py): by 1.9 points [0.5, 3.4] on
    ResNet-56 with 240 batches, by 0.8 [-1.0, 2.6] on ResNet-20 with 1,200. Whitened factors leave little to
    gain: on ResNet-56 the cut costs 2.7 points before any training. Longer trainings were not compared.
    steps: batches of training with the penalty, whose weight lambda rises over the first half. every: see
    `Rising`. finetune: batches after the truncation. Both may be 0. The original is the teacher in both (see
    `distilled`; hard: weight of the labels, 0 needs none). lr: peak rate of both trainings. statistics:
    batches that batch norm is measured on after the cut, and after fine-tuning. Other fields as for `fit`.

    Linear layers and dense 2-D convolutions are decomposed; a note says why others stay whole. The factors
    come out balanced (see `balance`), ready to be quantized.
    Raises InputError for values out of range, BudgetError where rank 1 everywhere removes less than `ratio`,
    GraphError where no layer can be decomposed.

    >>> import torch
    >>> from plisse.core.batch import BatchList
    >>> from plisse.compress.lowrank.selectors import Uniform
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.zeros(1, 8), *[BatchList(())] * 3)
    >>> network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> small = Decompose(0.5, Uniform(), steps=0, finetune=0)(network, task)
    >>> [tuple(layer.weight.shape) for layer in small[1]]
    [(2, 8), (8, 2)]
    """

    ratio: float = 0.5
    select: Selector = field(default_factory=BeamSearch)
    scheme: Scheme = field(default_factory=Spatial)
    whitened: bool = True
    ignore: tuple[str, ...] = ()
    strength: float = 0.0
    every: int = 1
    steps: int = 300
    finetune: int = 300
    lr: float = 0.01
    temperature: float = 2.0
    hard: float = 0.0
    statistics: int = 50
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    clip: float | None = None
    precision: str = "auto"
    seed: int = 0
    progress: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise InputError(f"ratio {self.ratio}", expected="the share that goes, 0 to below 1", hint="0.5")
        for name in ("steps", "finetune", "statistics"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}", expected="0 or more batches")
        if not 0 <= self.strength < float("inf"):
            raise InputError(f"strength {self.strength}", expected="0 for no penalty, or mostly 20 to 70")
        if not self.lr > 0:
            raise InputError(f"lr {self.lr}", expected="above 0")
        if self.every < 1:
            raise InputError(f"every={self.every}", expected="at least 1")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        problem = self.problem(model, task)
        ranks = self.select.ranks(problem, self.ratio)
        taught = distilled(task, model, self.temperature, self.hard)
        penalty = self.penalty(problem.model, task, ranks)
        low = self.trained(problem.model, taught, penalty)
        left = max(tails(low, penalty).values(), default=0.0)
        cut = self.truncated(low, task, ranks)
        notes = (*problem.notes, *_others(problem.model), *notes_of(cut))
        tuned = balance(self.tuned(cut, taught)).train(model.training)
        return with_notes(tuned, (*notes, f"{len(ranks)} layers decomposed; largest tail cut: {left:.2g}"))

    def problem(self, model: nn.Module, task: Task) -> Problem:
        """What `select` decides on."""
        return pose(model, task, self.scheme, self.whitened, self.ignore)

    @property
    def empties(self) -> bool:
        """Whether there is a training before the cut."""
        return self.strength > 0 and self.steps > 0

    def penalty(self, model: nn.Module, task: Task, ranks: Mapping[str, int]) -> StableRank:
        """The modified stable rank at `ranks`, of what inputs make use of where `whitened`."""
        layers = {name: model.get_submodule(name) for name in ranks}
        seen = covariances(model, layers, task.calibration, self.scheme) if self.whitened else {}
        spaces = {name: input_space(covariance).float() for name, covariance in seen.items()}
        return StableRank(dict(ranks), self.scheme, spaces=spaces)

    def trained(self, model: nn.Module, task: Task, penalty: StableRank) -> nn.Module:
        """The whole network after training on `task.objective` with the penalty; a copy where none is due."""
        network = modules.clone(baked(model))
        if self.empties and penalty.ranks:
            weight = self.strength / (self.lr * self.steps)
            rising = Rising(task.objective, penalty, weight, self.every)
            fit(
                network,
                rising,
                task.train,
                steps=self.steps,
                optimizer=dataclasses.replace(self.optimizer, lr=self.lr),
                schedule=self.schedule,
                clip=self.clip,
                precision=self.precision,
                seed=self.seed,
                hooks=(rising.hook,),
                progress=self.progress and f"{self.progress}: stable rank",
            )
        return network

    def truncated(self, model: nn.Module, task: Task, ranks: Mapping[str, int]) -> nn.Module:
        """`model` with the factors of its truncated layers, and batch norm measured anew."""
        cut = Factorize(dict(ranks), self.scheme, self.whitened)(model, task)
        return self._measured(cut, task)

    def tuned(self, model: nn.Module, task: Task) -> nn.Module:
        """The factors after fine-tuning on `task.objective`."""
        steps = self.finetune + (self.steps if self.strength == 0 else 0)
        shared: dict[str, Any] = {
            name: getattr(self, name) for name in ("lr", "optimizer", "schedule", "clip", "precision")
        }
        label = self.progress and f"{self.progress}: fine-tuning"
        tuning = FineTune(steps, seed=self.seed + 1, progress=label, **shared)
        return self._measured(tuning(model, task), task) if steps else model

    def _measured(self, model: nn.Module, task: Task) -> nn.Module:
        if not self.statistics or not len(task.train):
            return model
        return with_notes(ReestimateNorm(self.statistics)(model, task), notes_of(model))


def _others(model: nn.Module) -> list[str]:
    """Notes on layers with weights that no scheme looks at, such as transposed convolutions."""
    known = (*modules.WEIGHTED, *LAYERS)
    return [
        f"{name!r} left whole: {type(module).__name__} is neither linear nor a 2-D convolution"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and not isinstance(module, known)
    ]
