"""Factorize: layers at chosen ranks become pairs of thin layers, and back for checking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from plisse.compress.lowrank.schemes import Channel, Scheme
from plisse.compress.lowrank.spectrum import Spectrum, covariances, spectrum
from plisse.compress.notes import with_notes
from plisse.core import modules
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import Task


@dataclass(frozen=True)
class Factorize:
    """Replace layers by the two factors of their truncated singular value decomposition.

    ranks: layer name to rank, at least 1. Layers that are not named stay whole, as do those whose factors
    would hold no fewer numbers (a note says so). scheme: Channel() or Spatial(). whitened: weigh directions
    by how much the calibration inputs use them. The network is baked first.
    Raises InputError for a name that is no layer, a rank below 1, or a layer that the scheme cannot take.

    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.zeros(1, 8), *[BatchList(())] * 3)
    >>> Factorize({"0": 2})(nn.Sequential(nn.Linear(8, 8)), task)
    Sequential(
      (0): Sequential(
        (0): Linear(in_features=8, out_features=2, bias=False)
        (1): Linear(in_features=2, out_features=8, bias=True)
      )
    )
    """

    ranks: Mapping[str, int]
    scheme: Scheme = field(default_factory=Channel)
    whitened: bool = False

    def __post_init__(self) -> None:
        for name, rank in self.ranks.items():
            if rank < 1:
                raise InputError(f"rank {rank} for {name!r}", expected="at least 1")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        network = modules.clone(baked(model))
        layers = {name: self._layer(network, name) for name in self.ranks}
        seen = covariances(network, layers, task.calibration, self.scheme) if self.whitened else {}
        found = {name: spectrum(layer, self.scheme, seen.get(name)) for name, layer in layers.items()}
        return factorized(network, self.ranks, found, self.scheme)

    def _layer(self, network: nn.Module, name: str) -> nn.Module:
        layers = dict(modules.weighted_layers(network))
        if name not in layers:
            raise InputError(f"no layer {name!r}", expected=f"one of {', '.join(list(layers)[:4])}, ...")
        reason = self.scheme.reason(layers[name]) or modules.bound_layers(network).get(name)
        if reason is not None:
            raise InputError(f"{name!r} cannot be factorized: {reason}", expected="another layer or scheme")
        return layers[name]


def factorized(
    model: nn.Module, ranks: Mapping[str, int], spectra: Mapping[str, Spectrum], scheme: Scheme
) -> nn.Module:
    """A copy of the plain `model` with every layer of `ranks` that gets smaller as a pair of factors."""
    network = modules.clone(model)
    notes = []
    for name, rank in ranks.items():
        found = spectra[name]
        if rank > found.break_even:
            notes.append(f"{name!r} left whole: rank {rank} is above {found.break_even}, where factors save")
            continue
        modules.replace(network, name, scheme.pair(network.get_submodule(name), *_single(found, rank)))
    return with_notes(network, notes)


def merged(model: nn.Module, original: nn.Module, scheme: Scheme | None = None) -> nn.Module:
    """The factorized `model` with each pair multiplied out again, in the structure of `original`."""
    network = modules.clone(baked(model))
    for name, layer in modules.weighted_layers(baked(original)):
        pair: Any = network.get_submodule(name)
        if isinstance(pair, nn.Sequential):
            whole: Any = modules.clone(layer)
            with torch.no_grad():
                whole.weight.copy_((scheme or Channel()).merged(pair, layer))
                if whole.bias is not None:
                    whole.bias.copy_(pair[1].bias)
            modules.replace(network, name, whole)
    return network


def truncated_weight(layer: Any, found: Spectrum, rank: int, scheme: Scheme) -> torch.Tensor:
    """The weight of `layer` at a rank, in its own shape: what a pair of factors computes with."""
    pair = scheme.pair(layer, *_single(found, rank))
    return scheme.merged(pair, layer)


def _single(found: Spectrum, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = found.factors(rank)
    return first.float(), second.float()
