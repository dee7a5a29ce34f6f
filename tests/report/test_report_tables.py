from __future__ import annotations

import io

import invented
import pytest
from rich.console import Console
from rich.table import Table

from plisse.cost.budget import Cost
from plisse.report import rows, wording
from plisse.report.axes import axis, linear_ticks, log_ticks
from plisse.report.tables import headline, steps_table, summary_table, tensors_table
from plisse.train.evaluate import Difference


def printed(table: object, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().replace("\xa0", " ")  # type: ignore[attr-defined]


def test_tables_say_what_the_result_holds() -> None:
    made = invented.result()
    summary = printed(summary_table(made), 80)
    for words in (
        "1.10 MB",
        "91.7 kB",
        "12.0x smaller",
        "−0.59 points",
        "[−1.38, +0.20]",
        "within its spread",
    ):
        assert words in summary
    steps = printed(steps_table(made.steps, "points"))
    assert steps.count("saved nothing") == 1
    assert "Quantize(bits=4" in steps
    assert "12.0x smaller (1.10 MB → 91.7 kB)" in printed(headline(made), 200)


def test_tensor_table_keeps_the_total_whatever_is_folded() -> None:
    made = invented.result()
    total = sum(row.bytes for row in made.tensors)
    for limit in (0, 3, 100):
        shown = printed(tensors_table(made.tensors, limit))
        assert f"{total:,}" in shown
        assert f"{len(made.tensors)} tensors" in shown
    assert "0 tensors" in printed(tensors_table(()))


def test_markup_in_names_is_shown_and_not_obeyed() -> None:
    made = invented.result()
    named = made.steps[0].__class__("[bold]x[/bold]", made.before)
    table = steps_table((named,), "points")
    assert isinstance(table, Table)
    assert "[bold]x[/bold]" in printed(table)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((2.0, 0.1), (1.0, 0.1), "2.0x faster"),
        ((1.0, 0.1), (2.0, 0.1), "2.0x slower"),
        ((1.0, 0.1), (1.1, 0.1), "within its spread"),
        ((None, None), (1.0, 0.1), ""),
    ],
)
def test_latency_is_called_changed_only_beyond_its_spread(
    before: tuple[float | None, float | None], after: tuple[float | None, float | None], words: str
) -> None:
    assert rows.faster(Cost(1, 1, 1, *before), Cost(1, 1, 1, *after)) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.02, -0.01, "went down"),
        (0.01, 0.02, "went up"),
        (-0.01, 0.01, "No difference"),
        (0.0, 0.0, "Equal"),
    ],
)
def test_verdict_follows_the_interval(low: float, high: float, words: str) -> None:
    assert words in wording.verdict(Difference((low + high) / 2, low, high, 1017), "accuracy")


def test_figures_round_without_a_step() -> None:
    sizes = (0, 999, 999.6, 1000, 9_996, 99_960, 999_499, 999_500)
    shown = [wording.size(n).replace("\xa0", " ") for n in sizes]
    assert shown == ["0 B", "999 B", "1.00 kB", "1.00 kB", "10.0 kB", "100 kB", "999 kB", "1.00 MB"]
    assert [wording.seconds(s) for s in (2.5, 0.0123, 4.2e-5)] == ["2.50\xa0s", "12.3\xa0ms", "42.0\xa0µs"]


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (1, 1e6), (37, 41), (2e-7, 3e-3), (999, 1001)])
def test_ticks_lie_within_the_axis(low: float, high: float) -> None:
    for ticks in (linear_ticks(low, high), log_ticks(low, high)):
        assert 2 <= len(ticks) <= 12
        assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)
        assert ticks == sorted(set(ticks))


def test_axis_maps_its_ends_and_survives_one_value() -> None:
    one = axis([5.0], 0, 100, log=False)
    assert one(5.0) == pytest.approx(50)
    log = axis([10.0, 1000.0], 0, 100, log=True, margin=0)
    assert [log(v) for v in (10, 100, 1000)] == pytest.approx([0, 50, 100], abs=6)
