"""Repairs after rounding that need few inputs, or none, and no training: means that rounding has shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.compress.fold import FOLDABLE, NORMS, foldable_pairs
from plisse.compress.notes import with_notes
from plisse.compress.pairs import ELEMENTWISE, RECTIFIERS, keeps_channels
from plisse.compress.quantize.codebooks.binary import Binarized
from plisse.compress.quantize.codebooks.codes import OnCodes
from plisse.compress.quantize.codebooks.onlevels import OnLevels
from plisse.compress.quantize.codebooks.ternary import Ternarized, TrainedTernarized
from plisse.compress.quantize.codebooks.vectors import OnVectors
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rated import RateQuantized, TrellisQuantized
from plisse.compress.quantize.rounding.capture import check_inputs
from plisse.compress.trace import Reader, Trace
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.hooks import after_calls
from plisse.core.reparam import Reparametrized, baked, plain
from plisse.errors import InputError
from plisse.train.task import Task

ON_GRIDS = (OnLevels, OnCodes, OnVectors, Binarized, Ternarized, TrainedTernarized)
ROUNDED = (FakeQuantized, RateQuantized, TrellisQuantized, *ON_GRIDS)


@dataclass(frozen=True)
class BiasCorrection:
    """Take from every bias what rounding the weights added to its output on average: b -= E[(W^ - W) x]
    (Nagel et al. 2019, section 4.2, with the mean over the calibration inputs as the network meets them).

    W is the source of the rounded weight W^. A layer without bias is corrected in the batch norm behind it;
    one with neither, or whose bias is computed already, is left: correct before small tensors are compacted.

    Raises InputError where the network holds no rounded weights, or calibration holds no batch, NaN, or
    inputs that the network does not take.
    """

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        corrected = modules.clone(model)
        rounded = _rounded(corrected)
        if not rounded or not len(task.calibration):
            raise InputError(
                "nothing to correct biases by", expected="a quantized network and a calibration batch"
            )
        check_inputs(corrected, task.calibration)
        norms = dict(foldable_pairs(baked(corrected), task.example))
        for name, shift in _shifts(corrected, rounded, task).items():
            _correct(corrected, name, norms.get(name), shift)
        return corrected


@dataclass(frozen=True)
class AnalyticBiasCorrection:
    """`BiasCorrection` without data: E[x] of each input channel from the batch norm that it comes from (Nagel
    et al. 2019, section 4.2.1). Behind a batch norm with offset b and slope g values are taken as normal,
    N(b, g^2); behind a rectifier too, E[x] = b cdf(b / |g|) + |g| pdf(b / |g|). Averages and flattening may
    follow.

    Batch norm must be in place, not folded. Layers whose input is anything but a batch norm, or a rectifier
    behind one (such as a sum with a shortcut), are left; the notes name them. Borders padded with zeros are
    passed over. The task's example is used to trace, nothing else.

    Raises InputError where the network holds no rounded weights, or none that reads a batch norm.
    """

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        corrected = modules.clone(model)
        rounded, network = _rounded(corrected), baked(corrected)
        means = _means_from_norms(network, task.example)
        found = [name for name in rounded if name in means]
        if not found:
            raise InputError(
                "no rounded weight whose layer reads a batch norm",
                expected="a quantized network with its batch norm",
                hint="correct before, or instead of, FoldBatchNorm; BiasCorrection() uses data",
            )
        norms = dict(foldable_pairs(network, task.example))
        for name in found:
            groups = getattr(network.get_submodule(name), "groups", 1)
            mean = means[name].reshape(groups, 1, -1, 1)  # [G, 1, C / G, 1]
            change = rounded[name].double().reshape(groups, len(rounded[name]) // groups, mean.shape[2], -1)
            shift = (change * mean).sum((2, 3)).flatten()
            _correct(corrected, name, norms.get(name), shift)
        left = [f"{name!r} left: its input is no batch norm's" for name in rounded if name not in means]
        return with_notes(corrected, left)


def _means_from_norms(model: nn.Module, example: Inputs) -> dict[str, Tensor]:
    """E[x] per input channel [C], float64, of linear and convolution layers behind a batch norm."""
    trace = Trace(model, example, FOLDABLE + NORMS)
    means = {}
    for name, value in trace.inputs.items():
        behind, rectified = _origin(trace, value)
        norm: Any = model.get_submodule(behind)
        if not isinstance(model.get_submodule(name), FOLDABLE) or not isinstance(norm, NORMS):
            continue
        offset = norm.bias.detach().double() if norm.affine else torch.zeros(norm.num_features).double()
        slope = norm.weight.detach().double().abs() if norm.affine else torch.ones(norm.num_features).double()
        means[name] = clipped_mean(offset, slope) if rectified else offset
    return means


def _origin(trace: Trace, value: int) -> tuple[str, bool]:
    """The layer that a value comes from through operators that keep means, and perhaps a rectifier before
    them; "" where there are others."""
    came = {r.made: (before, r) for before, seen in trace.readers.items() for r in seen if not r.layer}
    rectified = False
    while value not in trace.makers:
        before, reader = came.get(value, (value, Reader("")))
        averages = reader.name not in ELEMENTWISE and "max_pool" not in reader.name
        if reader.name in RECTIFIERS and not rectified:
            rectified = True
        elif rectified or not averages or not keeps_channels(trace, before, reader):
            return "", False
        value = before
    return trace.makers[value], rectified


def clipped_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """E[max(x, 0)] of a normal x, element by element.

    >>> clipped_mean(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 1.0]))
    tensor([0.3989, 5.0000])
    """
    z = mean / deviation.clamp_min(1e-30)
    return mean * torch.special.ndtr(z) + deviation * torch.exp(-z * z / 2) * (2 * torch.pi) ** -0.5


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

    def watch(name: str, layer: Any, inputs: tuple[Any, ...], _: Any) -> None:
        change = _apply(layer, inputs[0], rounded[name])  # [M, C]
        sums[name] = sums.get(name, torch.zeros(())) + change.double().sum(0)
        counts[name] = counts.get(name, 0) + len(change)

    layers = {
        name: layer
        for name, layer in plain(model).named_modules()
        if name in rounded and isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    with after_calls(layers, watch), modules.evaluating(model), torch.no_grad():
        for batch in task.calibration:
            call(model, batch.inputs)
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
