"""A result as plain data, for the JSON record that every run can write."""

from __future__ import annotations

import dataclasses
from typing import Any

from plisse.compress.result import Result
from plisse.report.plain import plain
from plisse.train.evaluate import Evaluation


def record(result: Result) -> dict[str, Any]:
    """Costs, scores, steps, tensors and frontier of `result`, and its own record, ready for `json.dumps`.

    Bytes are bytes, latencies seconds, scores in their own range. Numbers that JSON has no word for
    (infinite, undefined) become null.
    """
    return plain(
        {
            "ratio": result.ratio,
            "before": dataclasses.asdict(result.before),
            "after": dataclasses.asdict(result.after),
            "score_before": evaluation(result.score_before),
            "score_after": evaluation(result.score_after),
            "difference": dataclasses.asdict(result.difference),
            "steps": [dataclasses.asdict(step) for step in result.steps],
            "tensors": [dataclasses.asdict(row) for row in result.tensors],
            "frontier": [dataclasses.asdict(point) for point in result.frontier],
            "record": result.record,
        }
    )


def evaluation(found: Evaluation) -> dict[str, Any]:
    """An evaluation without its predictions."""
    return {
        "name": found.name,
        "score": found.score,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "unit": found.unit,
    }
