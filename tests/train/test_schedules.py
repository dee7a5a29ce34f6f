from __future__ import annotations

from itertools import pairwise

import pytest

from plisse.train.schedules import Constant, Cosine, Cubic

STEPS = 40


def test_constant_is_one_everywhere() -> None:
    assert {Constant().factor(step, STEPS) for step in range(STEPS + 1)} == {1.0}


def test_cosine_rises_linearly_then_falls_to_final() -> None:
    schedule = Cosine(warmup=0.25, final=0.1)
    factors = [schedule.factor(step, STEPS) for step in range(STEPS + 1)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert all(earlier > later for earlier, later in pairwise(factors[10:]))
    assert factors[25] == pytest.approx(0.55)
    assert factors[STEPS] == pytest.approx(0.1)


def test_cosine_without_warmup_starts_at_one_even_for_one_step() -> None:
    assert Cosine(warmup=0.0).factor(0, 1) == 1.0


def test_cubic_follows_zhu_and_gupta() -> None:
    ramp = Cubic(begin=0.25, end=0.75)
    assert [ramp.factor(step, STEPS) for step in (0, 10)] == [0.0, 0.0]
    assert ramp.factor(20, STEPS) == pytest.approx(1 - 0.5**3)
    assert [ramp.factor(step, STEPS) for step in (30, STEPS)] == [1.0, 1.0]


def test_cubic_of_no_length_is_a_jump() -> None:
    assert [Cubic(0.5, 0.5).factor(step, 10) for step in (4, 5)] == [0.0, 1.0]
