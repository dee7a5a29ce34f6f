"""One choice per unit under one additive budget.

Ranks, bits, step sizes, blocks and exits are all this problem: every unit u has options o with a loss and a
cost, losses add up, costs add up, and the sum of costs must stay within a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plisse.errors import BudgetError, InputError


@dataclass(frozen=True, eq=False)
class Choices:
    """units: names. loss, cost: one array per unit, one entry per option of that unit.

    >>> choices = Choices(("a", "b"), ([0.0, 1.0], [0.0, 3.0]), ([8.0, 4.0], [8.0, 4.0]))
    >>> solve(choices, 12.0)
    (1, 0)
    """

    units: tuple[str, ...]
    loss: tuple[Sequence[float], ...]
    cost: tuple[Sequence[float], ...]

    def __post_init__(self) -> None:
        sizes = [(len(a), len(b)) for a, b in zip(self.loss, self.cost, strict=True)]
        if len(sizes) != len(self.units) or any(a != b or a == 0 for a, b in sizes):
            raise InputError(
                f"{len(self.units)} units with option counts {sizes}", expected="one loss per cost"
            )

    def total(self, picks: Sequence[int]) -> tuple[float, float]:
        """Summed loss and cost of one option per unit."""
        loss = sum(options[pick] for options, pick in zip(self.loss, picks, strict=True))
        return loss, sum(options[pick] for options, pick in zip(self.cost, picks, strict=True))

    @property
    def cheapest(self) -> float:
        """The least cost that any combination has."""
        return float(sum(min(options) for options in self.cost))


def solve(choices: Choices, budget: float, buckets: int = 1 << 15) -> tuple[int, ...]:
    """The option of each unit with the least summed loss whose summed cost is at most `budget`.

    Dynamic programming over the budget in `buckets` equal parts (Bellman 1957; the multiple-choice knapsack).
    Costs are rounded up to whole parts, so the answer always fits; it is the optimum for a budget smaller by
    at most one part per unit. Raises BudgetError where even the cheapest combination does not fit.
    """
    if choices.cheapest > budget:
        raise BudgetError(
            f"a budget of {budget:.0f}",
            expected=f"at least {choices.cheapest:.0f}, the cheapest combination",
            hint="a larger budget, or a step that changes the structure",
            closest=choices.cheapest,
        )
    spare = budget - choices.cheapest
    part = max(spare / buckets, 1e-300)
    best, picks = np.zeros(buckets + 1), []
    for loss, cost in zip(choices.loss, choices.cost, strict=True):
        extra = np.minimum(np.ceil((np.asarray(cost, float) - min(cost)) / part - 1e-9), buckets + 1)
        candidates = np.stack([_shifted(best, int(e)) + x for e, x in zip(extra, loss, strict=True)])
        picks.append((candidates.argmin(axis=0), extra.astype(np.int64)))
        best = candidates.min(axis=0)
    chosen, left = [], buckets
    for pick, extra in reversed(picks):
        chosen.append(int(pick[left]))
        left -= int(extra[chosen[-1]])
    return tuple(reversed(chosen))


def _shifted(best: np.ndarray, parts: int) -> np.ndarray:
    """best[b - parts] for every budget b, infinite where that is negative."""
    if parts >= best.size:
        return np.full_like(best, np.inf)
    return np.concatenate([np.full(parts, np.inf), best[: best.size - parts]])


def lower_hull(loss: Sequence[float], cost: Sequence[float]) -> list[int]:
    """The options on the lower convex hull of (cost, loss), cheapest first: all that a Lagrangian solver or
    a search needs to look at."""
    order = sorted(range(len(cost)), key=lambda i: (cost[i], loss[i]))
    hull: list[int] = []
    for i in order:
        if hull and loss[i] >= min(loss[j] for j in hull):
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], i, loss, cost):
            hull.pop()
        hull.append(i)
    return hull


def _above(a: int, b: int, c: int, loss: Sequence[float], cost: Sequence[float]) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (loss[b] - loss[a]) * (cost[c] - cost[a]) >= (loss[c] - loss[a]) * (cost[b] - cost[a])
