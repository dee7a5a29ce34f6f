"""Operating points measured on one machine, the frontier among them, and distances between curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from plisse.cost.budget import FIELDS, Budget, Cost
from plisse.errors import BudgetError, InputError


@dataclass(frozen=True)
class ProfileRow:
    """One operating point: its label, what it costs, and how good it is (higher is better).

    p95: seconds that 95 % of the passes keep to. memory: bytes of the weights and of what lives at most
    during a pass. switch: seconds to make the point the active one. All three are None where not measured.
    fingerprint: of the weights that were measured (`core.modules.fingerprint`), None where not taken.
    """

    point: str
    cost: Cost
    score: float
    p95: float | None = None
    memory: int | None = None
    switch: float | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Profile:
    """Rows measured in one go on one machine. conditions: JSON data on how: task, batch, threads, machine."""

    rows: tuple[ProfileRow, ...]
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def frontier(self, by: str = "bytes") -> tuple[ProfileRow, ...]:
        """The rows that no other row beats in both cost and score, cheapest first."""
        return frontier(self.rows, by)

    def best(self, budget: Budget, reference: Cost) -> ProfileRow:
        """The row with the highest score within `budget`; of equal scores the cheaper in bytes.

        Raises BudgetError with the cost that breaks the fewest bounds where no row is within.
        """
        within = [row for row in self.rows if budget.admits(row.cost, reference)]
        if not within:
            closest = min(
                self.rows,
                key=lambda row: _excess(row.cost, budget, reference),
                default=None,
            )
            raise BudgetError(
                f"a budget ({budget}) that none of {len(self.rows)} points meets",
                expected=_least(closest, budget, reference),
                closest=closest and closest.cost,
            )
        return max(within, key=lambda row: (row.score, -row.cost.bytes))


def _excess(cost: Cost, budget: Budget, reference: Cost) -> tuple[int, float]:
    """How many bounds `cost` breaks, and by which factor at most."""
    bounds = budget.absolute(reference)
    factors = [(getattr(cost, name) or math.inf) / bounds[name] for name in budget.exceeded(cost, reference)]
    return len(factors), max(factors, default=0.0)


def _least(closest: ProfileRow | None, budget: Budget, reference: Cost) -> str:
    """What a budget must allow for the closest row."""
    if closest is None:
        return "a profile with points"
    needs = {name: getattr(closest.cost, name) for name in budget.exceeded(closest.cost, reference)}
    listed = (f"{name}={'measured' if value is None else f'{value:.6g}'}" for name, value in needs.items())
    return f"at least {', '.join(listed)}, for {closest.point}, which is the closest"


def frontier(rows: Sequence[ProfileRow], by: str = "bytes") -> tuple[ProfileRow, ...]:
    """Pareto frontier of (cost, score): lower cost `by` one of its fields, higher score; cheapest first.

    >>> costs = [Cost(1, size, 1) for size in (10, 20, 30)]
    >>> rows = [ProfileRow(str(c.bytes), c, s) for c, s in zip(costs, (0.5, 0.4, 0.9))]
    >>> [row.point for row in frontier(rows)]
    ['10', '30']
    """
    if by not in FIELDS:
        raise InputError(f"a frontier by {by!r}", expected=f"one of {', '.join(FIELDS)}")
    if missing := [row.point for row in rows if getattr(row.cost, by) is None]:
        raise InputError(f"point {missing[0]!r} without {by}", expected=f"{by} measured at every point")
    kept: list[ProfileRow] = []
    for row in sorted(rows, key=lambda row: (getattr(row.cost, by), -row.score)):
        if not kept or row.score > kept[-1].score:
            kept.append(row)
    return tuple(kept)


def bd_rate(
    rates_a: Sequence[float],
    quality_a: Sequence[float],
    rates_b: Sequence[float],
    quality_b: Sequence[float],
) -> float:
    """Bjontegaard delta rate: mean difference in rate of curve b against a at equal quality, in percent.

    rates: above zero, any unit, the same for both. quality: higher is better (dB, accuracy). At least two
    points each; a monotone piecewise cubic (PCHIP, Fritsch and Carlson 1980) runs through log rate over
    quality and is integrated exactly over the overlap. Negative: b needs less (Bjontegaard 2001, VCEG-M33).

    Raises InputError for curves that do not rise, or whose qualities do not overlap.

    >>> round(bd_rate([1, 2, 4], [30, 33, 36], [0.5, 1, 2], [30, 33, 36]), 6)
    -50.0
    """
    curve_a, curve_b = _curve(rates_a, quality_a), _curve(rates_b, quality_b)
    low = max(curve_a.x[0], curve_b.x[0])
    high = min(curve_a.x[-1], curve_b.x[-1])
    if low >= high:
        raise InputError(
            f"qualities {curve_a.x[0]:g} to {curve_a.x[-1]:g} and {curve_b.x[0]:g} to {curve_b.x[-1]:g}",
            expected="two curves that overlap in quality",
        )
    difference = float(curve_b.integrate(low, high) - curve_a.integrate(low, high)) / (high - low)
    return float(100 * np.expm1(difference))


def _curve(rates: Sequence[float], quality: Sequence[float]) -> PchipInterpolator:
    rate, axis = np.asarray(rates, np.float64), np.asarray(quality, np.float64)
    finite = np.isfinite(axis).all() and np.isfinite(rate).all()
    if rate.ndim != 1 or rate.shape != axis.shape or len(rate) < 2 or not finite or (rate <= 0).any():
        raise InputError(
            f"{rate.size} rates and {axis.size} qualities",
            expected="as many of each, at least two, finite, rates above zero",
        )
    order = np.argsort(axis, kind="stable")
    rate, axis = rate[order], axis[order]
    if (np.diff(axis) <= 0).any() or (np.diff(rate) <= 0).any():
        raise InputError(
            "a curve on which quality does not rise with rate",
            expected="strictly rising points",
            hint="keep the points of the frontier only",
        )
    return PchipInterpolator(axis, np.log(rate))
