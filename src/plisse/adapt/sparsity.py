"""Sparsity: the largest weights of every layer stay, and what stays at a high sparsity stays at a lower one.

Zeros in dense kernels save no time: what shrinks is the file, and memory where weights are held compressed.
Source: Nunez et al. 2021 (LCS, unstructured).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.adapt.elastic import Point, Range, Space
from plisse.adapt.reparams import Dial, on_line
from plisse.adapt.subspace import Subspace
from plisse.compress.prune.mask import masked_stored
from plisse.core import modules
from plisse.core.reparam import Plain, Reparam, Reparametrized, baked
from plisse.core.stored import Stored
from plisse.errors import InputError

SPARSITIES = (0.975, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.25, 0.0)
HIGHEST = 0.999


class TopK(Reparam):
    """w where |w| is above the layer's threshold, else 0; the gradient reaches the weights that stay.

    The threshold is the round(s n)-th smallest magnitude of the source at the dial's sparsity s. In
    evaluation mode it is read from `thresholds` [P], one per listed point and interpolated between, once
    `measure_thresholds` has filled it.
    """

    thresholds: Tensor

    def __init__(self, inner: Reparam, dial: Dial) -> None:
        super().__init__()
        self.source, self.dial = inner, dial
        self.register_buffer("thresholds", torch.zeros(0))

    def forward(self) -> Tensor:
        weight = self.source.forward()
        if not self.training and (listed := self.thresholds.tolist()):
            below, above, share = self.dial.between
            return F.hardshrink(weight, listed[below] + (listed[above] - listed[below]) * share)
        keep = weight.detach().abs() > magnitude_at(weight, self.dial.point.settings["sparsity"])
        return torch.where(keep, weight, weight.new_zeros(()))

    def stored(self) -> Stored:
        return masked_stored(self.source.stored(), (self.forward().detach() != 0).cpu().numpy())


def sparsity_subspace(
    model: nn.Module,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    line: bool = False,
    spread: float = 0.1,
    names: Sequence[str] | None = None,
) -> Subspace:
    """The networks of all sparsities of `model` from 0 or the least of `sparsities` to the highest.

    sparsities: share of zeros of each covered weight matrix, listed. line: the covered matrices, and the
    norms, are on a line whose dense endpoint is the model and whose sparse one starts as a copy moved by
    `spread` deviations; takes twice the memory. names: weight matrices that are covered; None for all but the
    first and the last.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> elastic = sparsity_subspace(net, sparsities=(0.0, 0.75)).elastic()
    >>> int(elastic.extract(Point("sparsity", 0.75))[2].weight.count_nonzero())
    16
    """
    space = sparsity_space(sparsities)
    network = modules.clone(baked(model))
    dial = Dial(space)
    reparams: dict[str, Reparam] = {}
    covered = inner_weights(network) if names is None else checked_weights(network, names)
    for seed, name in enumerate(covered):
        inner: Reparam = Plain(modules.tensor(network, name))
        reparams[name] = TopK(on_line(inner, dial, spread, seed) if line else inner, dial)
    if line:
        reparams.update(norms_on_line(network, dial))
    return Subspace(Reparametrized(network, reparams), dial)


def measure_thresholds(subspace: Subspace) -> None:
    """Fill the tables of thresholds of every listed point, in place. Does nothing where nothing is sparse."""
    before = subspace.point
    for reparam in subspace.wrapped.reparams.values():
        if isinstance(reparam, TopK):
            found = []
            for point in subspace.space.points:
                subspace.select(point)
                with torch.no_grad():
                    found.append(magnitude_at(reparam.source(), point.settings["sparsity"]))
            reparam.thresholds = torch.tensor(found, device=reparam.thresholds.device)
    subspace.select(before)


def sparsity_space(sparsities: Sequence[float]) -> Space:
    """Sparsities in falling order as a space: the sparsest is the cheapest."""
    fine = all(0 <= sparsity <= HIGHEST for sparsity in sparsities)
    if not sparsities or not fine or len(set(sparsities)) < len(sparsities):
        raise InputError(f"sparsities {tuple(sparsities)}", expected=f"different shares from 0 to {HIGHEST}")
    points = tuple(Point("sparsity", float(sparsity)) for sparsity in sorted(sparsities, reverse=True))
    return Space((Range("sparsity", points[-1].value, points[0].value),), points)


def magnitude_at(weight: Tensor, sparsity: float) -> float:
    """The magnitude at and below which round(s n) of n weights lie; 0 where none is to go.

    >>> magnitude_at(torch.tensor([3.0, -1.0, 2.0, -4.0]), 0.5)
    2.0
    """
    cut = round(sparsity * weight.numel())
    if cut == 0:
        return 0.0
    magnitudes = weight.detach().abs().flatten()
    if magnitudes.device.type != "cpu":
        return float(magnitudes.kthvalue(cut).values)
    return float(np.partition(magnitudes.float().numpy(), cut - 1)[cut - 1])


def inner_weights(network: nn.Module) -> list[str]:
    """The weight matrices but the first, the last and embeddings, which LCS leaves alone too."""
    names = [
        name
        for name in modules.weight_names(network)[1:-1]
        if not isinstance(network.get_submodule(name.rpartition(".")[0]), nn.Embedding)
    ]
    if not names:
        raise InputError(
            f"a {type(network).__name__} with {len(modules.weight_names(network))} weight matrices",
            expected="at least 3, so that there are some beside the first and the last",
            hint="names=[...]",
        )
    return names


def checked_weights(network: nn.Module, names: Sequence[str]) -> list[str]:
    """`names`, each of which is a weight matrix of the network."""
    known = modules.weight_names(network)
    if unknown := [name for name in names if name not in known] or not names:
        raise InputError(f"weights {unknown or list(names)}", expected=f"some of {', '.join(known)[:300]}")
    return list(dict.fromkeys(names))


def norms_on_line(network: nn.Module, dial: Dial) -> dict[str, Reparam]:
    """A line for the weight and bias of every norm."""
    found: dict[str, Reparam] = {}
    for layer, module in network.named_modules():
        if type(module).__name__ in ("BatchNorm1d", "BatchNorm2d", "GroupNorm", "LayerNorm"):
            for name, value in module.named_parameters(recurse=False):
                found[f"{layer}.{name}".lstrip(".")] = on_line(Plain(value), dial)
    return found
