"""The solver against brute force, and the hull against its definition."""

import itertools

import numpy as np
import pytest

from plisse.cost.allocate import Choices, Solver, lower_hull, solve
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


def drawn(seed: int, units: int = 6) -> Choices:
    draw = np.random.default_rng(seed)
    options = [int(n) for n in draw.integers(2, 5, size=units)]
    return Choices(
        tuple("abcdefghijklmnop"[:units]),
        tuple(draw.random(n) for n in options),
        tuple(draw.integers(1, 50, size=n).astype(float) for n in options),
    )


def exhaustive(choices: Choices, budget: float) -> float:
    every = itertools.product(*(range(len(row)) for row in choices.loss))
    return min(loss for loss, cost in map(choices.total, every) if cost <= budget)


@pytest.mark.parametrize("seed", range(8))
def test_dynamic_and_milp_are_the_optimum_and_greedy_is_no_better(seed: int) -> None:
    choices = drawn(seed)
    budget = float(round(choices.cheapest * 1.5))  # a whole number, met exactly by some combinations
    best = exhaustive(choices, budget)
    losses = {}
    for solver in ("dynamic", "milp", "greedy"):
        losses[solver], cost = choices.total(solve(choices, budget, solver))
        assert cost <= budget
    assert losses["dynamic"] == pytest.approx(best, abs=1e-12)
    assert losses["milp"] == pytest.approx(best, abs=1e-6)
    assert losses["greedy"] >= best - 1e-12
    worst = choices.total([int(np.argmin(cost)) for cost in choices.cost])[0]
    assert losses["greedy"] <= worst + 1e-12


@pytest.mark.parametrize("solver", ["dynamic", "milp", "greedy"])
def test_a_loose_budget_gives_every_unit_its_least_loss(solver: Solver) -> None:
    choices = drawn(3)
    assert solve(choices, 1e6, solver) == tuple(int(np.argmin(loss)) for loss in choices.loss)


@pytest.mark.parametrize("solver", ["dynamic", "milp", "greedy"])
def test_a_budget_of_the_cheapest_is_met(solver: Solver) -> None:
    choices = drawn(4)
    assert choices.total(solve(choices, choices.cheapest, solver))[1] == choices.cheapest


def test_greedy_is_near_the_optimum_with_many_units() -> None:
    choices = drawn(5, units=16)
    budget = choices.cheapest * 1.5
    optimum = choices.total(solve(choices, budget))[0]
    assert optimum <= choices.total(solve(choices, budget, "greedy"))[0] <= 1.2 * optimum


def test_no_solver_writes_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        for solver in ("dynamic", "milp", "greedy"):
            solve(drawn(seed, units=12), drawn(seed, units=12).cheapest * 1.3, solver)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(InputError, match="annealing"):
        solve(drawn(0), 1e6, "annealing")  # type: ignore[arg-type]
