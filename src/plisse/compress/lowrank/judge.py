"""Judge: what a network loses when some of its layers are truncated, measured quickly and many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.fold import FoldBatchNorm
from plisse.compress.lowrank.factorize import truncated_weight
from plisse.compress.lowrank.prefix import PrefixCache
from plisse.compress.lowrank.problem import Problem, Ranks
from plisse.core import modules
from plisse.core.batch import Batch, first_tensor, on_device
from plisse.errors import GraphError, InputError
from plisse.train.hardware import choose_precision
from plisse.train.task import mean_divergence


@dataclass(frozen=True)
class Visited:
    """A state of a search: ranks, the share of numbers removed, the divergence from the original, and how
    often the network had been run on the calibration images when the state was reached."""

    ranks: Ranks
    removed: float
    loss: float
    runs: int = 0


class Judge:
    """Mean divergence (no labels) of a network from the original with layers at given ranks.

    A state is entered, which remembers what every module puts out there; then changes of single layers are
    judged, each of which runs the network from the changed layer on only. Truncated weights stand in the
    network as products of their factors, and are kept. Batch norm is folded, and convolutional networks are
    run in bfloat16 where the machine computes in it (precision as for `fit`), which changes losses by less
    than they differ between layers.

    batches: of calibration that are looked at. runs: of the whole network on them so far, those from memory
    included.
    """

    def __init__(self, problem: Problem, batches: int, precision: str = "auto") -> None:
        if not len(problem.task.calibration):
            raise InputError("no calibration batch", expected="at least one, to judge ranks on")
        self.problem, self.runs = problem, 0
        self.probe = _quick(problem)
        self.device = next(problem.model.parameters()).device
        self.half = choose_precision(precision, self.probe, self.device.type) == "bf16-mixed"
        self.whole = {name: _layer(self.probe, name).weight.detach().clone() for name in problem.spectra}
        self.gains = {name: _row_gains(_layer(problem.model, name), self.whole[name]) for name in self.whole}
        self.truncated: dict[tuple[str, int], Tensor] = {}
        calibration = problem.task.calibration
        self.batches = [self._moved(calibration[i]) for i in range(min(batches, len(calibration)))]
        self.ranks: Ranks = {}
        self.caches = self._recorded()
        self.reference = [cache.logits for cache in self.caches]

    def enter(self, ranks: Mapping[str, int]) -> Visited:
        """Make `ranks` the state that changes are judged from."""
        for name in self.problem.spectra:
            if ranks.get(name) != self.ranks.get(name):
                self._set(name, ranks.get(name))
        self.ranks = dict(ranks)
        self.caches = []  # so that the memory is free for the next ones
        self.caches = self._recorded()
        loss = self._divergence([cache.logits for cache in self.caches])
        return Visited(self.ranks, self.problem.removed(ranks), loss, self.runs)

    def changed(self, changes: Mapping[str, int | None]) -> Visited:
        """The state with some layers at other ranks (None: whole). The state that was entered stays."""
        ranks = {name: rank for name, rank in {**self.ranks, **changes}.items() if rank is not None}
        self.runs += 1
        for name, rank in changes.items():
            self._set(name, rank)
        with self._casting():
            found = [cache.rerun(changes) for cache in self.caches]
        for name in changes:
            self._set(name, self.ranks.get(name))
        return Visited(ranks, self.problem.removed(ranks), self._divergence(found), self.runs)

    def _recorded(self) -> list[PrefixCache]:
        self.runs += 1
        with self._casting():
            return [PrefixCache(self.probe, batch) for batch in self.batches]

    def _divergence(self, found: list[Any]) -> float:
        return mean_divergence(self.problem.task, self.reference, found)

    def _set(self, name: str, rank: int | None) -> None:
        if rank is not None and (name, rank) not in self.truncated:
            layer = _layer(self.problem.model, name)
            found = truncated_weight(layer, self.problem.spectra[name], rank, self.problem.scheme)
            self.truncated[name, rank] = found * self.gains[name]
        weight = self.whole[name] if rank is None else self.truncated[name, rank]
        modules.set_tensor(self.probe, f"{name}.weight", weight)

    def _moved(self, batch: Batch) -> Batch:
        return on_device(batch, self.device, channels_last=first_tensor(batch.inputs).dim() == 4)

    def _casting(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)


def _quick(problem: Problem) -> nn.Module:
    """A copy that is quick to run: batch norm folded where it can be, images in channels-last order."""
    try:
        probe = FoldBatchNorm()(problem.model, problem.task)
    except GraphError:
        probe = modules.clone(problem.model)
    for module in probe.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return probe.eval()


def _row_gains(layer: Any, folded: Tensor) -> Tensor:
    """By how much folding scaled each output of `layer`: 1 where nothing was folded into it."""
    weight = layer.weight.detach().flatten(1).double()
    gains = (folded.flatten(1) * weight).sum(1) / weight.square().sum(1).clamp_min(1e-300)
    return gains.to(folded.dtype).view(-1, *[1] * (folded.dim() - 1))


def _layer(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name)
