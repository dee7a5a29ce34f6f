"""Equalize channels before rounding: a network that computes the same with weights of even ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.fold import check_same
from plisse.compress.notes import with_notes
from plisse.compress.pairs import Pair, by_input_channel, scalable_pairs
from plisse.core import modules
from plisse.core.batch import Batches, call
from plisse.core.hooks import after_calls
from plisse.core.keptstatistics import kept, scale_kept
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import Task

SWEEPS = 50
CONVERGED = 1e-3  # largest |log s| of a sweep that counts as no change
ROOM = 1e4  # a channel is scaled by at most this in one go, so that dead ones stay finite
DEVIATIONS = 3


@dataclass(frozen=True)
class Equalize:
    """Cross-layer equalization (Nagel et al. 2019, section 4.1): for layers W1, W2 with nothing between them
    but operators f(s x) = s f(x), scale output channel i of W1 and of its bias by 1 / s_i and input channel i
    of W2 by s_i, with s_i = sqrt(r1_i r2_i) / r2_i and r the largest magnitudes, so that both ranges become
    sqrt(r1_i r2_i). Repeated over all pairs until nothing changes.

    Outputs stay as they are, up to rounding; pays where weights share one scale per tensor. Batch norm must
    be folded before (`FoldBatchNorm`): pairs end at one. Computed weights are baked first. The pairs are
    listed in the notes.

    absorb_bias: also move c = max(0, mean - 3 deviations) of what enters a rectifier from the bias of W1 to
    that of W2, b1 -= c, b2 += W2 c (section 4.1.3, with statistics over the calibration batches), so that
    activations become smaller. Exact only where inputs stay above c, about 99.9 % of a normal distribution,
    and away from padded borders.

    Raises GraphError where the outputs on the task's example change by more than rounding explains.

    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.ones(2, 3), *[BatchList(())] * 3)
    >>> network = nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2))
    >>> even = Equalize()(network, task)
    >>> torch.allclose(even[0].weight.abs().max(), even[2].weight.abs().max())
    True
    """

    absorb_bias: bool = False

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        if self.absorb_bias and not len(task.calibration):
            raise InputError("no calibration batch", expected="at least one, to absorb biases")
        even = modules.clone(baked(model))
        pairs = scalable_pairs(even, task.example)
        for _ in range(SWEEPS):
            if max((_balance(even, pair) for pair in pairs), default=0.0) < CONVERGED:
                break
        check_same(model, even, task.example, "channels are equalized", "leave Equalize out")
        if self.absorb_bias:
            _absorb(even, [pair for pair in pairs if pair.rectified], task.calibration)
        return with_notes(even, notes(pairs, "equalized"))


def notes(pairs: list[Pair], done: str) -> list[str]:
    """What to say of the pairs that were found, or that there are none."""
    if not pairs:
        return [
            f"nothing {done}: no pair of layers with a rectifier or nothing between them; fold batch norm"
        ]
    return [f"{pair} {done}" for pair in pairs]


def _balance(model: nn.Module, pair: Pair) -> float:
    """In place: even out the ranges of one pair. Gives the largest |log s|."""
    first: Any = model.get_submodule(pair.first)
    second: Any = model.get_submodule(pair.second)
    columns = by_input_channel(second, len(first.weight))
    r1 = first.weight.detach().double().flatten(1).abs().amax(1)
    r2 = columns.double().abs().amax((1, 3)).flatten()
    s = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt().clamp(1 / ROOM, ROOM), 1.0)
    scale_pair(first, second, s)
    return float(s.log().abs().max())


def scale_pair(first: Any, second: Any, s: Tensor) -> None:
    """In place: divide the output channels of layer `first` by s [C], multiply the inputs of `second`."""
    kind = first.weight.dtype
    with torch.no_grad():
        first.weight.div_(s.to(kind).reshape(-1, *([1] * (first.weight.dim() - 1))))
        if first.bias is not None:
            first.bias.div_(s.to(kind))
        scale_kept(first, 1 / s)
        columns = by_input_channel(second, len(first.weight))
        columns.mul_(s.to(kind).reshape(len(columns), 1, -1, 1))


def _absorb(model: nn.Module, pairs: list[Pair], calibration: Batches) -> None:
    """In place: take high biases out of the first layers of `pairs` into the second ones."""
    means, deviations = _statistics(model, {pair.first for pair in pairs}, calibration)
    for pair in pairs:
        first: Any = model.get_submodule(pair.first)
        second: Any = model.get_submodule(pair.second)
        high = (means[pair.first] - DEVIATIONS * deviations[pair.first]).clamp_min(0)
        if not bool(high.any()):
            continue
        columns = by_input_channel(second, len(first.weight)).double()  # [G, O / G, C / G, rest]
        moved = (columns.sum(3) * high.reshape(len(columns), 1, -1)).sum(2).flatten()
        for layer, change in ((first, -high), (second, moved)):
            old = 0 if layer.bias is None else layer.bias.detach().double()
            layer.bias = nn.Parameter((old + change).to(layer.weight.dtype))
        if (statistics := kept(first)) is not None:
            statistics.kept_mean.sub_(high.to(statistics.kept_mean))


def _statistics(
    model: nn.Module, names: set[str], calibration: Batches
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and deviation per channel [C] of what each layer gives over the calibration batches."""
    sums: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module, _: Any, output: Tensor) -> None:
        axis = -1 if isinstance(layer, nn.Linear) else 1
        rows = output.double().movedim(axis, -1).flatten(0, -2)  # [M, C]
        found = torch.stack([torch.ones(rows.shape[1]), rows.sum(0), rows.square().sum(0)])
        found[0] *= len(rows)
        sums[name] = sums[name] + found if name in sums else found

    layers = {name: model.get_submodule(name) for name in sorted(names)}
    with after_calls(layers, watch), modules.evaluating(model), torch.no_grad():
        for batch in calibration:
            call(model, batch.inputs)
    means = {name: total[1] / total[0] for name, total in sums.items()}
    spread = {name: (total[2] / total[0] - means[name] ** 2).clamp_min(0) for name, total in sums.items()}
    return means, {name: variance.sqrt() for name, variance in spread.items()}
