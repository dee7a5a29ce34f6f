"""Pairs of layers between which channels may be scaled: a factor out of one goes into the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from plisse.compress.trace import Reader, Trace, sole_holders
from plisse.core.batch import Inputs

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

RECTIFIERS = ("aten.relu.default", "aten.relu_.default")
ELEMENTWISE = (*RECTIFIERS, "aten.leaky_relu.default", "aten.leaky_relu_.default", "aten.detach.default")
POOLS = ("aten.max_pool", "aten.avg_pool", "aten._adaptive_avg_pool", "aten.adaptive_")
RESHAPES = ("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")


@dataclass(frozen=True)
class Pair:
    """Output channel i of layer `first` reaches only input channel i of layer `second`, through operators f
    with f(s x) = s f(x) for s > 0. rectified: a rectifier (relu) is the first of them."""

    first: str
    second: str
    rectified: bool = False

    def __str__(self) -> str:
        return f"{self.first!r} and {self.second!r}"


def scalable_pairs(model: nn.Module, example: Inputs) -> list[Pair]:
    """Pairs of linear and convolution layers with nothing between them but rectifiers, leaky rectifiers,
    pooling, flattening and identities, whose values nobody else reads.

    Both layers must be called once, and hold tensors that no other module holds. Convolutions may be grouped;
    a depthwise one is second of one pair and first of another. `example`: inputs to trace with.
    """
    every = (*LAYERS, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
    trace = Trace(model, example, every)
    fit = {name for name, n in trace.calls.items() if n == 1} & sole_holders(model)
    layers = [name for name in trace.made if name in fit and isinstance(model.get_submodule(name), LAYERS)]
    found = []
    for first in layers:
        reached = _follow(trace, trace.made[first], isinstance(model.get_submodule(first), nn.Linear))
        if reached and reached[0] in layers and _aligned(model, trace, first, reached[0]):
            found.append(Pair(first, *reached))
    return found


def _follow(trace: Trace, value: int, linear: bool) -> tuple[str, bool] | None:
    """The layer that alone reads `value`, after operators that keep channels apart, and whether a rectifier
    comes first. linear: channels are the last axis rather than the second."""
    rectified, start = False, value
    while len(trace.readers[value]) == 1:
        reader = trace.readers[value][0]
        if reader.layer:
            return reader.name, rectified
        if reader.made is None or not keeps_channels(trace, value, reader, linear):
            return None
        rectified |= value == start and reader.name in RECTIFIERS
        value = reader.made
    return None


def keeps_channels(trace: Trace, value: int, reader: Reader, linear: bool = False) -> bool:
    """Whether an operator works on each channel of `value` alone, and lets factors above 0 pass."""
    if reader.name in ELEMENTWISE:
        return True
    before, after = trace.shapes[value], trace.shapes[reader.made or 0]
    if linear or len(before) < 3:
        return False
    if reader.name.startswith(POOLS):
        return True
    if reader.name == "aten.mean.dim":
        axes = reader.arguments[0] if reader.arguments else ()
        return all(axis % len(before) >= 2 for axis in axes) and len(axes) > 0
    return reader.name in RESHAPES and after == (before[0], math.prod(before[1:]))


def _aligned(model: nn.Module, trace: Trace, first: str, second: str) -> bool:
    """Whether the input channels of `second` are the output channels of `first`, each once or several times
    in a row."""
    made: Any = model.get_submodule(first)
    reads: Any = model.get_submodule(second)
    shape = trace.shapes[trace.inputs[second]]
    if isinstance(reads, nn.Linear):
        flat = isinstance(made, nn.Linear) or len(shape) == 2
        return flat and shape[-1] % len(made.weight) == 0
    return not isinstance(made, nn.Linear) and reads.in_channels == len(made.weight)


def by_input_channel(layer: Any, channels: int) -> Tensor:
    """A view [groups, outputs of a group, input channels of a group, rest] of a layer's weight; the layer
    reads `channels` channels, a linear one perhaps several values of each."""
    groups = getattr(layer, "groups", 1)
    return layer.weight.detach().view(groups, len(layer.weight) // groups, channels // groups, -1)
