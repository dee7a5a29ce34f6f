"""The benchmark of selectors: areas are relative to uniform, and searches take the runs that are stated."""

from __future__ import annotations

import pytest

from benchmarks.lowrank.__main__ import areas
from benchmarks.lowrank.selection import RATIOS, law


def test_areas_are_means_of_accuracy_relative_to_uniform() -> None:
    rows = [
        {"selector": name, "ratio": ratio, "removed": ratio, "original": 0.9, "accuracy": accuracy}
        for name, accuracy in (("uniform", 0.3), ("beam search", 0.6))
        for ratio in RATIOS
    ]
    assert areas(rows) == pytest.approx({"uniform": 1.0, "beam search": 2.0})


def test_a_search_that_judges_all_runs_as_often_as_is_stated() -> None:
    row = law(1, None, images=2, levels=3, ratio=0.3)
    assert row["runs"] == pytest.approx(row["runs_expected_of_all"], rel=0.1)
    assert law(1, 1, images=2, levels=3, ratio=0.3)["runs"] < row["runs"]
