"""Structural changes of a network as data: which leaf layer stands where its skeleton has another.

A file stores a network as the origin of its skeleton plus edits. An edit names a module and gives the type
and constructor arguments of the layer that stands there now, from the allow-list LAYERS. Loading an edit
builds that layer and nothing else; no code that a file names is ever run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from plisse.core import modules
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.fakequant import InputQuantizer
from plisse.core.inputinterval import InputInterval
from plisse.core.inputscale import InputScale
from plisse.core.keptstatistics import KeptStatistics
from plisse.core.recurrent import RoundedGRU, RoundedLSTM
from plisse.core.rotation import InputRotation, OutputRotation
from plisse.errors import GraphError, InputError

LIMIT = 1 << 20
"""Largest number in an edit."""


@dataclass(frozen=True)
class Edit:
    """The module `name` is a `layer` built with `arguments` (JSON data)."""

    name: str
    layer: str
    arguments: Mapping[str, Any]


def _conv2d(layer: Any) -> dict[str, Any]:
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": layer.padding if isinstance(layer.padding, str) else list(layer.padding),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "padding_mode": layer.padding_mode,
    }


def _batch_norm(layer: Any) -> dict[str, Any]:
    return {
        "num_features": layer.num_features,
        "eps": layer.eps,
        "momentum": layer.momentum,
        "affine": layer.affine,
        "track_running_stats": layer.track_running_stats,
    }


def _linear(layer: Any) -> dict[str, Any]:
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
    }


def _embedding(layer: Any) -> dict[str, Any]:
    return {
        "num_embeddings": layer.num_embeddings,
        "embedding_dim": layer.embedding_dim,
        "padding_idx": layer.padding_idx,
    }


def _layer_norm(layer: Any) -> dict[str, Any]:
    return {"normalized_shape": list(layer.normalized_shape), "eps": layer.eps}


def _group_norm(layer: Any) -> dict[str, Any]:
    return {
        "num_groups": layer.num_groups,
        "num_channels": layer.num_channels,
        "eps": layer.eps,
        "affine": layer.affine,
    }


def _nothing(layer: Any) -> dict[str, Any]:
    return {}


LAYERS: dict[str, tuple[type[nn.Module], Callable[[Any], dict[str, Any]]]] = {
    "Conv2d": (nn.Conv2d, _conv2d),
    "Linear": (nn.Linear, _linear),
    "BatchNorm2d": (nn.BatchNorm2d, _batch_norm),
    "BatchNorm1d": (nn.BatchNorm1d, _batch_norm),
    "Embedding": (nn.Embedding, _embedding),
    "LayerNorm": (nn.LayerNorm, _layer_norm),
    "GroupNorm": (nn.GroupNorm, _group_norm),
    "Identity": (nn.Identity, _nothing),
    "Sequential": (nn.Sequential, _nothing),
    "InputQuantizer": (InputQuantizer, InputQuantizer.arguments),
    "DynamicQuantizer": (DynamicQuantizer, DynamicQuantizer.arguments),
    "InputInterval": (InputInterval, InputInterval.arguments),
    "InputScale": (InputScale, InputScale.arguments),
    "InputRotation": (InputRotation, InputRotation.arguments),
    "OutputRotation": (OutputRotation, OutputRotation.arguments),
    "KeptStatistics": (KeptStatistics, KeptStatistics.arguments),
    "RoundedLSTM": (RoundedLSTM, RoundedLSTM.arguments),
    "RoundedGRU": (RoundedGRU, RoundedGRU.arguments),
}

ATTACHED = {
    "InputQuantizer": "input_quantizer",
    "DynamicQuantizer": "input_quantizer",
    "InputInterval": "input_quantizer",
    "InputScale": "input_scale",
    "InputRotation": "input_rotation",
    "OutputRotation": "output_rotation",
    "KeptStatistics": "kept_statistics",
}
"""Layers that hang on another one, by the name of the child that they are."""


def describe(name: str, module: nn.Module) -> Edit | None:
    """The edit that would rebuild `module` at `name`; None for a type that is not on the allow-list."""
    for layer, (kind, arguments) in LAYERS.items():
        if type(module) is kind:
            return Edit(name, layer, arguments(module))
    return None


def difference(skeleton: nn.Module, model: nn.Module) -> tuple[Edit, ...]:
    """The edits that give `skeleton` the structure of `model`.

    Raises GraphError where a module was changed in a way that edits cannot express.
    """
    before = {name: describe(name, module) for name, module in skeleton.named_modules()}
    edits = []
    for name, module in model.named_modules():
        now = describe(name, module)
        if now is not None and now != before.get(name):
            edits.append(now)
        elif now is None and name not in before:
            raise GraphError(
                f"a new module {name!r} of type {type(module).__name__}",
                expected=f"changes made of {', '.join(LAYERS)}",
            )
    return tuple(edits)


def apply(model: nn.Module, edits: tuple[Edit, ...]) -> nn.Module:
    """Carry out `edits` on `model`, in place, and return it.

    Raises InputError for a layer that is not on the allow-list, a name that does not exist, or arguments
    that are no sizes within reason.
    """
    for edit in edits:
        if edit.layer not in LAYERS:
            raise InputError(f"an edit with layer {edit.layer!r}", expected=f"one of {', '.join(LAYERS)}")
        for key, value in edit.arguments.items():
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, int) and abs(number) > LIMIT:
                    raise InputError(
                        f"{key}={number} in the edit of {edit.name!r}", expected=f"at most {LIMIT}"
                    )
        kind = LAYERS[edit.layer][0]
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in edit.arguments.items()}
        try:
            layer: Any = kind(**arguments)
            if edit.layer in ATTACHED:
                layer.attach(model.get_submodule(edit.name.rpartition(".")[0]))
            else:
                modules.replace(model, edit.name, layer)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"an edit of {edit.name!r} that fails: {error}") from error
    return model
