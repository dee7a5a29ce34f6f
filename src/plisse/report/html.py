"""The report: one HTML file that opens offline. No script, no request; a policy in the page forbids both."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from plisse.bitstream.atomic import write_atomic
from plisse.compress.result import Result, StepRow, TensorRow
from plisse.report import plots, rows, wording
from plisse.report.pictures import Exhibit, exhibit_content
from plisse.report.record import record
from plisse.report.style import CSS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
TENSORS_SHOWN = 16


def write_report(
    result: Result,
    path: str | Path,
    *,
    title: str = "Compressed network",
    exhibits: Sequence[Exhibit] = (),
) -> None:
    """Write the report of `result` to `path`; an older file is replaced only when the new one is whole.

    exhibits: what to show besides, such as images that were made in place of data.
    Raises OutputError where the file cannot be written.
    """
    write_atomic(Path(path), page(result, title=title, exhibits=exhibits).encode())


def page(result: Result, *, title: str, exhibits: Sequence[Exhibit] = ()) -> str:
    """The whole page as text."""
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_subtitle(result))}</p></header>",
        tiles(result),
        section("Before and after", _NOTES["compared"], comparison_table(result)),
        *(section(each.heading, each.note, exhibit_content(each)) for each in exhibits),
        section("Step by step", _NOTES["steps"], steps_table(result.steps, result.score_before.unit)),
        f'<div class="pair">{_charts(result)}</div>',
        section("Size by tensor", _tensor_note(result), tensors_table(result.tensors)),
        section("Record", _NOTES["record"], _record(result)),
        "<footer>Written by Plissé. This page loads nothing from elsewhere.</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def section(heading: str, note: str, content: str) -> str:
    return f'<section><h2>{escape(heading)}</h2><p class="note">{escape(note)}</p>{content}</section>'


def tiles(result: Result) -> str:
    """The four figures that people look for first."""
    before, after, now = result.before, result.after, result.score_after
    unit = result.score_before.unit
    change = result.difference
    sizes = f"{wording.size(before.bytes)} → {wording.size(after.bytes)}"
    speed = rows.faster(before, after) or "latency was not measured"
    was = f"was {wording.score(result.score_before.score, unit)}"
    gained = f"{wording.signed(change.value, unit)} {unit}"
    cards = [
        _tile("File size", rows.smaller(result.ratio), sizes, "", lead=True),
        _tile(now.name.capitalize(), wording.score(now.score, unit), f"95 %: {wording.interval(now)}", was),
        _tile("Difference, paired", gained, _range(result), _flag(result)),
        _tile("Latency, median", wording.seconds(after.latency), speed, _latency_words(result)),
    ]  # fmt: skip
    return f'<div class="tiles">{"".join(cards)}</div>'


def comparison_table(result: Result) -> str:
    lines = [
        f'<tr><th scope="row">{escape(row.name)}</th><td>{escape(row.before)}</td>'
        f"<td>{escape(row.after)}</td><td>{escape(row.change)}</td></tr>"
        for row in rows.comparisons(result)
    ]
    return table(("", "before", "after", "change"), lines)


def steps_table(steps: Sequence[StepRow], unit: str) -> str:
    """One line per step with a bar of the bytes that are left, as a share of the largest."""
    largest = max((step.cost.bytes for step in steps), default=1)
    lines = []
    for step in steps:
        left = plots.bar(step.cost.bytes / max(largest, 1), f"{wording.size(step.cost.bytes)} written")
        flag = '<span class="flag bad">saved nothing</span>' if step.saved_nothing else ""
        lines.append(
            f'<tr><th scope="row" class="wide">{_breakable(step.name)} {flag}{left}</th>'
            f"<td>{escape(wording.size(step.cost.bytes))}</td>"
            f"<td>{escape(wording.count(step.cost.macs))}</td>"
            f"<td>{escape(wording.seconds(step.cost.latency, step.cost.latency_spread))}</td>"
            f"<td>{escape(rows.score_of(step, unit))}</td></tr>"
        )
    return table(("step", "bytes written", "MACs", "measured latency", "score"), lines)


def tensors_table(tensors: Sequence[TensorRow]) -> str:
    """Largest first; those beyond the first few are folded away."""
    ordered = rows.by_size(tensors)
    if not ordered:
        return plots.notice("The file holds no tensors.")
    lines = [_tensor_line(row, ordered[0].bytes) for row in ordered]
    heads = ("tensor", "bytes", "bits per weight", "zeros", "coding")
    shown = table(heads, lines[:TENSORS_SHOWN])
    rest = lines[TENSORS_SHOWN:]
    if not rest:
        return shown
    n_bytes = wording.size(sum(row.bytes for row in ordered[TENSORS_SHOWN:]))
    words = f"{len(rest)} smaller tensors, {n_bytes} together"
    return f"{shown}<details><summary>{escape(words)}</summary>{table(heads, rest)}</details>"


def table(heads: Sequence[str], lines: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _tensor_line(row: TensorRow, largest: int) -> str:
    filled = plots.bar(row.bytes / max(largest, 1), wording.size(row.bytes))
    return (
        f'<tr><th scope="row" class="wide">{_breakable(row.name)} '
        f'<span class="shape">{escape(wording.shape(row.shape))}</span>{filled}</th>'
        f"<td>{escape(wording.size(row.bytes))}</td><td>{row.bits_per_value:.2f}</td>"
        f"<td>{escape(wording.percent(row.zeros))}</td><td>{escape(row.coding)}</td></tr>"
    )


def _tile(name: str, value: str, first: str, second: str, lead: bool = False) -> str:
    return (
        f'<div class="{"tile lead" if lead else "tile"}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(first)}</div>'
        f'<div class="more">{second if second.startswith("<span") else escape(second)}</div></div>'
    )


def _breakable(name: str) -> str:
    """Escaped, and free to break behind dots, commas and brackets, where names of layers and steps may."""
    return re.sub(r"([.,(_])", r"\1<wbr>", escape(name, quote=False))


def _charts(result: Result) -> str:
    was, now = result.score_before, result.score_after
    sentence = wording.verdict(result.difference, was.name)
    both = plots.scores(was, now) + plots.differences(result.difference, was.unit)
    search = plots.frontier(result.frontier)
    return section("Score", sentence, both) + section("Frontier", _NOTES["frontier"], search)


def _range(result: Result) -> str:
    found, unit = result.difference, result.score_before.unit
    return f"95 %: {wording.signed(found.low, unit)} to {wording.signed(found.high, unit)}"


def _flag(result: Result) -> str:
    if result.difference.high < 0:
        return '<span class="flag bad">lower</span>'
    if result.difference.low > 0:
        return '<span class="flag good">higher</span>'
    found = result.difference
    same = found.low == found.high == 0
    return f'<span class="flag">{"equal" if same else "within chance"}</span>'


def _latency_words(result: Result) -> str:
    after, before = result.after, result.before
    if after.latency is None:
        return ""
    spread = "" if after.latency_spread is None else f"± {wording.seconds(after.latency_spread)}, "
    return f"{spread}was {wording.seconds(before.latency)}"


def _tensor_note(result: Result) -> str:
    sums = rows.total(result.tensors)
    return (
        f"{sums.n} tensors, {wording.size(sums.bytes)} of the file's {wording.size(result.after.bytes)}, "
        f"{sums.bits_per_value:.2f} bits per weight, {wording.percent(sums.zeros)} zeros. "
        "Bytes are as written, each tensor's own header included."
    )


def _subtitle(result: Result) -> str:
    """What the record says about the run, as far as it says it; not where the data lay."""
    network = result.record.get("network", {})
    found = [network["name"]] if "name" in network else []
    if "task" in result.record:
        found.append(f"task {str(result.record['task']).partition(':')[0]}")
    if "seed" in result.record:
        found.append(f"seed {result.record['seed']}")
    return " · ".join([*map(str, found), f"{result.score_after.n:,} samples scored"])


def _record(result: Result) -> str:
    kept = {key: value for key, value in record(result).items() if key not in ("tensors", "frontier")}
    words = json.dumps(kept, indent=2, ensure_ascii=False)
    return f"<details><summary>Show as JSON</summary><pre>{escape(words)}</pre></details>"


_NOTES = {
    "compared": "Bytes are the length of the file as written. MACs and latency are of one batch; latency is "
    "the median of repeated passes, ± half its interquartile range. Scores carry 95 % bootstrap intervals.",
    "steps": "The first line is the network as it came. Each step is judged by what was written and timed "
    "after it, not by what it promises.",
    "frontier": "Every point that the search looked at. The line joins those that no other point beats.",
    "record": "Configuration, versions and seed: what is needed to run this again.",
}
