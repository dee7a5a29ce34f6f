"""BeamSearch: all ranks of a network chosen together by what the network loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from plisse.compress.lowrank.factorize import truncated_weight
from plisse.compress.lowrank.prefix import PrefixCache
from plisse.compress.lowrank.problem import Problem, Ranks
from plisse.compress.lowrank.selectors import check_ratio
from plisse.core import modules
from plisse.errors import InputError


@dataclass(frozen=True)
class Visited:
    """A point on the way: ranks, the share of numbers removed, and the divergence from the original."""

    ranks: Ranks
    removed: float
    loss: float


@dataclass(frozen=True)
class BeamSearch:
    """Modified beam search (Eo et al. 2023): from the whole network downwards, one layer's rank at a time.

    A state is a rank for every layer. Each of the `width` best states has one child per layer, whose rank is
    one step lower; a child's score is what the task's divergence from the original (no labels) grows by,
    divided by the share of numbers that the step removes. The best `width` children go on, until one has
    removed `ratio`. Scores by loss alone would favour steps that save nothing, and eat the smallest layers
    first.

    width: states kept, 1 is a greedy descent. levels: steps from the break-even rank to zero in each pass;
    a later, finer pass starts from the coarse answer with every rank raised by a coarse step. batches: of
    calibration that children are judged on. Cost: about width * layers * sum(levels) / 2 runs of the network
    on these batches, about half of each saved by remembering the layers before the changed one.
    progress: called with the share removed so far.
    """

    width: int = 3
    levels: tuple[int, ...] = (8,)
    batches: int = 1
    progress: Callable[[float], None] = field(default=lambda share: None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.width < 1 or not self.levels or min(self.levels) < 2 or self.batches < 1:
            raise InputError(
                f"width {self.width}, levels {self.levels}, batches {self.batches}",
                expected="at least 1, numbers of at least 2, at least 1",
            )

    def ranks(self, problem: Problem, ratio: float) -> Ranks:
        """The ranks found."""
        return self.search(problem, ratio)[-1].ranks

    def search(self, problem: Problem, ratio: float) -> tuple[Visited, ...]:
        """The best state at each depth, the last of which removes at least `ratio`: the frontier visited."""
        check_ratio(problem, ratio)
        judge = _Judge(problem, self.batches)
        path: list[Visited] = [Visited({}, 0.0, 0.0)]
        for depth, levels in enumerate(self.levels):
            if depth:
                path.append(_raised(path[-1], problem, judge, self.levels[depth - 1]))
            beam = [path[-1]]
            while beam[0].removed < ratio:
                beam = self._deeper(beam, problem, judge, levels)
                path.append(beam[0])
                self.progress(beam[0].removed)
        return tuple(path)

    def _deeper(self, beam: Sequence[Visited], problem: Problem, judge: _Judge, levels: int) -> list[Visited]:
        children: dict[tuple[tuple[str, int], ...], tuple[float, Visited]] = {}
        for state in beam:
            judge.enter(state.ranks)
            for name in problem.spectra:
                rank = _lower(state.ranks.get(name), problem.spectra[name].break_even, levels)
                if rank is None:
                    continue
                ranks = {**state.ranks, name: rank}
                key = tuple(sorted(ranks.items()))
                if key in children:
                    continue
                child = Visited(ranks, problem.removed(ranks), judge.loss(name, rank))
                score = (child.loss - state.loss) / (child.removed - state.removed)
                children[key] = (score, child)
        ranked = sorted(children.values(), key=lambda pair: pair[0])
        return [child for _, child in ranked[: self.width]]


class _Judge:
    """Divergence of the network with one more layer truncated, from a state that was entered."""

    def __init__(self, problem: Problem, batches: int) -> None:
        self.problem = problem
        self.probe = modules.clone(problem.model).eval()
        calibration = problem.task.calibration
        if not len(calibration):
            raise InputError("no calibration batch", expected="at least one, to judge ranks on")
        self.batches = [calibration[i] for i in range(min(batches, len(calibration)))]
        self.reference = [PrefixCache(self.probe, batch).logits for batch in self.batches]
        self.weights = {name: self._layer(problem.model, name).weight.detach() for name in problem.spectra}
        self.truncated: dict[tuple[str, int], torch.Tensor] = {}
        self.ranks: Ranks = {}
        self.caches: list[PrefixCache] = []

    def enter(self, ranks: Ranks) -> None:
        for name in self.problem.spectra:
            if ranks.get(name) != self.ranks.get(name):
                self._set(name, ranks.get(name))
        self.ranks = dict(ranks)
        self.caches = [PrefixCache(self.probe, batch) for batch in self.batches]

    def loss(self, name: str, rank: int) -> float:
        """Mean divergence with `name` at `rank`; the state stays as it was."""
        self._set(name, rank)
        found = [cache.rerun(name) for cache in self.caches]
        self._set(name, self.ranks.get(name))
        return self._divergence(found)

    def here(self) -> float:
        """Mean divergence of the state itself."""
        return self._divergence([cache.logits for cache in self.caches])

    def _divergence(self, found: list[Any]) -> float:
        pairs = zip(self.reference, found, strict=True)
        return sum(float(self.problem.task.divergence(a, b)) for a, b in pairs) / len(found)

    def _set(self, name: str, rank: int | None) -> None:
        if rank is not None and (name, rank) not in self.truncated:
            layer = self._layer(self.problem.model, name)
            found = truncated_weight(layer, self.problem.spectra[name], rank, self.problem.scheme)
            self.truncated[name, rank] = found
        weight = self.weights[name] if rank is None else self.truncated[name, rank]
        modules.set_tensor(self.probe, f"{name}.weight", weight)

    @staticmethod
    def _layer(model: torch.nn.Module, name: str) -> Any:
        return model.get_submodule(name)


def _lower(rank: int | None, break_even: int, levels: int) -> int | None:
    """The next rank below on the grid of break_even k / levels, k below levels; None where there is none."""
    grid = sorted({max(1, round(break_even * k / levels)) for k in range(1, levels)})
    lower = [each for each in grid if rank is None or each < rank]
    return lower[-1] if lower else None


def _raised(state: Visited, problem: Problem, judge: _Judge, levels: int) -> Visited:
    """The state with every rank one coarse step higher, whole where that reaches the break-even rank."""
    ranks = {}
    for name, rank in state.ranks.items():
        higher = rank + max(1, round(problem.spectra[name].break_even / levels))
        if higher < problem.spectra[name].break_even:
            ranks[name] = higher
    judge.enter(ranks)
    return Visited(ranks, problem.removed(ranks), judge.here())
