"""The rows of a report as text, shared by the terminal's tables and the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plisse.compress.result import Result, StepRow, TensorRow
from plisse.cost.budget import Cost
from plisse.report import wording


@dataclass(frozen=True)
class Comparison:
    """One quantity before and after; change: a ratio such as "10.4x smaller", or a paired difference."""

    name: str
    before: str
    after: str
    change: str


def comparisons(result: Result) -> list[Comparison]:
    """File, parameters, MACs, latency and score of the network as it came and as it is read back."""
    before, after = result.before, result.after
    was, now = result.score_before, result.score_after
    batch = f", batch of {result.record['batch']}" if "batch" in result.record else ""
    return [
        Comparison("File", wording.size(before.bytes), wording.size(after.bytes), smaller(result.ratio)),
        Comparison(
            "Parameters",
            wording.count(before.params),
            wording.count(after.params),
            fewer(before.params, after.params),
        ),
        Comparison(
            f"MACs{batch}",
            wording.count(before.macs),
            wording.count(after.macs),
            fewer(before.macs, after.macs),
        ),
        Comparison(
            f"Latency{batch}",
            wording.seconds(before.latency, before.latency_spread),
            wording.seconds(after.latency, after.latency_spread),
            faster(before, after),
        ),
        Comparison(
            was.name.capitalize(),
            f"{wording.score(was.score, was.unit)} ({wording.interval(was)})",
            f"{wording.score(now.score, now.unit)} ({wording.interval(now)})",
            wording.difference(result.difference, was.unit),
        ),
    ]


def smaller(ratio: float) -> str:
    return f"{wording.times(ratio)} smaller" if ratio >= 1 else f"{wording.times(1 / ratio)} larger"


def fewer(before: float, after: float) -> str:
    if before == after:
        return "same"
    if not before or not after:
        return ""
    return (
        f"{wording.times(before / after)} fewer"
        if before > after
        else f"{wording.times(after / before)} more"
    )


def faster(before: Cost, after: Cost) -> str:
    """The change of median latency, where it is larger than the spread of both measurements."""
    if not before.latency or not after.latency:
        return ""
    noise = (before.latency_spread or 0.0) + (after.latency_spread or 0.0)
    if abs(before.latency - after.latency) <= noise:
        return "within its spread"
    ratio = before.latency / after.latency
    return f"{wording.times(ratio)} faster" if ratio > 1 else f"{wording.times(1 / ratio)} slower"


def score_of(step: StepRow, unit: str) -> str:
    return "" if step.score is None else wording.score(step.score, unit)


def by_size(tensors: Sequence[TensorRow]) -> list[TensorRow]:
    """Largest first; equal ones keep the order of the file."""
    return sorted(tensors, key=lambda row: -row.bytes)


@dataclass(frozen=True)
class TensorTotal:
    """Sums over tensors. values: how many numbers; zeros: share of them that is zero, from 0 to 1."""

    n: int
    bytes: int
    values: int
    zeros: float

    @property
    def bits_per_value(self) -> float:
        return 8 * self.bytes / max(self.values, 1)


def total(tensors: Sequence[TensorRow]) -> TensorTotal:
    values = sum(row.values for row in tensors)
    zeros = sum(row.zeros * row.values for row in tensors) / max(values, 1)
    return TensorTotal(len(tensors), sum(row.bytes for row in tensors), values, zeros)
