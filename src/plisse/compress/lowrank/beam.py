"""BeamSearch: all ranks of a network chosen together by what the network loses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plisse.compress.lowrank.exchange import below, settled
from plisse.compress.lowrank.judge import Judge, Visited
from plisse.compress.lowrank.problem import Problem, Ranks
from plisse.compress.lowrank.progress import Node, Progress, identity, load, save
from plisse.compress.lowrank.selectors import EnergyPerParameter, check_ratio
from plisse.errors import InputError


@dataclass(frozen=True)
class BeamSearch:
    """Modified beam search (Eo et al. 2023): from the whole network downwards, one layer's rank at a time.

    A state is a rank for every layer. Each of the `width` best states has one child per layer, whose rank is
    one step lower; a child's score is what the task's divergence from the original (no labels) grows by,
    divided by the share of numbers that the step removes. The best `width` children go on, until one has
    removed `ratio`. Scores by loss alone would favour steps that save nothing, and eat the smallest layers
    first.

    width: states kept, 1 is a greedy descent. levels: steps from the break-even rank to zero; the descent
    takes those of the first, exchanges those of all, so that (8, 16) is coarse to fine. batches: of
    calibration that children are judged on. fresh: children per state that are judged anew at each depth at
    least; the others wait with the score of an earlier depth, until they would be chosen by it. Losses mostly
    grow on the way down, so that this rarely changes the choice. None judges all. settle: after each such
    share removed (0.1: at 10 %, 20 %, ...) and at the end, layers exchange ranks while that helps (see
    `settled`, `rounds` of it at most), and EnergyPerParameter's ranks take over where they lose less; None
    never. precision: see `Judge`.

    Cost: with fresh=None, (layers + 1) * steps * width runs of the network on the calibration batches, where
    steps is about the sum over layers of the grid levels that they drop, 0.4 levels * layers down to half of
    the numbers: so the square of the number of layers, times that of one run. A run is shortened to about
    half by what is remembered of the layers before the changed one. With fresh=2 it is 4 to 5 runs per step,
    whatever the number of layers. A round of exchanges is about 2 * layers * len(levels) runs.
    Measured by `python -m benchmarks.lowrank`.

    Losses found are those of the images judged on, and too good where little is lost: ResNet-56 with 40 %
    removed, chosen on 256 images, diverges by 0.023 there and by 0.059 on others (still less than with any
    other selector; `python -m benchmarks.lowrank.unseen`). More `batches` help most there.

    progress: called with the share removed so far. checkpoint: a small JSON file, written after each depth; a
    search that was stopped goes on from there to the same answer.
    """

    width: int = 1
    levels: tuple[int, ...] = (8, 16)
    batches: int = 4
    fresh: int | None = 2
    settle: float | None = 0.1
    rounds: int = 4
    precision: str = "auto"
    progress: Callable[[float], None] = field(default=lambda share: None, compare=False, repr=False)
    checkpoint: Path | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        numbers = (self.width, self.batches, self.rounds, 1 if self.fresh is None else self.fresh)
        if min(numbers) < 1 or not self.levels or min(self.levels) < 2:
            raise InputError(str(self), expected="numbers from 1, levels from 2")
        if self.settle is not None and not 0 < self.settle <= 1:
            raise InputError(f"settle {self.settle}", expected="a share above 0, or None")

    def ranks(self, problem: Problem, ratio: float) -> Ranks:
        """The ranks found."""
        return self.search(problem, ratio)[-1].ranks

    def search(self, problem: Problem, ratio: float) -> tuple[Visited, ...]:
        """The best state at each depth, the last of which removes at least `ratio`: the frontier visited.

        Raises InputError for a ratio out of range and a checkpoint of another search, BudgetError where not
        even rank 1 everywhere removes as much.
        """
        check_ratio(problem, ratio)
        judge = Judge(problem, self.batches, self.precision)
        wanted = identity(str(self), ratio, judge)
        found = load(self.checkpoint, wanted)
        judge.runs = found.path[-1].runs if found.path else judge.runs
        if not found.path:
            found = Progress((Node(Visited({}, 0.0, 0.0)),), (Visited({}, 0.0, 0.0),))
        for goal in self._goals(ratio):
            while found.path[-1].removed < goal:
                found = self._advanced(found, judge, goal)
                save(self.checkpoint, wanted, found)
                self.progress(found.path[-1].removed)
        return found.path

    def _goals(self, ratio: float) -> list[float]:
        step = self.settle or 1.0
        return [*[k * step for k in range(1, int(ratio / step) + 1) if k * step < ratio - 1e-9], ratio]

    def _advanced(self, found: Progress, judge: Judge, goal: float) -> Progress:
        """One depth further; at the goal, with ranks exchanged."""
        beam = self._deeper(found.beam, judge)
        best = beam[0].state
        path = (*found.path, best)
        if self.settle is None or best.removed < goal:
            return Progress(tuple(beam), path)
        best = self._settled(best, judge, goal)
        kept = tuple(state for state in path if state.removed < min(goal, best.removed))
        return Progress((Node(best), *beam[1:]), (*kept, best))

    def _settled(self, state: Visited, judge: Judge, goal: float) -> Visited:
        energy = judge.enter(EnergyPerParameter().ranks(judge.problem, goal))
        start = min(state, energy, key=lambda each: each.loss)
        return settled(start, goal, judge, self.levels, self.rounds)

    def _deeper(self, beam: Sequence[Node], judge: Judge) -> list[Node]:
        children: dict[tuple[tuple[str, int], ...], Node] = {}
        for node in beam:
            judge.enter(node.state.ranks)
            for child in self._children(node, judge):
                children.setdefault(tuple(sorted(child.state.ranks.items())), child)
        first = min((node.state for node in beam), key=lambda state: state.removed)
        ranked = sorted(children.values(), key=lambda child: slope(child.state, first))
        return [
            Node(Visited(c.state.ranks, c.state.removed, c.state.loss, judge.runs), c.scores)
            for c in ranked[: self.width]
        ]

    def _children(self, node: Node, judge: Judge) -> list[Node]:
        """The children of a state that were judged anew; each inherits the scores of the others."""
        steps = dict(self._steps(node.state, judge.problem))
        scores = {name: node.scores[name] for name in steps if name in node.scores}
        waiting = sorted(steps, key=lambda name: scores.get(name, float("-inf")))
        judged: dict[str, Visited] = {}
        for name in waiting:
            if self._enough(scores, judged, scores.get(name, float("-inf"))):
                break
            judged[name] = judge.changed({name: steps[name]})
            scores[name] = slope(judged[name], node.state)
        return [
            Node(state, {other: score for other, score in scores.items() if other != name})
            for name, state in judged.items()
        ]

    def _enough(self, scores: dict[str, float], judged: Iterable[str], following: float) -> bool:
        """Whether no child that waits can be among the best by its earlier score."""
        found = sorted(scores[name] for name in judged)
        if self.fresh is None or len(found) < max(self.fresh, self.width):
            return False
        return following >= found[self.width - 1]

    def _steps(self, state: Visited, problem: Problem) -> Iterable[tuple[str, int]]:
        for name, spectrum in problem.spectra.items():
            rank = below(state.ranks.get(name), spectrum.break_even, self.levels[0])
            if rank is not None:
                yield name, rank


def slope(child: Visited, parent: Visited) -> float:
    """What the divergence grows by per share of numbers removed."""
    return (child.loss - parent.loss) / (child.removed - parent.removed)
