"""Batch norm away: fold it into the layer before it, or absorb its statistics into its own affine map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.reparam import Reparametrized, baked, plain
from plisse.errors import GraphError
from plisse.train.task import Task

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TOLERANCE = 1e-3  # largest relative change of outputs that float32 arithmetic explains, with room


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold every batch norm into the convolution or linear layer before it, where nothing else reads that
    layer's output: W' = W g / s, b' = (b - m) g / s + b_n with s = sqrt(var + eps) (Jacob et al. 2018).

    The batch norm becomes an identity. Pairs are found by running the task's example. Computed weights are
    baked first. Raises GraphError where the outputs on the example change by more than rounding.

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

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        folded = modules.clone(baked(model))
        for layer, norm in foldable_pairs(folded, task.example):
            _fold(folded, layer, norm)
        _check_same(model, folded, task.example)
        return folded


@dataclass(frozen=True)
class AbsorbStatistics:
    """Keep every batch norm, but move its statistics into its affine map: g' = g / s, b' = b - m g / s with
    s = sqrt(var + eps); then m = 0 and var = 1 - eps, so that s = 1. Two constant tensors cost a few bytes.

    A batch norm without affine map gets one. Those whose tensors are computed already are left. Apply it
    after the last training: training would let the statistics drift again.
    """

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
                _absorb(norm)
        _check_same(model, absorbed, task.example)
        return absorbed


def foldable_pairs(model: nn.Module, example: Inputs) -> list[tuple[str, str]]:
    """Names (layer, batch norm) where the norm's input is the layer's output and nothing else reads it.

    Both must be called once, and hold tensors that no other module holds. `example`: inputs to trace with.
    """
    trace = _Trace(model, example)
    holders = Counter(id(value) for module in model.modules() for value in _own_tensors(module))
    pairs = []
    for norm, value in trace.inputs.items():
        layer = trace.makers.get(id(value))
        if layer is None or trace.reads[id(value)] != 1 or trace.calls[layer] != 1 or trace.calls[norm] != 1:
            continue
        made, after = model.get_submodule(layer), model.get_submodule(norm)
        alone = all(holders[id(tensor)] == 1 for part in (made, after) for tensor in _own_tensors(part))
        if alone and after.running_var is not None and (value.dim() == 2 or not isinstance(made, nn.Linear)):
            pairs.append((layer, norm))
    return pairs


class _Trace(TorchDispatchMode):
    """One run of a network: makers (id of an output to its layer), inputs (of each batch norm), calls, and
    reads (how many operators took a layer's output as an argument)."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        super().__init__()
        self.makers: dict[int, str] = {}
        self.inputs: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()
        self.reads: Counter[int] = Counter()
        self._alive: list[Tensor] = []  # so that no id is used twice
        handles = list(self._hooks(model))
        with modules.evaluating(model), torch.no_grad(), self:
            call(model, example)
        for handle in handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.reads[id(value)] += 1
        return func(*args, **(kwargs or {}))

    def _hooks(self, model: nn.Module) -> Iterator[Any]:
        for name, module in model.named_modules():
            if isinstance(module, FOLDABLE):
                yield module.register_forward_hook(lambda _, __, output, name=name: self._made(name, output))  # type: ignore[misc]
            elif isinstance(module, NORMS):
                yield module.register_forward_pre_hook(
                    lambda _, inputs, name=name: self._entered(name, inputs[0])
                )  # type: ignore[misc]

    def _made(self, name: str, output: Tensor) -> None:
        self.calls[name] += 1
        self.makers[id(output)] = name
        self.reads[id(output)] = 0
        self._alive.append(output)

    def _entered(self, name: str, value: Tensor) -> None:
        self.calls[name] += 1
        self.inputs[name] = value


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


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


def _absorb(norm: Any) -> None:
    """In place. 1 - eps is chosen so that 1 - eps + eps is exactly 1 in float32."""
    slope, offset = _affine(norm)
    norm.affine = True
    norm.weight = nn.Parameter(slope.to(norm.running_var.dtype))
    norm.bias = nn.Parameter(offset.to(norm.running_var.dtype))
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.num_batches_tracked.zero_()


def _check_same(before: nn.Module, after: nn.Module, example: Inputs) -> None:
    with modules.evaluating(before), modules.evaluating(after), torch.no_grad():
        wanted, found = call(before, example), call(after, example)
    change = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if not change <= TOLERANCE:
        raise GraphError(
            f"outputs that change by {change:.1e} of their size when batch norm is folded",
            expected=f"at most {TOLERANCE}, which rounding explains",
            hint="leave FoldBatchNorm out; the network may run batch norm outside its module",
        )
