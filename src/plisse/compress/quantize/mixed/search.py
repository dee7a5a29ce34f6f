"""Widths by trying whole networks: a cross-entropy search over the options of `MixedPrecision`'s table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from plisse.compress.notes import with_notes
from plisse.compress.quantize.mixed import costs
from plisse.compress.quantize.mixed.costs import Bound
from plisse.compress.quantize.mixed.mixed import SPARE, TRIES, MixedPrecision
from plisse.compress.quantize.mixed.refine import Lost, company
from plisse.compress.quantize.mixed.table import CostOf, Picks, Table, Widths, bytes_of, total
from plisse.core.reparam import Reparametrized, baked
from plisse.errors import BudgetError, InputError
from plisse.train.task import Task

FLOOR = 0.02
"""Least share of an option, so that none is lost for good."""


@dataclass(frozen=True)
class SearchedPrecision:
    """The best of many choices of widths, each measured as a whole: in every round `samples` choices are
    drawn from a distribution per weight, those beyond the budget are made cheaper at random places (as HAQ
    does, Wang et al. 2019, section 3.3), and the distributions move to the best `elite` of them (the
    cross-entropy method, Rubinstein 1999, in place of HAQ's reinforcement learning).

    mixed: what to choose from and within which budget; its solver's choice is the first to be tried, so that
    none worse is returned, by the divergence on `batches` of the calibration set. rounds, samples, batches:
    at least 1. elite: share, above 0, below 1. smoothing: share of a move, above 0, at most 1.

    Costs rounds x samples passes over the batches. Raises as `mixed` does.
    """

    mixed: MixedPrecision
    rounds: int = 8
    samples: int = 24
    elite: float = 0.25
    smoothing: float = 0.7
    batches: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        counts = min(self.rounds, self.samples, self.batches)
        if counts < 1 or not 0 < self.elite < 1 or not 0 < self.smoothing <= 1:
            raise InputError(
                f"rounds={self.rounds}, samples={self.samples}, batches={self.batches}, elite={self.elite}, "
                f"smoothing={self.smoothing}",
                expected="counts of at least 1, shares between 0 and 1",
            )

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        table, bound = self.mixed.table(model, task), Bound.parse(self.mixed.budget)
        lost = company(baked(model), task, self.batches)
        if bound.kind == "bytes":
            made, told = self._within_bytes(model, task, table, bound, lost)
        else:
            cost, reference = self.mixed._additive(model, task, bound.kind, table)
            limit = bound.limit.absolute(reference)
            picks, told = self.found(table, limit, cost, lost)
            made = self.mixed.made(model, task, picks)
        return with_notes(made, [told])

    def found(self, table: Table, budget: float, cost: CostOf, lost: Lost) -> tuple[dict[str, Widths], str]:
        """The best choice of all that were tried, and a line that tells of it."""
        draw, names = np.random.default_rng(self.seed), tuple(table.options)
        shares = {name: np.full(len(table.options[name]), 1 / len(table.options[name])) for name in names}

        def loss(picks: Picks) -> float:
            return lost(picks) + table.predicted_inputs(picks)

        best: dict[str, Widths] = table.choose(budget, cost, self.mixed.solver)
        first = least = loss(best)
        for _ in range(self.rounds):
            tried: list[tuple[float, dict[str, int]]] = []
            for _ in range(self.samples):
                places = {name: int(draw.choice(len(shares[name]), p=shares[name])) for name in names}
                places = fitting(table, places, budget, cost, draw)
                picks = {name: table.options[name][place] for name, place in places.items()}
                tried.append((loss(picks), places))
                if tried[-1][0] < least:
                    least, best = tried[-1][0], picks
            tried.sort(key=lambda pair: pair[0])
            self._move(shares, [places for _, places in tried[: max(1, round(self.elite * self.samples))]])
        return best, f"searched {self.rounds * self.samples} choices: divergence {first:.4g} to {least:.4g}"

    def _move(self, shares: dict[str, np.ndarray], elite: Sequence[dict[str, int]]) -> None:
        for name, share in shares.items():
            counts = np.bincount([places[name] for places in elite], minlength=len(share)) / len(elite)
            moved = (1 - self.smoothing) * share + self.smoothing * counts
            shares[name] = (1 - FLOOR) * moved / moved.sum() + FLOOR / len(share)

    def _within_bytes(
        self, model: nn.Module, task: Task, table: Table, bound: Bound, lost: Lost
    ) -> tuple[Reparametrized, str]:
        limit, least = bound.limit.absolute(costs.float_bytes(model)), table.cheapest(bytes_of)
        rest = self.mixed._rest(model, task, least)
        for _ in range(TRIES):
            if limit - rest < total(least, bytes_of):
                break
            picks, told = self.found(table, limit - rest, bytes_of, lost)
            made = self.mixed.made(model, task, picks)
            if (length := costs.written_bytes(made, model, task.name)) <= limit:
                return made, told
            rest += length - limit + SPARE
        shortest = rest + total(least, bytes_of)
        raise BudgetError(
            f"a budget of {limit:.0f} bytes",
            expected=f"about {shortest:.0f}, the file with the narrowest widths, and some room",
            closest=shortest,
        )


def fitting(
    table: Table, places: dict[str, int], budget: float, cost: CostOf, draw: np.random.Generator
) -> dict[str, int]:
    """The same choice with random weights at their next cheaper option until it is within the budget."""
    spent = {name: [cost(name, option) for option in options] for name, options in table.options.items()}
    places = dict(places)
    over = sum(spent[name][place] for name, place in places.items()) - budget
    while over > 0:
        able = [name for name, place in places.items() if min(spent[name]) < spent[name][place]]
        if not able:
            raise BudgetError(f"a budget of {budget:.0f}", expected="room for the cheapest options")
        name = able[int(draw.integers(len(able)))]
        now = spent[name][places[name]]
        cheaper = max((c, i) for i, c in enumerate(spent[name]) if c < now)
        over -= now - cheaper[0]
        places[name] = cheaper[1]
    return places
