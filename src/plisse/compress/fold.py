"""Batch norm away: fold it into the layer before it, or absorb its statistics into its own affine map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.trace import Trace, sole_holders
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.keptstatistics import KeptStatistics, is_blank, kept
from plisse.core.reparam import Reparametrized, baked, plain
from plisse.errors import GraphError
from plisse.train.task import Task

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TOLERANCE = 1e-3  # largest relative change of outputs that float32 arithmetic explains, with room
HINT = "leave the step out; the network may run batch norm outside its module"


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold every batch norm into the convolution or linear layer before it, where nothing else reads that
    layer's output: W' = W g / s, b' = (b - m) g / s + b_n with s = sqrt(var + eps) (Jacob et al. 2018).

    The batch norm becomes an identity. Pairs are found by running the task's example. Computed weights are
    baked first. Raises GraphError where the outputs on the example change by more than rounding.

    keep_statistics: let what training data gave at the folded layer's output hang on it, per channel: mean
    b_n and deviation |g| sqrt(var) / s (`KeptStatistics`). They go into the file, so that the folded network
    can still be compressed without data (Haroush et al. 2020, section 3.3).

    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.ones(2, 3), *[BatchList(())] * 3)
    >>> network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
    >>> FoldBatchNorm()(network, task)
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): Identity()
    )
    """

    keep_statistics: bool = False

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        folded = modules.clone(baked(model))
        for layer, norm in foldable_pairs(folded, task.example):
            if self.keep_statistics:
                _keep(folded.get_submodule(layer), folded.get_submodule(norm))
            _fold(folded, layer, norm)
        check_same(model, folded, task.example, "batch norm is folded", HINT)
        return folded


@dataclass(frozen=True)
class AbsorbStatistics:
    """Keep every batch norm, but move its statistics into its affine map: g' = g / s, b' = b - m g / s with
    s = sqrt(var + eps); then m = 0 and var = 1 - eps, so that s = 1. Two constant tensors cost a few bytes.

    A batch norm without affine map gets one. Those whose tensors are computed already are left. Apply it
    after the last training: training would let the statistics drift again.

    keep_statistics: let what training data gave behind each batch norm hang on it, as `FoldBatchNorm` does on
    the layer before; two numbers per channel, with which the file can be compressed without data again.
    """

    keep_statistics: bool = False

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        absorbed = modules.clone(model)
        computed = set(absorbed.reparams) if isinstance(absorbed, Reparametrized) else set()
        owners = {name.rpartition(".")[0] for name in computed}
        for name, norm in plain(absorbed).named_modules():
            if (
                isinstance(norm, NORMS)
                and norm.running_var is not None
                and name not in owners
                and norm.eps < 1
            ):
                if self.keep_statistics:
                    _keep(norm, norm)
                _absorb(norm)
        check_same(model, absorbed, task.example, "batch norm's statistics are absorbed", HINT)
        return absorbed


def foldable_pairs(model: nn.Module, example: Inputs) -> list[tuple[str, str]]:
    """Names (layer, batch norm) where the norm's input is the layer's output and nothing else reads it.

    Both must be called once, and hold tensors that no other module holds. `example`: inputs to trace with.
    """
    trace = Trace(model, example, FOLDABLE + NORMS)
    alone = sole_holders(model)
    pairs = []
    for norm, value in trace.inputs.items():
        layer = trace.makers.get(value)
        made, after = model.get_submodule(layer or ""), model.get_submodule(norm)
        if layer is None or not isinstance(made, FOLDABLE) or not isinstance(after, NORMS):
            continue
        once = len(trace.readers[value]) == trace.calls[layer] == trace.calls[norm] == 1
        fits = len(trace.shapes[value]) == 2 or not isinstance(made, nn.Linear)
        if once and fits and {layer, norm} <= alone and after.running_var is not None:
            pairs.append((layer, norm))
    return pairs


def check_same(before: nn.Module, after: nn.Module, example: Inputs, change: str, hint: str) -> None:
    """Raise GraphError where the outputs on `example` differ by more than rounding explains.

    change: what was done, for the message.
    """
    with modules.evaluating(before), modules.evaluating(after), torch.no_grad():
        wanted, found = call(before, example), call(after, example)
    off = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if not off <= TOLERANCE:
        raise GraphError(
            f"outputs that change by {off:.1e} of their size when {change}",
            expected=f"at most {TOLERANCE}, which rounding explains",
            hint=hint,
        )


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Slope and offset of a batch norm in evaluation mode, float64 [C]."""
    slope = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        slope = slope * norm.weight.detach().double()
    offset = -norm.running_mean.double() * slope
    return slope, offset if norm.bias is None else offset + norm.bias.detach().double()


def _fold(model: nn.Module, layer: str, norm: str) -> None:
    """In place."""
    made: Any = model.get_submodule(layer)
    slope, offset = _affine(model.get_submodule(norm))
    weight = made.weight.detach().double()
    bias = offset if made.bias is None else offset + made.bias.detach().double() * slope
    with torch.no_grad():
        made.weight.copy_(weight * slope.reshape(-1, *([1] * (weight.dim() - 1))))
    made.bias = nn.Parameter(bias.to(made.weight.dtype))
    modules.replace(model, norm, nn.Identity())


def _keep(layer: nn.Module, norm: Any) -> None:
    """In place: hang on `layer` the moments that training data had behind `norm`, where they are known."""
    if (known := kept(norm)) is not None:
        known.attach(layer)
    if known is not None or is_blank(norm):
        return
    variance, mean = norm.running_var.double(), norm.running_mean
    std = (variance / (variance + norm.eps)).sqrt()
    statistics = KeptStatistics(len(mean)).to(mean.device, mean.dtype)
    statistics.kept_std.copy_(std if norm.weight is None else std * norm.weight.detach().double().abs())
    if norm.bias is not None:
        statistics.kept_mean.copy_(norm.bias.detach())
    statistics.attach(layer)


def _absorb(norm: Any) -> None:
    """In place. 1 - eps is chosen so that 1 - eps + eps is exactly 1 in float32."""
    slope, offset = _affine(norm)
    norm.affine = True
    norm.weight = nn.Parameter(slope.to(norm.running_var.dtype))
    norm.bias = nn.Parameter(offset.to(norm.running_var.dtype))
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.num_batches_tracked.zero_()
