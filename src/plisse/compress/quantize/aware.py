"""Quantization-aware training: go on training with rounded weights and activations in the forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import bfloat16_through
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import Reparam, Reparametrized, plain
from plisse.core.stored import Stored, raw
from plisse.errors import InputError
from plisse.train.loop import fit
from plisse.train.optimizers import SGD
from plisse.train.schedules import Cosine
from plisse.train.task import Task


@dataclass(frozen=True)
class Aware:
    """Training with the straight-through estimator on the task's objective.

    steps: batches, at least 1. lr: peak learning rate of SGD with momentum 0.9 and a cosine schedule.
    learn_step: scales are trained too (LSQ, Esser et al. 2020); they start where the range put them
    (`MeanMagnitude()` is the paper's start).
    """

    steps: int
    lr: float = 0.01
    learn_step: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"{self.steps} steps", expected="at least 1", hint="aware=None trains nothing")


class LearnedScale(Reparam):
    """The scale of an InputQuantizer as a trained tensor, rounded to bfloat16 in use and in the file.

    factor: of its gradient, 1 / sqrt(N q_max) for N values per sample.
    """

    def __init__(self, scale: Tensor, factor: float) -> None:
        super().__init__()
        self.scale, self.factor = nn.Parameter(scale.detach().clone()), factor

    def forward(self) -> Tensor:
        return bfloat16_through(ScaleGradient.apply(self.scale, self.factor))

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy(), "bfloat16")


def train_quantized(model: Reparametrized, task: Task, how: Aware) -> Reparametrized:
    """Train a network that is quantized already, in place where it can, and return it."""
    if how.learn_step:
        model = learn_input_scales(model, task.example)
    fit(model, task.objective, task.train, steps=how.steps, optimizer=SGD(lr=how.lr), schedule=Cosine())
    return model


def learn_input_scales(model: Reparametrized, example: Inputs) -> Reparametrized:
    """The same network with the scale of every activation quantizer that `example` reaches trained."""
    scales: dict[str, Reparam] = {}
    for name, size in _input_sizes(model, example).items():
        quantizer: Any = plain(model).get_submodule(name)
        factor = (size * (2**quantizer.bits - 1)) ** -0.5
        scales[f"{name}.scale".lstrip(".")] = LearnedScale(quantizer.scale, factor)
    return Reparametrized(model.model, {**model.reparams, **scales})


def _input_sizes(model: nn.Module, example: Inputs) -> dict[str, int]:
    """Values per sample that enter each InputQuantizer, by its name."""
    sizes: dict[str, int] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: sizes.update({name: inputs[0][0].numel()})  # type: ignore[misc]
        )
        for name, module in plain(model).named_modules()
        if isinstance(module, InputQuantizer)
    ]
    with modules.evaluating(model), torch.no_grad():
        call(model, example)
    for handle in handles:
        handle.remove()
    return sizes
