"""Quantize: weights, and if wanted activations, on grids of few values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from plisse.compress.names import without
from plisse.compress.quantize.activations import Activations, quantize_inputs
from plisse.compress.quantize.aware import Aware, train_quantized
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Grid, Nearest, Rounding
from plisse.compress.quantize.grids import Format, Granularity, PerChannel, check_bits
from plisse.compress.quantize.importance import Importance, check_weighable
from plisse.compress.quantize.intervals import Intervals, Signs, place_intervals
from plisse.compress.quantize.ranges import MSE, Range
from plisse.core import modules
from plisse.core.reparam import Reparam, Reparametrized, plain, reparametrize, source
from plisse.train.task import Task


@dataclass(frozen=True)
class Quantize:
    """Round weights to uniform grids after training or, with `aware`, during further training.

    bits: 2 to 8, of weights. symmetric: no zero point. granularity: PerTensor(), PerChannel() or
    PerGroup(size). range: MinMax(), Percentile(p), MSE(norm) or MeanMagnitude(). narrow: symmetric grids
    spare the lowest symbol (`Format`). grid: one that is not uniform, in place of all these. importance: what
    the error of each weight is worth, for grids that are fitted to it: InputEnergy() or Curvature().
    activations: how inputs of layers are rounded: Activations(), or Signs() and Intervals(), with thresholds
    of their own; None leaves them.
    first_last_bits: bits of weights and activations of the first and last weighted layer (in order of
    definition), whose grid is uniform. rounding: how symbols are chosen once grids are. aware: how to train;
    None trains nothing. ignore: weights, layers or parts of the network that stay as they are.

    Pruned weights stay exactly zero. Returns a `Reparametrized`; the file stores symbols and scales.
    Does not choose bits per layer, nor fold batch norm.

    >>> import torch
    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.zeros(1, 4), *[BatchList(())] * 3)
    >>> small = Quantize(bits=4)(nn.Linear(4, 2), task)
    >>> int(abs(small.reparams["weight"].stored().symbols).max()) <= 7
    True
    """

    bits: int = 8
    symmetric: bool = True
    granularity: Granularity = field(default_factory=PerChannel)
    range: Range = field(default_factory=MSE)
    grid: Grid | None = None
    activations: Activations | Signs | Intervals | None = None
    first_last_bits: int | None = None
    rounding: Rounding = field(default_factory=Nearest)
    aware: Aware | None = None
    ignore: tuple[str, ...] = ()
    narrow: bool = True
    importance: Importance | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.first_last_bits is not None:
            check_bits(self.first_last_bits)
        if self.importance is not None:
            check_weighable(self.grid)

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        every = modules.weight_names(plain(model))
        names = without(every, self.ignore)
        edges = set(every[:1] + every[-1:])
        worth = {} if self.importance is None else self.importance.of(model, task, names)
        quantized = reparametrize(
            model, {name: self._fake(model, name, name in edges, worth) for name in names}
        )
        ignored = [_layer(name) for name in every if name not in names]
        special = {_layer(name): self.first_last_bits for name in edges if self.first_last_bits}
        self._round_inputs(quantized, task, special, ignored)
        quantized = self.rounding(quantized, model, task)
        return quantized if self.aware is None else train_quantized(quantized, task, self.aware)

    def _round_inputs(
        self, quantized: Reparametrized, task: Task, special: dict[str, int], ignored: list[str]
    ) -> None:
        """In place; `special` layers get uniform grids of so many bits."""
        how = self.activations
        if isinstance(how, Activations):
            quantize_inputs(quantized, task.calibration, how, special, ignored)
        elif how is not None:
            place_intervals(quantized, task.calibration, how, [*special, *ignored])
            if edges := {name: bits for name, bits in special.items() if name not in ignored}:
                others = [name for name, _ in modules.weighted_layers(plain(quantized)) if name not in edges]
                quantize_inputs(quantized, task.calibration, Activations(8), edges, others)

    def _fake(self, model: nn.Module, name: str, edge: bool, worth: Mapping[str, Tensor]) -> Reparam:
        if self.grid is not None and not (edge and self.first_last_bits):
            grid: Any = self.grid
            return grid.quantized(source(model, name), *([worth[name]] if name in worth else []))
        learn = self.aware is not None and self.aware.learn_step
        form = Format((self.first_last_bits if edge else None) or self.bits, self.symmetric, self.narrow)
        return FakeQuantized(source(model, name), form, self.granularity, self.range, learn)


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]
