"""A repair after rounding that needs a few inputs and no training: means that rounding has shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.compress.fold import foldable_pairs
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rated import RateQuantized, TrellisQuantized
from plisse.core import modules
from plisse.core.batch import call
from plisse.core.reparam import Reparametrized, baked, plain
from plisse.errors import InputError
from plisse.train.task import Task

ROUNDED = (FakeQuantized, RateQuantized, TrellisQuantized)


@dataclass(frozen=True)
class BiasCorrection:
    """Take from every bias what rounding the weights added to its output on average: b -= E[(W^ - W) x]
    (Nagel et al. 2019, section 4.2, with the mean over the calibration inputs as the network meets them).

    W is the source of the rounded weight W^. A layer without bias is corrected in the batch norm behind it;
    one with neither, or whose bias is computed already, is left: correct before small tensors are compacted.

    Raises InputError where the network holds no rounded weights or calibration holds no batch.
    """

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        corrected = modules.clone(model)
        rounded = _rounded(corrected)
        if not rounded or not len(task.calibration):
            raise InputError(
                "nothing to correct biases by", expected="a quantized network and a calibration batch"
            )
        norms = dict(foldable_pairs(baked(corrected), task.example))
        for name, shift in _shifts(corrected, rounded, task).items():
            _correct(corrected, name, norms.get(name), shift)
        return corrected


def _rounded(model: nn.Module) -> dict[str, Tensor]:
    """W^ - W of every layer with a rounded weight, by the layer's name."""
    if not isinstance(model, Reparametrized):
        return {}
    with torch.no_grad():
        return {
            name.rpartition(".")[0]: reparam() - reparam.source().float()
            for name, reparam in model.reparams.items()
            if isinstance(reparam, ROUNDED) and name.rpartition(".")[2] == "weight"
        }


def _shifts(model: nn.Module, rounded: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """E[(W^ - W) x] per output channel [C], of linear and 2-D convolution layers that are reached."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, layer: Any, value: Tensor) -> None:
        change = _apply(layer, value, rounded[name])  # [M, C]
        sums[name] = sums.get(name, torch.zeros(())) + change.double().sum(0)
        counts[name] = counts.get(name, 0) + len(change)

    handles = [
        layer.register_forward_hook(lambda layer, inputs, _, name=name: watch(name, layer, inputs[0]))  # type: ignore[misc]
        for name, layer in plain(model).named_modules()
        if name in rounded and isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    with modules.evaluating(model), torch.no_grad():
        for batch in task.calibration:
            call(model, batch.inputs)
    for handle in handles:
        handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def _apply(layer: Any, value: Tensor, weight: Tensor) -> Tensor:
    """What a layer with another weight and no bias gives for `value`, one row per position."""
    if isinstance(layer, nn.Linear):
        return F.linear(value, weight).flatten(0, -2)
    return layer._conv_forward(value, weight, None).movedim(1, -1).flatten(0, -2)


def _correct(model: nn.Module, layer: str, norm: str | None, shift: Tensor) -> None:
    """In place: take `shift` [C] from the layer's output, in its bias or in the batch norm behind it."""
    computed = model.reparams if isinstance(model, Reparametrized) else {}
    if plain(model).get_submodule(layer).bias is not None:
        name = f"{layer}.bias".lstrip(".")
    elif norm is not None:
        behind: Any = plain(model).get_submodule(norm)
        name = f"{norm}.running_mean" if behind.bias is None else f"{norm}.bias"
        slope = (
            (behind.running_var.double() + behind.eps).rsqrt() * behind.weight.double()
            if behind.affine
            else -1
        )
        shift = shift * slope
    else:
        return
    if name not in computed:
        value = modules.tensor(plain(model), name).detach()
        modules.set_tensor(plain(model), name, (value.double() - shift).to(value.dtype))
