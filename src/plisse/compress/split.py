"""Split channels with outlier weights: a wider network that computes the same with smaller weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.equalize import notes
from plisse.compress.fold import check_same
from plisse.compress.notes import with_notes
from plisse.compress.pairs import by_input_channel, scalable_pairs
from plisse.core import edits, modules
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import Task

WIDTHS = {nn.Linear: ("out_features", "in_features"), nn.Conv2d: ("out_channels", "in_channels")}


@dataclass(frozen=True)
class SplitOutliers:
    """Outlier channel splitting (Zhao et al. 2019, section 3): for layers W1, W2 with nothing between them
    but rectifiers, pooling and the like, output channel i of W1 is copied and input channel i of W2 divided
    evenly among the copies, w x = w / 2 x + w / 2 x. Always the channel of W2 with the largest weight left is
    next. The range of W2 shrinks, and its step with it; the network gets wider and costs more.

    The halves are rounded like any weight; the paper's shift by a quarter of a step, which needs the step, is
    left out. Batch norm must be folded before; layers with groups are left. Computed weights are baked first.
    The widths go into the file as edits, the pairs into the notes.

    share: channels that are added, as a share of those of each pair, above 0, at most 1; rounded up.

    Raises GraphError where the outputs on the task's example change by more than rounding explains.

    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.ones(2, 3), *[BatchList(())] * 3)
    >>> SplitOutliers(0.25)(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), task)
    Sequential(
      (0): Linear(in_features=3, out_features=5, bias=True)
      (1): ReLU()
      (2): Linear(in_features=5, out_features=2, bias=True)
    )
    """

    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share {self.share}", expected="above 0, at most 1", hint="SplitOutliers(0.05)")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        wide = modules.clone(baked(model))
        pairs = [
            pair
            for pair in scalable_pairs(wide, task.example)
            if _can_widen(wide.get_submodule(pair.first)) and _can_widen(wide.get_submodule(pair.second))
        ]
        for pair in pairs:
            _split(wide, pair.first, pair.second, self.share)
        check_same(model, wide, task.example, "outlier channels are split", "leave SplitOutliers out")
        return with_notes(wide, notes(pairs, f"split by {self.share:.0%}"))


def _can_widen(layer: Any) -> bool:
    return type(layer) in WIDTHS and getattr(layer, "groups", 1) == 1


def copies(largest: Tensor, added: int) -> Tensor:
    """How many times each channel [C] stands there after `added` splits of the largest weight left.

    >>> copies(torch.tensor([1.0, 9.0, 4.0]), 2)
    tensor([1, 3, 1])
    """
    found = torch.ones(len(largest), dtype=torch.int64)
    for _ in range(added):
        found[int((largest / found).argmax())] += 1
    return found


def _split(model: nn.Module, first: str, second: str, share: float) -> None:
    """In place."""
    makes: Any = model.get_submodule(first)
    reads: Any = model.get_submodule(second)
    channels = len(makes.weight)
    columns = by_input_channel(reads, channels)  # [1, O, C, rest]
    times = copies(columns.abs().amax((0, 1, 3)).cpu(), math.ceil(share * channels))
    picked = torch.arange(channels).repeat_interleave(times).to(columns.device)
    parts = (columns / times.to(columns)[:, None])[0][:, picked]
    bias = None if makes.bias is None else makes.bias.detach()[picked]
    _replace(model, first, 0, makes.weight.detach()[picked], bias)
    after = parts.reshape(len(parts), -1, *reads.weight.shape[2:])
    _replace(model, second, 1, after, None if reads.bias is None else reads.bias.detach())


def _replace(model: nn.Module, name: str, axis: int, weight: Tensor, bias: Tensor | None) -> None:
    """In place: put a layer of another width, with these tensors, in the place of layer `name`."""
    old = model.get_submodule(name)
    described = edits.describe(name, old)
    assert described is not None
    arguments = {**described.arguments, WIDTHS[type(old)][axis]: weight.shape[axis]}  # type: ignore[index]
    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    layer: Any = type(old)(**kept).to(weight.device, weight.dtype).train(old.training)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    modules.replace(model, name, layer)
