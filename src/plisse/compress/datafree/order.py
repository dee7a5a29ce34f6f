"""Samples from all over a loader in random order, and whether the loader had them sorted by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plisse.core.batch import Batch, Batches, Inputs, map_inputs, n_samples
from plisse.errors import InputError

SHUFFLES = 20  # random orders that a suspicious one is compared with
MARGIN = 0.1  # distance of histograms, 0 to 1, beyond the most uneven of these


@dataclass(frozen=True, eq=False)
class Gathered:
    """inputs: of N samples in random order. labels: [N] where there are class indices. origin: number of the
    batch that each came in [N]."""

    inputs: Inputs
    labels: Tensor | None
    origin: Tensor


def gathered(batches: Batches, samples: int, seed: int) -> Gathered:
    """At most `samples` samples from batches drawn from one epoch, in random order.

    Raises InputError where there are none.
    """
    if samples < 1 or not len(batches):
        raise InputError(f"{samples} samples of {len(batches)} batches", expected="at least one")
    draw = torch.Generator().manual_seed(seed)
    kept: list[Batch] = []
    for index in torch.randperm(len(batches), generator=draw).tolist():
        kept.append(batches[index])
        if sum(n_samples(batch.inputs) for batch in kept) >= samples:
            break
    origin = torch.cat([torch.full((n_samples(batch.inputs),), i) for i, batch in enumerate(kept)])
    order = torch.randperm(len(origin), generator=draw)[:samples]
    labels = _labels(kept, len(origin))
    inputs = _joined([batch.inputs for batch in kept])
    return Gathered(
        map_inputs(inputs, lambda value: value[order]),
        None if labels is None else labels[order],
        origin[order],
    )


def is_sorted(labels: Tensor, origin: Tensor) -> bool:
    """Whether batches differ in their classes by more than chance: the mean distance (total variation) of a
    batch's histogram from that of all is larger, by 0.1, than in any of 20 random orders.

    labels: the class of each sample [N]. origin: the number of the batch that each came in [N].

    >>> is_sorted(torch.arange(64) // 32, torch.arange(64) // 8)
    True
    >>> is_sorted(torch.arange(64) % 2, torch.arange(64) // 8)
    False
    """
    if len(origin) == 0 or int(origin.max()) == 0:
        return False
    draw = torch.Generator().manual_seed(0)
    chance = [_uneven(labels[torch.randperm(len(labels), generator=draw)], origin) for _ in range(SHUFFLES)]
    return _uneven(labels, origin) > max(chance) + MARGIN


def _uneven(labels: Tensor, origin: Tensor) -> float:
    """Mean over samples of the distance of their batch's histogram from that of all, 0 to 1."""
    table = torch.zeros(int(origin.max()) + 1, int(labels.max()) + 1)
    table.index_put_((origin, labels), torch.ones(len(labels)), accumulate=True)
    sizes = table.sum(1, keepdim=True)
    apart = (table / sizes.clamp_min(1) - table.sum(0) / sizes.sum()).abs().sum(1) / 2
    return float((apart * sizes[:, 0]).sum() / sizes.sum())


def _labels(kept: list[Batch], n: int) -> Tensor | None:
    """Class indices of all samples, if there are any."""
    found = [batch.target for batch in kept if batch.target is not None]
    if len(found) < len(kept):
        return None
    whole = torch.cat(found)
    fine = whole.dim() == 1 and len(whole) == n and not whole.is_floating_point()
    return whole.long() if fine and bool((whole >= 0).all()) else None


def _joined(parts: list[Inputs]) -> Inputs:
    first = parts[0]
    if isinstance(first, dict):
        return {key: torch.cat([part[key] for part in parts]) for key in first}  # type: ignore[index, call-overload]
    if isinstance(first, tuple):
        return tuple(torch.cat([part[i] for part in parts]) for i in range(len(first)))  # type: ignore[index, misc]
    return torch.cat(parts)  # type: ignore[arg-type]
