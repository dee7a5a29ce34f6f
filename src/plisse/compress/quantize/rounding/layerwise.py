"""Rounding layer by layer, in the order of calls, by the second moments of what enters each layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rounding.capture import check_calibration, limited
from plisse.compress.quantize.rounding.chosen import copied
from plisse.compress.quantize.rounding.moments import Gram, gram
from plisse.compress.quantize.rounding.units import left_out, roundable, units
from plisse.core import modules
from plisse.core.reparam import Reparametrized, baked
from plisse.train.progress import progress_bar
from plisse.train.task import Task

Choose = Callable[[FakeQuantized, nn.Module, Gram], None]
"""Chooses the symbols of one layer's weight, in place."""


def by_layers(
    quantized: Reparametrized,
    original: nn.Module | None,
    task: Task,
    choose: Choose,
    *,
    samples: int,
    progress: str | None,
) -> Reparametrized:
    """A copy of `quantized` in which `choose` has chosen the symbols of every linear layer and convolution.

    Moments are those in the network that is rounded so far, after input quantizers; with `original` also how
    far these inputs are from its. Other weights stay rounded to nearest, with a note.
    """
    check_calibration(task.calibration)
    quantized = copied(quantized)
    work = modules.clone(baked(quantized)).eval()
    goal = None if original is None else modules.clone(baked(original)).eval()
    batches = limited(task.calibration, samples)
    fakes = roundable(quantized)
    parts = [unit for unit in units(quantized, batches[0].inputs, "layer") if _known(work, unit.name)]
    with progress_bar(progress, len(parts)) as advance:
        for unit in parts:
            (name,) = unit.weights
            found = gram(work, goal, unit.name, batches, unit.calls)
            choose(fakes[name], work.get_submodule(unit.name), found)
            modules.set_tensor(work, name, fakes[name]().detach())
            advance(None)
    with_notes(quantized, left_out(quantized, [unit.weights[0] for unit in parts]))
    return quantized


def damped(squares: Tensor, damping: float) -> Tensor:
    """H = X X^T + damping mean(diag(X X^T)) I."""
    mean = squares.diagonal().mean().clamp_min(1e-12)
    return squares + damping * mean * torch.eye(len(squares), dtype=squares.dtype, device=squares.device)


def _known(model: nn.Module, layer: str) -> bool:
    kind: Any = model.get_submodule(layer)
    return isinstance(kind, (nn.Linear, nn.Conv1d, nn.Conv2d))
