"""Recipes as YAML: every type that can be made without arguments, or with the ones here, comes back equal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from plisse.compress.finetune import FineTune
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.grids import PerTensor
from plisse.compress.quantize.mixed.mixed import MixedPrecision
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.recipe import STEPS, TYPES, VALUES, dump_recipe, parse_recipe
from plisse.compress.step import chain
from plisse.core.config import from_data, to_data
from plisse.core.fields import fits, hints
from plisse.errors import InputError

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
    data = yaml.safe_load(yaml.safe_dump(to_data(value)))
    assert from_data(data, TYPES) == value


def test_a_nested_recipe_says_only_what_differs() -> None:
    text = dump_recipe(chain(Quantize(grid=KMeans(3)), MixedPrecision("bytes=0.1x")))
    kept = ["- type: Quantize", "  grid:", "    type: KMeans", "    bits: 3"]
    assert text.splitlines() == [*kept, "- type: MixedPrecision", "  budget: bytes=0.1x"]


def test_names_alone_stand_for_defaults_and_small_numbers_are_numbers() -> None:
    assert parse_recipe("- Quantize\n- FoldBatchNorm") == chain(Quantize(), FoldBatchNorm())
    assert parse_recipe("- {type: Quantize, granularity: PerTensor}") == chain(
        Quantize(granularity=PerTensor())
    )
    assert parse_recipe("- {type: FineTune, steps: 3, lr: 1e-3}") == chain(FineTune(3, 0.001))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {type: Quantize, bits: four}", "'four' for bits of Quantize; expected a whole number"),
        ("- {type: Quantize, bits: true}", "True for bits"),
        ("- {type: Quantize, bits: 4.5}", "4.5 for bits"),
        ("- {type: Quantize, granularity: nothing}", "PerBlock, PerChannel, PerGroup, PerTensor"),
        ("- {type: Quantize, granularity: KMeans}", "for granularity of Quantize"),
        ("- {type: Quantize, granularity: {type: KMeans}}", "for granularity of Quantize"),
        ("- {type: FineTune, steps: 3, optimizer: {type: Cosine}}", "SGD or AdamW"),
        ("- {type: FineTune, steps: 3, lr: -3}", "lr=-3"),
        ("- {type: FineTune, steps: 3, lr: .nan}", "lr=nan"),
        ("- {type: RateQuantize, steps: {a.weight: x}}", "for steps of RateQuantize"),
        ("- {type: Prune, sparsity: 0.5, scope: world}", "'global' or 'layer'"),
        ("- FineTune", "FineTune without steps"),
        ("- Quantise", "a name such as Quantize"),
        ("- {type: PerChannel}", "expected a step"),
        ("- {bits: 4}", "- type: Quantize"),
        ("- 4", "- type: Quantize"),
    ],
)
def test_what_a_field_cannot_be_is_said_when_a_recipe_is_read(text: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_recipe(text)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 900


def test_every_default_is_of_the_type_of_its_field() -> None:
    """Else a recipe that says a default could not be read."""
    for kind in TYPES.values():
        value = kind(**GIVEN.get(kind.__name__, {}))
        for field in dataclasses.fields(kind):
            assert fits(getattr(value, field.name), hints(kind).get(field.name, Any)), (kind, field.name)
