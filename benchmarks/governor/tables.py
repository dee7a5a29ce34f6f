"""The table of the governor under load, as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]
HOPELESS = 0.05
NAMES = {"governor": "governor", "largest": "largest, fixed", "smallest": "smallest, fixed"}


def section(data: Row, other: Row | None = None) -> str:
    """Misses, latency and accuracy with the governor beside the two fixed points.

    other: another run, of which the misses are told.
    """
    script, governor = data["script"], data["governor"]
    head = ("", "late", "median turn", "idle", "loaded", "p95 ms", "accuracy %", "right and in time %")
    body = [
        [
            NAMES[name],
            f"{100 * row['missed']:.1f} %",
            f"{100 * _median_turn(data, name):.1f} %",
            *(f"{100 * row[key]:.1f} %" for key in ("missed_idle", "missed_loaded")),
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
    n, turns = data["results"]["governor"]["requests"], len(data["rounds"]) // 3
    others = [row["others"] for row in data["rounds"] if "others" in row] or [0.0]
    idle, loaded, back = script["idle"], script["loaded"], governor["taken_back"]
    return f"""## A governor under real load (`python -m benchmarks.governor`)

{data["images"]} images per request, {n:,} requests for each row, due in {1e3 * script["deadline"]:.0f} ms;
{data["load_processes"]} processes load all cores for {loaded:.0f} of every {idle + loaded:.0f} seconds.
The same script for every row, in {turns} turns each. Points: {points}.

Accuracy is that of all answers, late ones too; "median turn" is the share of late answers in the middle one
of the turns. The governor switched {governor["switches"]} times; of its rises, {back} were taken back
within the same phase. Programs beside the benchmark used {min(others):.0f} to {max(others):.0f} core
seconds in a turn{_slow(data)}.

The networks saw the images of `val` when they were trained, so that only the order of these scores means
something.

{_table(head, body)}{_told(other) if other else ""}"""


def _median_turn(data: Row, name: str) -> float:
    """The median over the turns of one policy of the share that was late."""
    return statistics.median(row["missed"] for row in data["rounds"] if row["policy"] == name)


def _slow(data: Row) -> str:
    """Turns in which even the cheapest point was late, which no policy can mend."""
    late = [row for row in data["rounds"] if row["policy"] == "smallest" and row["missed"] > HOPELESS]
    share = max((row["missed"] for row in late), default=0.0)
    return f"; in one turn so much that the smallest was late in {100 * share:.0f} %" if late else ""


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
