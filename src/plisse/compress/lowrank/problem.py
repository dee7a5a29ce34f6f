"""The problem that selectors of ranks solve: a network, its layers' singular values, and what it may lose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from plisse.compress.lowrank.schemes import Channel, Scheme
from plisse.compress.lowrank.spectrum import Spectrum, covariances, decomposable, spectrum
from plisse.core import modules
from plisse.core.reparam import baked
from plisse.errors import GraphError
from plisse.train.task import Task

Ranks = dict[str, int]


@dataclass(frozen=True, eq=False)
class Problem:
    """model: plain, never changed. spectra: of the layers that may be factorized, in order of definition.
    notes: why other layers are left whole. Ranks are {layer: rank}; a layer that is not named is whole."""

    model: nn.Module
    task: Task
    scheme: Scheme
    spectra: Mapping[str, Spectrum]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Numbers in the weights of all layers of `spectra`."""
        return sum(kept(each, None) for each in self.spectra.values())

    def removed(self, ranks: Mapping[str, int]) -> float:
        """Share of these numbers that is gone at `ranks` (what the paper calls the compression ratio)."""
        return 1 - sum(kept(each, ranks.get(name)) for name, each in self.spectra.items()) / self.total


def pose(
    model: nn.Module,
    task: Task,
    scheme: Scheme | None = None,
    whitened: bool = False,
    ignore: Iterable[str] = (),
) -> Problem:
    """Decompose every layer that can be, once.

    Raises GraphError where there is none.
    """
    scheme = scheme or Channel()
    network = modules.clone(baked(model)).eval()
    layers, notes = decomposable(network, scheme, ignore)
    if not layers:
        raise GraphError("no layer that two factors could make smaller", expected=f"one; {'; '.join(notes)}")
    seen = covariances(network, layers, task.calibration, scheme) if whitened else {}
    spectra = {name: spectrum(layer, scheme, seen.get(name)) for name, layer in layers.items()}
    return Problem(network, task, scheme, spectra, notes)


def kept(found: Spectrum, rank: int | None) -> int:
    """Numbers of a layer at a rank; whole where the rank is None or saves nothing."""
    rows, columns = found.sides
    return rows * columns if rank is None or rank > found.break_even else found.params(rank)
