"""The report's tables for the terminal, as Rich renderables. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from plisse.compress.result import Result, StepRow, TensorRow
from plisse.report import rows, wording

TENSORS_SHOWN = 12


def summary_table(result: Result) -> Table:
    """File, parameters, MACs, latency and score, before and after."""
    made = _table("", "before", "after", "change")
    for row in rows.comparisons(result):
        cells = (row.before, row.after, row.change)
        made.add_row(
            Text(row.name), *(Text(cell.replace(" (", "\n(").replace(" [", "\n[")) for cell in cells)
        )
    return made


def steps_table(steps: Sequence[StepRow], unit: str) -> Table:
    """Each step with what was written and timed after it; a step that saved nothing says so."""
    made = _table("step", "bytes written", "MACs", "latency", "score", "")
    for step in steps:
        made.add_row(
            Text(step.name),
            wording.size(step.cost.bytes),
            wording.count(step.cost.macs),
            wording.seconds(step.cost.latency, step.cost.latency_spread),
            rows.score_of(step, unit),
            Text("saved nothing", style="bold red") if step.saved_nothing else "",
        )
    return made


def tensors_table(tensors: Sequence[TensorRow], limit: int = TENSORS_SHOWN) -> Table:
    """The `limit` largest tensors, the others in one line, and the total."""
    made = _table("tensor", "shape", "bytes", "bits/weight", "zeros", "coding")
    ordered = rows.by_size(tensors)
    for row in ordered[:limit]:
        made.add_row(
            Text(row.name),
            wording.shape(row.shape),
            f"{row.bytes:,}",
            f"{row.bits_per_value:.2f}",
            wording.percent(row.zeros),
            row.coding,
        )
    if rest := ordered[limit:]:
        _add_total(made, f"{len(rest)} smaller ones", rest)
    made.add_section()
    _add_total(made, f"{len(ordered)} tensors", ordered)
    return made


def headline(result: Result) -> Text:
    """The outcome in one line."""
    was, now = result.score_before, result.score_after
    sizes = f"{wording.size(result.before.bytes)} → {wording.size(result.after.bytes)}"
    scores = f"{now.name} {wording.score(was.score, was.unit)} → {wording.score(now.score, now.unit)}"
    change = wording.difference(result.difference, was.unit)
    return Text.assemble((rows.smaller(result.ratio), "bold"), f" ({sizes}), {scores}, {change}")


def _add_total(made: Table, name: str, tensors: Sequence[TensorRow]) -> None:
    sums = rows.total(tensors)
    figures = (f"{sums.bytes:,}", f"{sums.bits_per_value:.2f}", wording.percent(sums.zeros))
    made.add_row(Text(name, style="dim"), "", *figures, "")


def _table(first: str, *others: str) -> Table:
    made = Table(box=None, header_style="dim", pad_edge=False)
    made.add_column(first, overflow="fold")
    for name in others:
        left = name in ("coding", "shape", "")
        made.add_column(name, justify="left" if left else "right", no_wrap=name in ("bytes", "score"))
    return made
