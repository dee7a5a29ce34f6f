"""Ranges of weights chosen by the error of the layer's output rather than by that of the weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.quantize.activations import watch_inputs
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Nearest, Rounding
from plisse.compress.quantize.grids import scale_and_zero, spread, symbols, values_of
from plisse.compress.quantize.rounding.moments import patches, rows_of
from plisse.core import modules
from plisse.core.batch import BatchList, n_samples
from plisse.core.reparam import Reparametrized, plain
from plisse.errors import InputError
from plisse.train.task import Task

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
COARSE, FINE = 24, 8


@dataclass(frozen=True)
class OutputMSE:
    """The share of each weight's min-max range with the least E |(W^ - W) x|^2 over the calibration inputs x
    as the original network meets them: (w^ - w) E[x x^T] (w^ - w)^T per unit, by search. Never worse than
    min-max by that measure, whereas the range with the least |W^ - W|^2 (`MSE`) clips too much at 3 bits.

    Errors of different groups of a channel are taken as independent. Weights that are not on uniform grids,
    and layers other than linear and (1-D, 2-D) convolution, stay as they are; scales per block become scales
    per group. Holds one matrix [K, K] per layer with K values per output.

    samples: of the calibration set, at least 1. then: how symbols are chosen once ranges are, for instance
    AdaRound. A member of the family `Rounding`: `Quantize(bits=3, rounding=OutputMSE())`.
    """

    samples: int = 256
    then: Rounding = field(default_factory=Nearest)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"{self.samples} samples", expected="at least 1", hint="OutputMSE(256)")

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        ranged: Any = modules.clone(quantized)
        fakes = {
            name.removesuffix("weight").rstrip("."): reparam
            for name, reparam in ranged.reparams.items()
            if isinstance(reparam, FakeQuantized)
            and name.endswith("weight")
            and isinstance(plain(ranged).get_submodule(name.removesuffix("weight").rstrip(".")), LAYERS)
        }
        for name, squares in _squares(original, list(fakes), task, self.samples).items():
            with torch.no_grad():
                refit(fakes[name], plain(ranged).get_submodule(name), squares)
        return self.then(ranged, original, task)


def refit(fake: FakeQuantized, layer: nn.Module, squares: Tensor) -> None:
    """In place: choose the scales and zero points of `fake`, the weight of `layer`, by output error.

    squares: E[x x^T] [G, K, K] per group of a convolution, K values per output.
    """
    values = fake.source().detach().float()
    width = fake.group if fake.scale.dim() == 2 else values[0].numel()
    cells = _cells(values, width)  # [C, U, width]
    blocks = [(rows, _blocks(squares[g], width)) for g, rows in enumerate(rows_of(layer, values))]
    shape, whole = fake.scale.shape, fake.scale.numel() == 1
    low, high = cells.amin(2).clamp_max(0), cells.amax(2).clamp_min(0)
    if whole:
        low, high = low.amin().reshape(1), high.amax().reshape(1)
    low, high = low.reshape(shape), high.reshape(shape)

    def error(share: Tensor) -> Tensor:
        scale, zero = scale_and_zero(low * share, high * share, fake.form)
        scale, zero = spread(scale, values, fake.group), spread(zero, values, fake.group)
        off = _cells(values_of(symbols(values, scale, zero, fake.form), scale, zero) - values, width)
        parts = [torch.einsum("cui,uij,cuj->cu", off[rows], block, off[rows]) for rows, block in blocks]
        found = torch.cat(parts)
        return found.sum().reshape(1) if whole else found.reshape(shape)

    share = _searched(error, high)
    scale, zero = scale_and_zero(low * share, high * share, fake.form)
    fake.scale.copy_(scale)
    fake.zero.copy_(zero)


def _searched(error: Any, like: Tensor) -> Tensor:
    """Shares of the range, above 0 up to 1, with the least error, each unit for itself."""
    best = torch.ones_like(like)
    least = error(best)
    for size, places in ((1 / COARSE, range(1, COARSE)), (1 / COARSE / FINE, range(1 - FINE, FINE))):
        middle = torch.zeros_like(best) if size == 1 / COARSE else best.clone()
        for place in places:
            share = (middle + place * size).clamp(1 / COARSE / FINE, 1)
            found = error(share)
            best = torch.where(found < least, share, best)
            least = torch.minimum(found, least)
    return best


def _cells(values: Tensor, width: int) -> Tensor:
    """[C, U, width]: the flattened channels in groups of `width`, the last one filled with zeros."""
    rows = values.flatten(1)
    n = -(-rows.shape[1] // width)
    return nn.functional.pad(rows, (0, n * width - rows.shape[1])).reshape(len(rows), n, width)


def _blocks(squares: Tensor, width: int) -> Tensor:
    """The blocks [U, width, width] on the diagonal of [K, K], filled with zeros at the end."""
    n = -(-len(squares) // width)
    wide = nn.functional.pad(squares, (0, n * width - len(squares)) * 2).reshape(n, width, n, width)
    return torch.stack([wide[u, :, u] for u in range(n)])


def _squares(original: nn.Module, names: list[str], task: Task, samples: int) -> dict[str, Tensor]:
    """E[x x^T] [G, K, K] of what enters each layer, float32, over some calibration samples."""
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    layers = {name: plain(original).get_submodule(name) for name in names}

    def watch(name: str, value: Tensor) -> None:
        x = patches(layers[name], value)  # [G, K, M]
        sums[name] = sums.get(name, torch.zeros(())) + x @ x.transpose(1, 2)
        counts[name] += x.shape[2]

    if not len(task.calibration):
        raise InputError("no calibration batch", expected="at least one, to see what enters layers")
    batches, left = [], samples
    for batch in task.calibration:
        batches.append(batch)
        left -= n_samples(batch.inputs)
        if left <= 0:
            break
    watch_inputs(original, layers, BatchList(tuple(batches)), watch)
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise InputError(f"NaN or infinity entering {name!r}", expected="finite calibration inputs")
    return {name: total / counts[name] for name, total in sums.items()}
