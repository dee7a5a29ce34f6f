"""The benchmark of compression without data: its plan, its table."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.datafree import command, ranges, tables
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


def test_the_order_begins_with_what_bars_are_about() -> None:
    listed = [(setting.name, source.name, source.network, source.seed) for setting, source in plan()]
    first = dict.fromkeys(listed)
    assert [*first][:3] == [("W2", name, "resnet20", 0) for name in ("real", "Gaussian", "BNS")]
    asked = ("W4A8 ranges", "W4A4 ranges", "W3A3", "W4A4 trained", "W2A4 reconstructed, trained")
    networks, seeds = ("resnet20", "resnet56"), range(3)
    assert set(itertools.product(asked, SOURCES, networks, seeds)) <= set(listed)


def test_a_difference_is_of_means_over_draws_with_an_interval_over_images() -> None:
    generator = np.random.default_rng(0)
    real = (generator.random((3, 400)) < 0.9).astype(float)
    made = real.copy()
    made[0] = 1 - made[0]
    value, low, high = ranges.difference(made, real)
    assert value == pytest.approx((made - real).mean())
    assert low < value < high
    assert high - low < 0.2


def test_the_rule_is_chosen_on_images_that_nothing_is_scored_on() -> None:
    assert not set(ranges.CHOICE) & set(ranges.HELD)
    assert min(ranges.CHOICE) >= 1000  # real calibration images are of the first sheet
    asked = ranges.plan()
    assert {rule for rule, label in asked if label == ranges.CHOICE_SET} == set(ranges.RULES)
    row: dict[str, Any] = {"rule": "MSE", "set": "test, lossless", "n": 10, "before": 0.9}
    row |= {source: [0.9, 0.8] for source in ranges.SOURCES}
    row |= {"difference": [-0.01, -0.02, 0.005], "width": [0.8, 0.95, 1.1]}
    row["divergence"] = {source: [0.04, 0.05] for source in ranges.SOURCES}
    text = ranges.table({"rows": [row]})
    line = "| test, lossless (10) | MSE | 90.00 | 85.00 | 85.00 | -1.00 (-2.00 to +0.50) | 0.0450 | 0.0450 |"
    assert line in text
    assert "0.95 times as wide" in text


def test_the_time_of_a_command_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "command", lambda name, n, folder: [sys.executable, "-c", "print(1)"])
    found = command.row("images alone", 5)
    assert (found["command"], found["images"]) == ("images alone", 5)
    assert found["cpu_seconds"] >= 0
    text = command.table({"rows": [found]})
    assert "| images alone | 5 |" in text


def test_the_command_is_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "data_set", lambda *parts: tmp_path / "w.safetensors")
    words = command.command(command.NAMES[1], 1000, tmp_path)
    assert words[1:5] == ["-m", "plisse.cli", "compress", "resnet20"]
    assert words[words.index("--samples") + 1] == "1000"
