"""Balance: the scales of factors evened out, which changes nothing until they are quantized."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plisse.compress.equalize import scale_pair
from plisse.compress.pairs import by_input_channel
from plisse.core import modules
from plisse.core.reparam import baked
from plisse.train.task import Task

SWEEPS = 50
CONVERGED = 1e-4
ROOM = 1e6
"""Largest factor in one sweep."""


@dataclass(frozen=True)
class Balance:
    """Even out the factors of every decomposed layer: for each rank r, column u_r of one factor is multiplied
    by a and row v_r of the one before it divided, with a = sqrt(max |v_r| / max |u_r|). There is nothing
    between two factors, so outputs stay as they are, up to rounding. Singular values split evenly begin
    almost balanced; training undoes it.

    A chain of factors is any Sequential of two or more linear layers, or of convolutions, alone. Longer
    chains (Tucker, CP) are swept until nothing changes. The network is baked first.

    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.zeros(1, 3), *[BatchList(())] * 3)
    >>> pair = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 5))
    >>> even = Balance()(nn.Sequential(pair, nn.ReLU()), task)[0]
    >>> torch.allclose(even[0].weight.abs().amax(1), even[1].weight.abs().amax(0))
    True
    """

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        return balance(modules.clone(baked(model)))


def balance(model: nn.Module) -> nn.Module:
    """Balance all chains of factors of `model`, in place, and return it."""
    for module in model.modules():
        if is_chain(module):
            layers: list[Any] = list(module.children())
            for _ in range(SWEEPS):
                changes = [_even(*pair) for pair in itertools.pairwise(layers)]
                if max(changes) < CONVERGED:
                    break
    return model


def is_chain(module: nn.Module) -> bool:
    """Whether a module is a Sequential of factors: layers of one kind whose channels fit, nothing between."""
    layers: list[Any] = list(module.children())
    if not isinstance(module, nn.Sequential) or len(layers) < 2:
        return False
    for kind, out, into in (
        (nn.Linear, "out_features", "in_features"),
        (nn.Conv2d, "out_channels", "in_channels"),
    ):
        if all(type(layer) is kind and not list(layer.children()) for layer in layers):
            ends = itertools.pairwise(layers)
            return all(getattr(first, out) == getattr(second, into) for first, second in ends)
    return False


def _even(first: Any, second: Any) -> float:
    """In place: even out one pair. Gives the largest |log s|."""
    columns = by_input_channel(second, len(first.weight)).detach()  # [G, O / G, C / G, rest]
    rows = first.weight.detach().double().flatten(1).abs().amax(1)
    heights = columns.double().abs().amax((1, 3)).flatten()
    s = torch.where((rows > 0) & (heights > 0), (rows / heights).sqrt().clamp(1 / ROOM, ROOM), 1.0)
    scale_pair(first, second, s)
    return float(s.log().abs().max())
