from __future__ import annotations

import numpy as np
import pytest

from plisse.cost.budget import Budget, Cost
from plisse.cost.profile import Profile, ProfileRow, bd_rate, frontier
from plisse.errors import BudgetError, InputError

RATES = [0.1, 0.25, 0.5, 1.1]
QUALITY = [28.0, 31.5, 34.0, 37.2]


def row(point: str, size: int, score: float, latency: float | None = None) -> ProfileRow:
    return ProfileRow(point, Cost(1, size, 1, latency), score)


def test_bd_rate_of_a_curve_with_itself_is_exactly_zero() -> None:
    assert bd_rate(RATES, QUALITY, RATES, QUALITY) == 0.0


@pytest.mark.parametrize("share", [0.5, 0.9, 2.0])
def test_bd_rate_of_a_scaled_curve_is_the_scale(share: float) -> None:
    scaled = [rate * share for rate in RATES]
    assert bd_rate(RATES, QUALITY, scaled, QUALITY) == pytest.approx(100 * (share - 1), abs=1e-9)


def test_bd_rate_does_not_depend_on_the_order_of_points() -> None:
    mixed = [2, 0, 3, 1]
    value = bd_rate([RATES[i] for i in mixed], [QUALITY[i] for i in mixed], [1, 2], [30, 36])
    assert value == bd_rate(RATES, QUALITY, [1, 2], [30, 36])


def test_bd_rate_of_straight_lines_matches_the_integral_by_hand() -> None:
    # log rate a = q, log rate b = q / 2 over 0..2 and 1..3; overlap 1..2: mean of -q / 2 is -0.75
    value = bd_rate(np.exp([0, 2]), [0, 2], np.exp([0.5, 1.5]), [1, 3])
    assert value == pytest.approx(100 * (np.exp(-0.75) - 1))


@pytest.mark.parametrize(
    ("rates", "quality"),
    [
        (RATES, [q + 20 for q in QUALITY]),
        ([1, 2, 2], [1, 2, 3]),
        ([3, 2, 1], [1, 2, 3]),
        ([0, 1], [1, 2]),
        ([1], [30]),
        ([1, 2], [30, float("nan")]),
        ([1, 2], [30, 31, 32]),
    ],
)
def test_bd_rate_refuses(rates: list[float], quality: list[float]) -> None:
    with pytest.raises(InputError):
        bd_rate(RATES, QUALITY, rates, quality)


def test_frontier_drops_dominated_and_equal_points() -> None:
    rows = [row("a", 30, 0.9), row("b", 10, 0.5), row("c", 20, 0.4), row("d", 30, 0.8), row("e", 40, 0.9)]
    assert [r.point for r in frontier(rows)] == ["b", "a"]
    assert frontier([]) == ()


def test_frontier_needs_the_cost_that_it_sorts_by() -> None:
    with pytest.raises(InputError, match="latency"):
        frontier([row("a", 1, 1.0)], by="latency")
    with pytest.raises(InputError, match="speed"):
        frontier([row("a", 1, 1.0)], by="speed")


def test_profile_picks_the_best_within_a_budget() -> None:
    reference = Cost(1, 100, 1)
    profile = Profile((row("small", 10, 0.5), row("half", 50, 0.8), row("whole", 100, 0.9)))
    assert profile.best(Budget.parse("bytes=0.6x"), reference).point == "half"
    assert len(profile.frontier()) == 3
    with pytest.raises(BudgetError) as caught:
        profile.best(Budget.parse("bytes=0.05x"), reference)
    assert caught.value.closest == profile.rows[0].cost
