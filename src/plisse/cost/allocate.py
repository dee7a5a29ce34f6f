"""One choice per unit under one additive budget.

Ranks, bits, step sizes, blocks and exits are all this problem: every unit u has options o with a loss and a
cost, losses add up, costs add up, and the sum of costs must stay within a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plisse.errors import BudgetError, InputError

Solver = Literal["dynamic", "milp", "greedy"]


@dataclass(frozen=True, eq=False)
class Choices:
    """units: names. loss, cost: one array per unit, one entry per option of that unit.

    >>> choices = Choices(("a", "b"), ([0.0, 1.0], [0.0, 3.0]), ([8.0, 4.0], [8.0, 4.0]))
    >>> solve(choices, 12.0), solve(choices, 12.0, "milp"), solve(choices, 12.0, "greedy")
    ((1, 0), (1, 0), (1, 0))
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


def solve(
    choices: Choices, budget: float, solver: Solver = "dynamic", buckets: int = 1 << 15
) -> tuple[int, ...]:
    """The option of each unit with the least summed loss whose summed cost is at most `budget`.

    solver: "dynamic" (the optimum up to a part of the budget), "milp" (the optimum, by branch and bound) or
    "greedy" (within one unit's step of the optimum, at once). buckets: parts of the budget, "dynamic" only.
    Raises BudgetError where even the cheapest combination does not fit, InputError for an unknown solver.
    """
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r}", expected=f"one of {', '.join(SOLVERS)}")
    if choices.cheapest > budget:
        raise BudgetError(
            f"a budget of {budget:.0f}",
            expected=f"at least {choices.cheapest:.0f}, the cheapest combination",
            hint="a larger budget, or a step that changes the structure",
            closest=choices.cheapest,
        )
    return dynamic(choices, budget, buckets) if solver == "dynamic" else SOLVERS[solver](choices, budget)


def dynamic(choices: Choices, budget: float, buckets: int = 1 << 15) -> tuple[int, ...]:
    """Dynamic programming over the budget in `buckets` equal parts (Bellman 1957; the multiple-choice
    knapsack).

    Costs are rounded up to whole parts, so the answer always fits; it is the optimum for a budget smaller by
    at most one part per unit, and the optimum itself where costs are whole numbers and few enough.
    """
    part, buckets = _parts(choices, budget - choices.cheapest, buckets)
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


def milp(choices: Choices, budget: float) -> tuple[int, ...]:
    """Integer linear programming: min sum of loss x, one x of each unit is 1, sum of cost x <= budget
    (HAWQ-V3, Yao et al. 2021, section 3.4; CalibTIP, Hubara et al. 2021), by scipy's HiGHS."""
    from scipy.optimize import Bounds, LinearConstraint
    from scipy.optimize import milp as program

    loss, cost = (
        np.concatenate([np.asarray(row, float) for row in rows]) for rows in (choices.loss, choices.cost)
    )
    owner = np.repeat(np.arange(len(choices.units)), [len(row) for row in choices.loss])
    one_each = (owner == np.arange(len(choices.units))[:, None]).astype(float)
    unit, size = max(float(np.abs(loss).max(initial=0)), 1e-300), max(abs(budget), 1e-300)
    for reserve in (0.0, 2e-6, 1e-5):  # the solver's tolerance may break the budget by a millionth
        found = program(
            loss / unit,
            integrality=np.ones(loss.size),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(cost[None] / size, -np.inf, budget / size - reserve),
            ],
            options={"disp": False, "mip_rel_gap": 0.0},
        )
        if found.x is None:
            break
        picks = tuple(int(found.x[owner == u].argmax()) for u in range(len(choices.units)))
        if choices.total(picks)[1] <= budget:
            return picks
    return dynamic(choices, budget)


def greedy(choices: Choices, budget: float) -> tuple[int, ...]:
    """From the least losses down, always the step that loses least per saved cost, along each unit's lower
    hull, until the budget holds; then what still fits is taken back, largest gain first."""
    hulls = [lower_hull(loss, cost) for loss, cost in zip(choices.loss, choices.cost, strict=True)]
    at = [len(hull) - 1 for hull in hulls]
    steps = sorted(
        (
            (_slope(choices, u, hull[i], hull[i - 1]), -i, u)
            for u, hull in enumerate(hulls)
            for i in range(1, len(hull))
        )
    )
    total = choices.total([hull[i] for hull, i in zip(hulls, at, strict=True)])[1]
    for _, _, u in steps:
        if total <= budget:
            break
        total += choices.cost[u][hulls[u][at[u] - 1]] - choices.cost[u][hulls[u][at[u]]]
        at[u] -= 1
    picks = [hull[i] for hull, i in zip(hulls, at, strict=True)]
    return _filled(choices, picks, budget)


def _filled(choices: Choices, picks: list[int], budget: float) -> tuple[int, ...]:
    """Swaps of single units that lower the loss within the budget, until there is none."""
    while True:
        spare = budget - choices.total(picks)[1]
        swaps = [
            (loss[i] - loss[picks[u]], u, i)
            for u, (loss, cost) in enumerate(zip(choices.loss, choices.cost, strict=True))
            for i in range(len(loss))
            if loss[i] < loss[picks[u]] and cost[i] - cost[picks[u]] <= spare
        ]
        if not swaps:
            return tuple(picks)
        _, u, i = min(swaps)
        picks = [*picks[:u], i, *picks[u + 1 :]]


def _slope(choices: Choices, unit: int, dear: int, cheap: int) -> float:
    loss, cost = choices.loss[unit], choices.cost[unit]
    return (loss[cheap] - loss[dear]) / max(cost[dear] - cost[cheap], 1e-300)


def _parts(choices: Choices, spare: float, buckets: int) -> tuple[float, int]:
    """The size and number of parts: ones, where costs are whole numbers and the budget is small enough."""
    whole = all(float(cost).is_integer() for options in choices.cost for cost in options)
    if whole and 0 <= spare <= buckets:
        return 1.0, int(spare)
    return max(spare / buckets, 1e-300), buckets


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


SOLVERS: dict[str, Callable[[Choices, float], tuple[int, ...]]] = {
    "dynamic": dynamic,
    "milp": milp,
    "greedy": greedy,
}
