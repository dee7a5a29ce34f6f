"""Quantization-aware training: go on training with rounded weights and activations in the forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.quantize.aware.estimators import StraightThrough
from plisse.compress.quantize.aware.inputs import (
    LearnedClip,
    LearnedLogScale,
    LearnedScale,
    LearnedShift,
    LearnedZero,
    input_intervals,
    input_quantizers,
    learn_inputs,
)
from plisse.compress.quantize.aware.noise import Softened, Softening
from plisse.compress.quantize.aware.oscillation import DampOscillating, FreezeOscillating, rounding_energy
from plisse.compress.quantize.aware.ramp import Stage, at_least, widths
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.codebooks.binary import Binarized
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Estimator
from plisse.core import modules
from plisse.core.fakequant import on_grid
from plisse.core.inputinterval import InputInterval
from plisse.core.reparam import Reparam, Reparametrized
from plisse.train.loop import fit
from plisse.train.objectives import with_penalty
from plisse.train.optimizers import Optimizer
from plisse.train.run import Hook
from plisse.train.task import Objective, Task

After = Callable[[Stage, Reparametrized], None]
SCALES = (LearnedScale, LearnedLogScale, LearnedClip, LearnedZero, LearnedShift, FakeQuantized)


def train_quantized(
    model: Reparametrized, task: Task, how: Aware, after: After | None = None
) -> Reparametrized:
    """Train a network that is quantized already, in place where it can, and return it.

    Afterwards it holds nothing of the training but its values: gradients other than straight-through ones,
    noise and wider stages are gone. after: called with every stage of the ramp and a copy of the network as
    it is then.
    """
    if how.learn_step:
        model = learn_inputs(_learning(model), task.example, how.inputs)
    _begin(model, how.estimator)
    objective, final = _objective(task, how), widths(model)
    for number, stage in enumerate(how.ramp):
        at_least(model, stage.bits, final)
        _fit(model, objective, task, how, stage, number)
        if after is not None:
            after(stage, _ended(modules.clone(model)))
    at_least(model, min(final.values(), default=2), final)
    if how.soften is not None:
        model = softened(model, how.soften)
    _fit(model, objective, task, how, Stage(2, how.steps), len(how.ramp))
    return _ended(model)


def softened(model: Reparametrized, how: Softening) -> Reparametrized:
    """The same network with every rounded weight wrapped."""
    table: dict[str, Reparam] = {
        name: how.wrapped(reparam) if hasattr(reparam, "source") else reparam
        for name, reparam in model.reparams.items()
    }
    return Reparametrized(model.model, table)


def _fit(
    model: Reparametrized, objective: Objective, task: Task, how: Aware, stage: Stage, number: int
) -> None:
    last = number == len(how.ramp)
    lr = how.lr if stage.lr is None else stage.lr
    fit(
        model,
        objective,
        task.train,
        steps=stage.steps,
        optimizer=_optimizer(how, lr),
        schedule=how.schedule,
        clip=how.clip,
        precision=how.precision,
        seed=how.seed + number,
        hooks=_hooks(how) if last else (),
    )


def _hooks(how: Aware) -> tuple[Hook, ...]:
    hooks: list[Hook] = [] if how.soften is None else [how.soften]
    if isinstance(how.oscillation, FreezeOscillating):
        hooks.append(how.oscillation.hook())
    return tuple(hooks)


def _objective(task: Task, how: Aware) -> Objective:
    objective = how.inputs.penalized(task.objective) if how.learn_step else task.objective
    if isinstance(how.oscillation, DampOscillating):
        return with_penalty(objective, rounding_energy, how.oscillation.weight)
    return objective


def _begin(model: Reparametrized, estimator: Estimator) -> None:
    """Give weights and activations the estimator's gradient, in place; straight through is there already."""
    if isinstance(estimator, StraightThrough):
        return
    for grid in model.modules():
        if isinstance(grid, (FakeQuantized, Binarized)):
            grid.training_rounding = estimator.round
    for interval in input_intervals(model).values():
        interval.training_rounding = estimator.round
    for quantizer in input_quantizers(model).values():
        if quantizer.training_form is None:
            quantizer.training_form = partial(on_grid, rounding=estimator.round)


def _learning(model: Reparametrized) -> Reparametrized:
    """Train the scales of uniform grids too, in place."""
    for grid in model.modules():
        if isinstance(grid, FakeQuantized):
            grid.scale.requires_grad_(True)
    return model


def _ended(model: Any) -> Reparametrized:
    for module in model.modules():
        if isinstance(module, (FakeQuantized, Binarized, InputInterval)):
            module.training_rounding = None
    for quantizer in input_quantizers(model).values():
        quantizer.training_form = None
    table: dict[str, Any] = {
        name: reparam.inner if isinstance(reparam, Softened) else reparam
        for name, reparam in model.reparams.items()
    }
    return Reparametrized(model.model, table)


@dataclass(frozen=True)
class ScaledRates:
    """An optimizer whose learning rate of scales is a share of that of all else."""

    optimizer: Optimizer
    share: float

    @property
    def lr(self) -> float:
        return self.optimizer.lr

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        built = self.optimizer.build(model)
        scales = {id(value) for value in _scales(model)}
        for group in list(built.param_groups):
            mine = [value for value in group["params"] if id(value) in scales]
            group["params"] = [value for value in group["params"] if id(value) not in scales]
            if mine:
                built.add_param_group({**group, "params": mine, "share": self.share, "weight_decay": 0.0})
        return built


def _scales(model: nn.Module) -> list[Tensor]:
    """The trained parameters of grids, without those of the weights they round."""
    owners = [module for module in model.modules() if isinstance(module, SCALES)]
    return [value for module in owners for value in module.parameters(recurse=False)]


def _optimizer(how: Aware, lr: float) -> Any:
    optimizer = dataclasses.replace(how.optimizer, lr=lr)
    return optimizer if how.scale_lr == 1.0 else ScaledRates(optimizer, how.scale_lr)
