"""The parts of a network that are rounded one after the other: layers, blocks, or the network as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rounding.capture import taken
from plisse.core import modules
from plisse.core.batch import Inputs
from plisse.core.hooks import before_calls
from plisse.core.reparam import Reparametrized
from plisse.errors import InputError

MULTIPLIED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LISTS = (nn.Sequential, nn.ModuleList)
KINDS = ("layer", "block", "network")


@dataclass(frozen=True)
class Unit:
    """A module by its dotted name ("" is the whole network), the rounded weights in it in the order in which
    their layers are called, and how often one pass calls the module."""

    name: str
    weights: tuple[str, ...]
    calls: int = 1


def check_kind(kind: str) -> None:
    """Raise InputError for an unknown kind of unit."""
    if kind not in KINDS:
        raise InputError(f"units {kind!r}", expected=f"one of {', '.join(KINDS)}", hint="block='block'")


def units(quantized: Reparametrized, example: Inputs, kind: str) -> tuple[Unit, ...]:
    """The units in the order in which `example` reaches them.

    kind: "layer"; "block", the modules that `block_names` finds and every layer outside them; or "network".
    Only weights on uniform grids that are multiplied count; `left_out` tells the others.
    """
    check_kind(kind)
    order = called(quantized, example)
    layers = [layer for layer in order if f"{layer}.weight".lstrip(".") in roundable(quantized)]
    if kind == "network":
        return (Unit("", tuple(_weight(layer) for layer in layers)),) if layers else ()
    blocks = block_names(quantized.model) if kind == "block" else ()
    members: dict[str, list[str]] = {}
    for layer in layers:
        owner = next((name for name in blocks if layer.startswith(name + ".") and order.get(name)), layer)
        members.setdefault(owner, []).append(_weight(layer))
    return tuple(Unit(name, tuple(weights), order[name]) for name, weights in members.items())


def roundable(quantized: Reparametrized) -> dict[str, FakeQuantized]:
    """The weights on uniform grids that belong to a linear or convolution layer, by name."""
    layers = dict(quantized.model.named_modules())
    return {
        name: reparam
        for name, reparam in quantized.reparams.items()
        if isinstance(reparam, FakeQuantized) and isinstance(layers.get(name.rpartition(".")[0]), MULTIPLIED)
    }


def left_out(quantized: Reparametrized, reached: Iterable[str]) -> tuple[str, ...]:
    """A note for every computed weight that is not among `reached`."""
    done = set(reached)
    kinds = dict(quantized.model.named_modules())
    notes = []
    for name, reparam in quantized.reparams.items():
        layer = kinds.get(name.rpartition(".")[0])
        if name in done or not name.endswith("weight") or not isinstance(layer, modules.WEIGHTED):
            continue
        reason = "calibration does not reach it"
        if not isinstance(reparam, FakeQuantized):
            reason = "its grid is not uniform"
        elif not isinstance(layer, MULTIPLIED):
            reason = "an embedding has no inputs to weigh errors by"
        notes.append(f"{name!r} stays rounded to nearest: {reason}")
    return tuple(notes)


def block_names(model: nn.Module) -> tuple[str, ...]:
    """The largest modules, but the network itself, that hold several linear or convolution layers and no list
    of such modules: residual blocks, transformer layers.

    >>> block_names(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)))
    ('0',)
    """
    found: list[str] = []
    for name, module in model.named_modules():
        within = any(name.startswith(other + ".") for other in found)
        if name and not within and _several(module) and not _holds_blocks(module):
            found.append(name)
    return tuple(found)


def called(model: nn.Module, example: Inputs) -> dict[str, int]:
    """How often one pass calls each module, by name, in the order of the first calls."""
    network = model.model if isinstance(model, Reparametrized) else model
    counts: dict[str, int] = {}

    def count(name: str, *_: Any) -> None:
        counts[name] = counts.get(name, 0) + 1

    layers = dict(network.named_modules())
    with before_calls(layers, count), modules.evaluating(model), torch.no_grad():
        taken(model, example)
    return counts


def _weight(layer: str) -> str:
    return f"{layer}.weight".lstrip(".")


def _several(module: nn.Module) -> bool:
    return sum(isinstance(part, MULTIPLIED) for part in module.modules()) > 1


def _holds_blocks(module: nn.Module) -> bool:
    lists: list[Any] = [part for part in module.modules() if isinstance(part, LISTS)]
    return any(_several(element) for part in lists for element in part)
