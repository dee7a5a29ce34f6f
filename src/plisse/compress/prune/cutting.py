"""Remove channels from layers, or mask them: the same function on the remaining ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from plisse.core import modules
from plisse.core.keptstatistics import pick_kept

Axis = Literal["out", "in", "both"]

Cuts = Mapping[str, Sequence[int]]
"""Root layer of a group to the channels of that group that go."""


@dataclass(frozen=True)
class _Side:
    """Which tensors of a layer a channel lives in (name to dimension), and which attributes count it."""

    tensors: Mapping[str, int]
    sizes: tuple[str, ...]


_BATCH_NORM = {
    "both": _Side({"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}, ("num_features",))
}
SIDES: dict[type[nn.Module], dict[str, _Side]] = {
    nn.Conv2d: {
        "out": _Side({"weight": 0, "bias": 0}, ("out_channels",)),
        "in": _Side({"weight": 1}, ("in_channels",)),
        "both": _Side({"weight": 0, "bias": 0}, ("out_channels", "in_channels", "groups")),
    },
    nn.Linear: {
        "out": _Side({"weight": 0, "bias": 0}, ("out_features",)),
        "in": _Side({"weight": 1}, ("in_features",)),
    },
    nn.BatchNorm1d: _BATCH_NORM,
    nn.BatchNorm2d: _BATCH_NORM,
}


@dataclass(frozen=True)
class Member:
    """One side of one layer in a channel group: its entry indices[i] belongs to channel channels[i].

    dim: of the weight tensor that this side counts. has_weight: False for a norm without affine parameters.
    """

    layer: str
    axis: Axis
    dim: int
    has_weight: bool
    indices: tuple[int, ...]
    channels: tuple[int, ...]

    def entries(self, channels: Sequence[int]) -> list[int]:
        gone = set(channels)
        return [i for i, channel in zip(self.indices, self.channels, strict=True) if channel in gone]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that only go together: a root layer that makes them, and every layer side that they touch."""

    root: str
    size: int
    members: tuple[Member, ...]


def cut_channels(model: nn.Module, groups: Sequence[ChannelGroup], cuts: Cuts) -> nn.Module:
    """A copy of a plain network without the channels in `cuts`."""
    gone: dict[tuple[str, Axis], set[int]] = {}
    for group in groups:
        for member in group.members:
            entries = member.entries(cuts.get(group.root, ()))
            gone.setdefault((member.layer, member.axis), set()).update(entries)
    result = modules.clone(model)
    for (name, axis), entries_gone in gone.items():
        if entries_gone:
            _shrink(result.get_submodule(name), axis, entries_gone)
    return result


def mask_channels(model: nn.Module, groups: Sequence[ChannelGroup], cuts: Cuts) -> nn.Module:
    """A copy of full size in which nobody listens to the channels in `cuts`."""
    result = modules.clone(model)
    with torch.no_grad():
        for group in groups:
            for member in group.members:
                entries = member.entries(cuts.get(group.root, ()))
                if member.axis == "in" and entries:
                    layer: Any = result.get_submodule(member.layer)
                    layer.weight.index_fill_(1, torch.tensor(entries, device=layer.weight.device), 0.0)
    return result


def _shrink(layer: Any, axis: Axis, gone: set[int]) -> None:
    side = SIDES[type(layer)][axis]
    count = getattr(layer, side.sizes[0])
    kept = torch.tensor([i for i in range(count) if i not in gone])
    for name, dim in side.tensors.items():
        value = getattr(layer, name)
        if value is None:
            continue
        smaller = value.detach().index_select(dim, kept.to(value.device))
        if isinstance(value, nn.Parameter):
            smaller = nn.Parameter(smaller, requires_grad=value.requires_grad)
        setattr(layer, name, smaller)
    if axis != "in":
        pick_kept(layer, kept)
    for attribute in side.sizes:
        setattr(layer, attribute, len(kept))
