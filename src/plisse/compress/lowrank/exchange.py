"""Exchanges: some layers get ranks back that others give away, as long as the network loses less by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from plisse.compress.lowrank.judge import Judge, Visited

SLACK = 1e-9  # of the share removed, for rounding
CHEAPEST = 10  # moves each way that are tried in threes


@dataclass(frozen=True)
class Move:
    """One layer to another rank (None: whole): the growth of the divergence, and the share removed."""

    name: str
    rank: int | None
    loss: float
    removed: float


def below(rank: int | None, break_even: int, levels: int) -> int | None:
    """The next rank below on the grid of 1 and break_even k / levels, k below levels; None at 1.

    >>> below(None, 28, 4), below(21, 28, 4), below(7, 28, 4), below(1, 28, 4)
    (21, 14, 1, None)
    """
    lower = [each for each in _grid(break_even, levels) if rank is None or each < rank]
    return lower[-1] if lower else None


def above(rank: int, break_even: int, levels: int) -> int | None:
    """The next rank above on this grid; None (the whole layer) where there is none.

    >>> above(7, 28, 4), above(21, 28, 4)
    (14, None)
    """
    return next((each for each in _grid(break_even, levels) if each > rank), None)


def settled(
    state: Visited, least: float, judge: Judge, levels: Sequence[int], rounds: int = 4, tries: int = 4
) -> Visited:
    """The state after the best exchanges that still remove at least `least`, until none helps.

    A round judges every layer one step up and one step down on the grids of `levels`, adds up what one of
    them, an up and a down, or an up and two downs would change, and judges the `tries` best sums together.
    """
    for _ in range(rounds):
        here = judge.enter(state.ranks)
        sums = sorted(_exchanges(_moves(judge, here, levels), least - here.removed), key=_loss)
        found = [judge.changed({move.name: move.rank for move in each}) for each in sums[:tries]]
        best = min(found, key=lambda visited: visited.loss, default=here)
        if best.loss >= here.loss:
            return Visited(here.ranks, here.removed, here.loss, judge.runs)
        state = best
    return Visited(state.ranks, state.removed, state.loss, judge.runs)


def _moves(judge: Judge, here: Visited, levels: Iterable[int]) -> list[Move]:
    moves = []
    for name, spectrum in judge.problem.spectra.items():
        rank = here.ranks.get(name)
        ranks: set[int | None] = set()
        for each in levels:
            if (lower := below(rank, spectrum.break_even, each)) is not None:
                ranks.add(lower)
            if rank is not None:
                ranks.add(above(rank, spectrum.break_even, each))
        for other in sorted(ranks, key=lambda r: r or 0):
            found = judge.changed({name: other})
            moves.append(Move(name, other, found.loss - here.loss, found.removed - here.removed))
    return moves


def _exchanges(moves: Sequence[Move], least: float) -> Iterator[tuple[Move, ...]]:
    """Moves together that promise a smaller loss and remove at least `least` more (which may be negative)."""
    ups = [move for move in moves if move.removed <= 0]
    downs = [move for move in moves if move.removed > 0]
    some = [sorted(each, key=lambda move: move.loss)[:CHEAPEST] for each in (ups, downs)]
    found: list[tuple[Move, ...]] = [(move,) for move in moves]
    found += [(up, down) for up in ups for down in downs]
    found += [(up, *pair) for up in some[0] for pair in combinations(some[1], 2)]
    for each in found:
        apart = len({move.name for move in each}) == len(each)
        if apart and _loss(each) < 0 and sum(move.removed for move in each) >= least - SLACK:
            yield each


def _loss(moves: tuple[Move, ...]) -> float:
    return sum(move.loss for move in moves)


def _grid(break_even: int, levels: int) -> list[int]:
    return sorted({1, *(max(1, round(break_even * k / levels)) for k in range(1, levels))})
