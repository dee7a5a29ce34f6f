"""Attention heads as channels: query, key and value make them, the layer behind the attention reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from plisse.compress.prune.cutting import ChannelGroup, Member, cut_channels, mask_channels
from plisse.core import modules
from plisse.core.batch import Inputs, call

MADE_BY = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"))
READ_BY = ("output.dense", "out_proj", "o_proj", "out_lin", "dense")
COUNTED_BY = ("num_attention_heads", "num_heads", "n_heads")
TOLERANCE = 1e-3


def head_groups(model: nn.Module, example: Inputs) -> tuple[list[ChannelGroup], list[str]]:
    """The heads of every attention that can do with fewer of them, each attention a group; and remarks on
    attentions that cannot.

    Attentions are known by their layers: queries, keys and values under the names that transformers uses, as
    wide as each other, and one layer that reads them. A group is trusted after a trial: without half of its
    heads, the network must compute what it computes when nobody listens to these.
    """
    groups, notes = [], []
    for name, group in _candidates(model):
        if objection := _objection(model, example, group):
            notes.append(f"the heads of {name!r} left alone: {objection}")
        else:
            groups.append(group)
    return groups, notes


def _candidates(model: nn.Module) -> Iterator[tuple[str, ChannelGroup]]:
    for name, module in model.named_modules():
        heads = next((getattr(module, key) for key in COUNTED_BY if hasattr(module, key)), None)
        for names in MADE_BY:
            made = [module._modules.get(child) for child in names]
            if isinstance(heads, int) and heads > 1 and all(isinstance(layer, nn.Linear) for layer in made):
                reader = _reader(model, name, made[2])
                if reader is not None:
                    yield (
                        name,
                        _group(heads, [f"{name}.{child}".lstrip(".") for child in names], made, reader),
                    )


def _reader(model: nn.Module, name: str, values: Any) -> str | None:
    """The linear layer that reads the values of all heads: in the attention itself, or beside it."""
    for place in (name, name.rpartition(".")[0]):
        for child in READ_BY:
            try:
                layer = model.get_submodule(f"{place}.{child}".lstrip("."))
            except AttributeError:
                continue
            if isinstance(layer, nn.Linear) and layer.in_features == values.out_features:
                return f"{place}.{child}".lstrip(".")
    return None


def _group(heads: int, makers: list[str], layers: list[Any], reader: str) -> ChannelGroup:
    def member(layer: str, axis: Any, width: int) -> Member:
        channels = tuple(entry // (width // heads) for entry in range(width))
        return Member(layer, axis, 1 if axis == "in" else 0, True, tuple(range(width)), channels)

    made = [member(name, "out", layer.out_features) for name, layer in zip(makers, layers, strict=True)]
    return ChannelGroup(makers[0], heads, (*made, member(reader, "in", layers[2].out_features)))


def _objection(model: nn.Module, example: Inputs, group: ChannelGroup) -> str:
    """Why cutting half of the heads is not the same as masking them; "" if it is."""
    if any(len(member.indices) % group.size for member in group.members):
        return "its heads differ in width"
    cuts = {group.root: range(0, group.size, 2)}
    try:
        with modules.evaluating(model), torch.no_grad():
            networks = (cut_channels(model, [group], cuts), mask_channels(model, [group], cuts))
            found, wanted = (call(network, example) for network in networks)
    except (RuntimeError, IndexError, ValueError) as error:
        return f"without some of them, {str(error).splitlines()[0][:120]}"
    apart = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    return "" if apart <= TOLERANCE else f"cutting differs from masking by {apart:.1e}"
