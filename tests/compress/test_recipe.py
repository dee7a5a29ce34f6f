"""Recipes as YAML: every type that can be made without arguments, or with the ones here, comes back equal."""

from __future__ import annotations

from typing import Any

import pytest

from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.mixed.mixed import MixedPrecision
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.recipe import STEPS, TYPES, VALUES, dump_recipe, parse_recipe
from plisse.compress.step import chain

GIVEN: dict[str, dict[str, Any]] = {
    "Prune": {"sparsity": 0.5},
    "RateQuantize": {"steps": {"0.weight": 0.25}},
    "MixedPrecision": {"budget": "bytes=0.1x"},
    "FineTune": {"steps": 3},
    "Aware": {"steps": 3},
    "Stage": {"bits": 3, "steps": 4},
    "Factorize": {"ranks": {"0": 2}},
    "LearnedPrecision": {"mean_bits": 4},
    "SearchedPrecision": {"mixed": MixedPrecision("bytes=0.1x")},
}


def test_no_two_types_share_a_name() -> None:
    assert len(TYPES) == len(STEPS) + len(VALUES)


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
def test_every_step_comes_back_from_yaml(kind: type) -> None:
    step = kind(**GIVEN.get(kind.__name__, {}))
    assert parse_recipe(dump_recipe(step)) == chain(step)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_every_value_comes_back_from_yaml(kind: type) -> None:
    value = kind(**GIVEN.get(kind.__name__, {}))
    step = Quantize(grid=value)  # any field will do: recipes do not check types of fields
    assert parse_recipe(dump_recipe(step)) == chain(step)


def test_a_nested_recipe_says_only_what_differs() -> None:
    text = dump_recipe(chain(Quantize(grid=KMeans(3)), MixedPrecision("bytes=0.1x")))
    kept = ["- type: Quantize", "  grid:", "    type: KMeans", "    bits: 3"]
    assert text.splitlines() == [*kept, "- type: MixedPrecision", "  budget: bytes=0.1x"]
