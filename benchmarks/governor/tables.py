"""The table of the governor under load, as Markdown."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
NAMES = {"governor": "governor", "largest": "largest, fixed", "smallest": "smallest, fixed"}


def section(data: Row, other: Row | None = None) -> str:
    """Misses, latency and accuracy with the governor beside the two fixed points.

    other: another run, of which the misses are told.
    """
    script, governor = data["script"], data["governor"]
    head = ("", "late", "late, idle", "late, loaded", "p95 ms", "accuracy %", "right and in time %")
    body = [
        [
            NAMES[name],
            *(f"{100 * row[key]:.1f} %" for key in ("missed", "missed_idle", "missed_loaded")),
            f"{row['p95_ms']:.1f}",
            f"{100 * row['accuracy']:.2f}",
            f"{100 * row['right_in_time']:.2f}",
        ]
        for name, row in data["results"].items()
    ]
    points = ", ".join(
        f"{row['point']} ({1e3 * row['cost']['latency']:.1f} ms, {100 * row['score']:.1f} % on `val`)"
        for row in data["profile"]
    )
    n = data["results"]["governor"]["requests"]
    cores = data.get("machine", {}).get("cores", 2) * script["seconds"]
    others = [round(100 * row["others"] / cores) for row in data["rounds"] if "others" in row] or [0]
    return f"""## A governor under real load (`python -m benchmarks.governor`)

{data["images"]} images per request, {n:,} requests for each row, due in {1e3 * script["deadline"]:.0f} ms;
{data["load_processes"]} processes load all cores for {script["loaded"]:.0f} of every
{script["idle"] + script["loaded"]:.0f} seconds. The same script for every row, in turns. Points: {points}.
Accuracy is that of all answers, late ones too. The governor switched {governor["switches"]} times;
{governor["taken_back"]} rises were taken back within the same phase. Other programs took {min(others)} to
{max(others)} % of the {cores:.0f} core seconds of a turn.

The networks saw the images of `val` when they were trained, so that only the order of these scores means
something.

{_table(head, body)}{_told(other) if other else ""}"""


def _told(other: Row) -> str:
    """The misses of another run in a sentence."""
    late = ", ".join(f"{NAMES[name]} {100 * row['missed']:.1f} %" for name, row in other["results"].items())
    due = 1e3 * other["script"]["deadline"]
    return f"""
Another run, due in {due:.0f} ms, one of whose three rounds was much slower than the others: late {late}.
"""


def _table(head: tuple[str, ...], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"
