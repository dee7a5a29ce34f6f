"""The solver against brute force, and the hull against its definition."""

import itertools

import numpy as np
import pytest

from plisse.cost.allocate import Choices, lower_hull, solve
from plisse.errors import BudgetError, InputError


@pytest.mark.parametrize("seed", range(8))
def test_solver_finds_the_brute_force_optimum(seed: int) -> None:
    draw = np.random.default_rng(seed)
    options = [int(n) for n in draw.integers(2, 5, size=5)]
    choices = Choices(
        tuple("abcde"),
        tuple(draw.random(n) for n in options),
        tuple(draw.integers(1, 50, size=n).astype(float) for n in options),
    )
    budget = choices.cheapest * 1.4
    feasible = [
        choices.total(picks)[0]
        for picks in itertools.product(*(range(n) for n in options))
        if choices.total(picks)[1] <= budget
    ]
    loss, cost = choices.total(solve(choices, budget))
    assert cost <= budget
    assert loss == pytest.approx(min(feasible), abs=1e-9)


def test_a_budget_below_the_cheapest_is_an_error_with_the_closest() -> None:
    choices = Choices(("a",), ([1.0, 0.0],), ([3.0, 9.0],))
    with pytest.raises(BudgetError) as caught:
        solve(choices, 2.0)
    assert caught.value.closest == 3.0


def test_unequal_options_are_refused() -> None:
    with pytest.raises(InputError):
        Choices(("a",), ([1.0],), ([3.0, 9.0],))


def test_hull_keeps_only_supported_options() -> None:
    cost, loss = [1.0, 2.0, 3.0, 4.0, 2.5], [10.0, 9.0, 2.0, 1.0, 11.0]
    assert lower_hull(loss, cost) == [0, 2, 3]
