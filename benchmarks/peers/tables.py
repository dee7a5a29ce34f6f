"""The section of docs/results.md on other quantizers, ours beside each of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from benchmarks.record import RESULTS

Row = dict[str, Any]

HEAD = """## Other quantizers on the same networks (`python -m benchmarks.peers`)

Each in its own environment, the best of its methods by score on the test images themselves, which favours
it; beside it the best of ours in the same setting (`python -m benchmarks.quantization`), chosen in the same
way among the files that take no more bytes. Scores are percent (Spearman times 100 for MiniLM). Bytes are
those of the file that the tool writes; where it leaves weights of few bits in wider types, "packed" is what
they would take at best, and ours has to fit that. Files of ours with MiniLM hold the tokenizer, theirs do
not. Not all of their methods were run: the JSON has those that were.

"""
COLUMNS = ("network", "setting", "tool", "method", "score", "bytes", "packed", "ours", "score", "bytes")


def section(data: dict[str, Any]) -> str:
    """The best score of every tool in every setting, and ours within its bytes."""
    best: dict[tuple[str, str, str], Row] = {}
    for row in (row for row in data["rows"] if "score" in row):
        key = (row["network"], row["setting"], row["tool"])
        if key not in best or row["score"] > best[key]["score"]:
            best[key] = row
    lines = [(*key, *_theirs(row), *_ours(row)) for key, row in sorted(best.items())]
    return HEAD + _table(COLUMNS, lines) + "\n" + _told(list(best.values()))


def ours(network: str, setting: str, limit: float) -> Row | None:
    """Our row with the highest score in at most `limit` bytes; W4A32 is what we call W4."""
    path = RESULTS / f"quantization_{network}.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    name = setting.removesuffix("A32")
    fitting = [row for row in rows if row["setting"] == name and row["bytes"] <= limit]
    return max(fitting, key=lambda row: (row["score"], -row["bytes"]), default=None)


def bound(row: Row) -> int:
    """The bytes that ours may take beside a row of another tool."""
    return min(row["bytes"], row["packed_bytes"] or row["bytes"])


def _theirs(row: Row) -> tuple[str, ...]:
    packed = f"{row['packed_bytes']:,}" if row["packed_bytes"] else ""
    return row["method"], f"{row['score']:.2f}", f"{row['bytes']:,}", packed


def _ours(row: Row) -> tuple[str, str, str]:
    found = ours(row["network"], row["setting"], bound(row))
    if found is None:
        return "not measured", "", ""
    return found["method"], f"{100 * found['score']:.2f}", f"{found['bytes']:,}"


def _told(rows: list[Row]) -> str:
    """How often ours is at least as accurate, at 4 bits and below."""
    low = [row for row in rows if row["weight_bits"] <= 4]
    pairs = [(row, ours(row["network"], row["setting"], bound(row))) for row in low]
    measured = [(row, mine) for row, mine in pairs if mine is not None]
    won = [row for row, mine in measured if 100 * mine["score"] >= row["score"]]
    lost = [
        f"{row['tool']} {row['network']} {row['setting']}"
        for row, mine in measured
        if 100 * mine["score"] < row["score"]
    ]
    text = f"At 4 bits and below ours is at least as accurate in {len(won)} of {len(measured)} comparisons"
    return text + (f"; not beside {', '.join(lost)}.\n" if lost else ".\n")


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"
