"""The benchmark of compression without data: its plan, its table."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.datafree import tables
from benchmarks.datafree.__main__ import plan
from benchmarks.datafree.settings import ACTIONS, SETTINGS, rounded
from benchmarks.datafree.sources import SCHEME, SOURCES, VARIANTS


def row(source: str, score: float, setting: str = "W2", seed: int = 0) -> dict[str, Any]:
    made = {"bns": 0.015, "confidence": 0.84, "iterations": [26, 26], "synthesis_seconds": 60.0}
    return {
        "network": "resnet20",
        "setting": setting,
        "source": source,
        "seed": seed,
        "score_before": 0.9165,
        "score": score,
        **(made if source in SCHEME else {}),
    }


def test_the_plan_covers_every_source_and_setting() -> None:
    listed = list(plan())
    assert {source.name for _, source in listed} == {*SOURCES, *VARIANTS}
    assert {setting.name for setting, _ in listed} == set(SETTINGS)
    assert {setting.kind for setting in SETTINGS.values()} == set(ACTIONS)
    assert len(list(plan(small=True))) == 2


def test_the_share_of_the_gain() -> None:
    rows = [row("real", 0.90), row("Gaussian", 0.50), row("BNS", 0.88), row("BNS", 0.86, seed=1)]
    assert tables.ratio(rows, "W2") == pytest.approx(37 / 40)
    assert tables.ratio(rows, "W3") is None
    close = [row("real", 0.505), row("Gaussian", 0.50), row("BNS", 0.50)]
    assert tables.ratio(close, "W2") is None


def test_the_section_shows_what_is_there() -> None:
    rows = [row("real", 0.90), row("Gaussian", 0.50), row("BNS", 0.88), row("BNS", 0.86, seed=1)]
    rows.append(row("BNS", 0.91, "W4A4"))
    text = tables.section({"rows": rows})
    assert "| W2 | 90.00 | 50.00 | 87.00 ± 1.4 |" in text
    assert "| resnet20 | W2 | 0.93 |" in text or "| resnet20 | W2 | 0.92 |" in text
    assert "| W4A4 | 0.65 | 2.54 |" in text
    assert "| resnet20 | BNS | 0.0150 | 84 % | 26 | 60 |" in text


def test_rounding_is_that_of_the_quantization_benchmark() -> None:
    step = rounded(SETTINGS["W3A3"], seed=2).steps[1]
    assert (step.bits, step.activations.bits, step.first_last_bits) == (3, 3, 8)
    assert (step.rounding.drop, step.rounding.seed) == (0.5, 2)
    assert rounded(SETTINGS["W2"], seed=0).steps[1].rounding.drop == 0.0
