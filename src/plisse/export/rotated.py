"""Layers that are turned into another basis (QuIP): integer kernels would round each stage of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from plisse.core import modules

ROTATIONS = ("input_rotation", "output_rotation")


class Rotated(nn.Module):
    """A layer with its rotations under one name, by which their nodes are known in an exported graph."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.layer(*inputs, **named)


def rotated_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer on which a rotation hangs, by name.

    >>> from plisse.core.rotation import InputRotation
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> InputRotation(4).attach(net[1])
    >>> list(rotated_layers(net))
    ['1']
    """
    return {name: part for name, part in model.named_modules() if any(hasattr(part, r) for r in ROTATIONS)}


def with_names(model: nn.Module) -> nn.Module:
    """`model`, its rotated layers wrapped in `Rotated`, in place."""
    for name, layer in rotated_layers(model).items():
        if not name:
            return Rotated(layer)
        modules.replace(model, name, Rotated(layer))
    return model


def rotated_nodes(nodes: Iterable[Any]) -> list[str]:
    """The names of the nodes of an ONNX graph that stand for wrapped layers: the products and the rotations.

    Nodes are named by torch's tracing exporter, /wrapper/layer/MatMul and /wrapper/input_rotation/Add (hooks
    count as the wrapper's); fusions append to a name.
    """
    names = [node.name for node in nodes]
    places = {f"{name.split(f'/{each}')[0]}/" for name in names for each in ROTATIONS if f"/{each}" in name}
    return [name for name in names if name.startswith(tuple(places))]
