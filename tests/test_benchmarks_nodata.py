"""Tables of compression without data, from rows as their benchmarks write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import nodata_tables
from benchmarks.similarity import changes


def distance(name: str, **others: Any) -> dict[str, Any]:
    row = {"value": 0.018, "low": 0.017, "high": 0.019, "confidence": 0.97, "n": 1017, "accuracy": 0.9}
    return {"data": name, **row, **others}


def test_distances_orders_and_alarms_are_told() -> None:
    order = {"order": "sorted by class", "value": 0.018, "mean_of_batches": 0.05, "warned": True}
    alarms = [
        {"change": "blur", "batches": 1, "reasons": ["distance"]},
        {"change": "grey", "batches": None, "reasons": []},
    ]
    drift = {"unseen": {"false_alarms": 0}, "trained_on": {"false_alarms": 9}, "clean": 30, "rows": alarms}
    rows = [distance("test images"), distance("noise", accuracy=None)]
    text = nodata_tables.similarity({"rows": rows, "loaders": [order], "drift": drift})
    for line in (
        "| test images | 0.0180 | 0.0170 to 0.0190 | 97.0 | 90.0 | 1,017 |",
        "| sorted by class | 0.0180 | 0.0500 | yes |",
        "| blur | 1 | distance |",
        "| grey | none | - |",
    ):
        assert line in text


def test_draws_are_summed_up() -> None:
    rows = [
        {"bits": 3, "sentences": "real", "score": 0.866},
        {"bits": 3, "sentences": "made", "score": 0.86},
        {"bits": 3, "sentences": "made", "score": 0.862},
        {"bits": 2, "sentences": "made", "score": 0.5},
    ]
    text = nodata_tables.text({"rows": rows, "score_before": 0.8672})
    assert "| calibration | W3 | W2 |" in text
    assert "| real | 86.60 |  |" in text
    assert "| made | 86.10 (86.00 to 86.20) | 50.00 |" in text


def test_tools_stand_side_by_side() -> None:
    row = {"images": "A", "n": 64, "distance": 0.02, "confidence": 0.9, "cpu_seconds": 0.0}
    rows = [
        {**row, "setting": "W3", "score": 0.9},
        {**row, "setting": "W2", "score": 0.8},
        {**row, "images": "B", "setting": "W3", "score": 0.85, "cpu_seconds": 12.3},
    ]
    text = nodata_tables.peers({"rows": rows})
    assert "| A | 0.020 | 90 | - | 90.00 | 80.00 |" in text
    assert "| B | 0.020 | 90 | 12 | 85.00 |  |" in text


@pytest.mark.parametrize("name", list(changes()))
def test_changed_copies_keep_shape_and_type_and_differ(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    before = pixels.copy()
    found = changes()[name](pixels)
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    assert not np.array_equal(found, pixels)
    assert np.array_equal(pixels, before)
