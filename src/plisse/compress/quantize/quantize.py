"""Quantize: weights, and if wanted activations, on grids of few values."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from plisse.compress.names import without
from plisse.compress.quantize.activations import Activations, quantize_inputs
from plisse.compress.quantize.aware import Aware, train_quantized
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Grid, Nearest, Rounding
from plisse.compress.quantize.grids import Format, Granularity, PerChannel, check_bits
from plisse.compress.quantize.ranges import MSE, Range
from plisse.core import modules
from plisse.core.reparam import Reparam, plain, reparametrize, source
from plisse.train.task import Task


@dataclass(frozen=True)
class Quantize:
    """Round weights to uniform grids after training or, with `aware`, during further training.

    bits: 2 to 8, of weights. symmetric: no zero point. granularity: PerTensor(), PerChannel() or
    PerGroup(size). range: MinMax(), Percentile(p), MSE(norm) or MeanMagnitude(). grid: one that is not
    uniform, in place of all these. activations: how inputs of layers are rounded; None leaves them.
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
    activations: Activations | None = None
    first_last_bits: int | None = None
    rounding: Rounding = field(default_factory=Nearest)
    aware: Aware | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.first_last_bits is not None:
            check_bits(self.first_last_bits)

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        every = modules.weight_names(plain(model))
        names = without(every, self.ignore)
        edges = set(every[:1] + every[-1:])
        quantized = reparametrize(model, {name: self._fake(model, name, name in edges) for name in names})
        if self.activations is not None:
            special = {_layer(name): self.first_last_bits for name in edges if self.first_last_bits}
            ignored = [_layer(name) for name in every if name not in names]
            quantize_inputs(quantized, task.calibration, self.activations, special, ignored)
        quantized = self.rounding(quantized, model, task)
        return quantized if self.aware is None else train_quantized(quantized, task, self.aware)

    def _fake(self, model: nn.Module, name: str, edge: bool) -> Reparam:
        if self.grid is not None and not (edge and self.first_last_bits):
            return self.grid.quantized(source(model, name))
        learn = self.aware is not None and self.aware.learn_step
        form = Format((self.first_last_bits if edge else None) or self.bits, self.symmetric)
        return FakeQuantized(source(model, name), form, self.granularity, self.range, learn)


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]
