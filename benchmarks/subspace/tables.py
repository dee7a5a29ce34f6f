"""The section of docs/results.md on one file with every size."""

from __future__ import annotations

from typing import Any

from benchmarks.subspace.machine import SESSION
from benchmarks.subspace.methods import ALONE

Data = dict[str, Any]
Row = dict[str, Any]

HEAD = """## One file, every size (`python -m benchmarks.subspace`)

ResNet-20 on CIFAR-10. All spectra, and all networks of a single point ("alone"), start from the pretrained
network where nothing else is said, and are trained on the same batches of 128 images for as many steps as
stand in the column; 312 steps are one epoch. The peak learning rate is 0.02; with "distillation", for widths
and for sparsities by "listed", as many times that as a step has points, since the loss is their mean; else as
the name says. With "teacher" every point learns the pretrained network's class probabilities (temperature 4),
else the largest learns labels. Accuracy
in % on the 1,017 lossless test images (95 % interval about ±1.8 at 90 %, ±2.7 at 70 %), in parentheses on
1,000 `val` images, which the pretraining has seen. Residual streams keep their channels, since their
shortcuts pad them. A spectrum over widths that is *recalibrated* is a universally slimmable network
(sandwich, in-place distillation, statistics measured at each switch).

Statistics of batch norms: *stored* per point and read without data; *recalibrated* on training images at each
switch; *between*: stored for four widths only, interpolated for the others; *shared* with the largest point.

"""


def section(data: Data) -> str:
    """All tables that `data` (benchmarks/results/subspace.json) has rows for."""
    parts = [
        spectra(data, axis) for axis in ALONE if any(row["axis"] == axis for row in data.get("rows", ()))
    ]
    parts += [files(data)] if any(row["files"] for row in data.get("rows", ())) else []
    parts += [switches(data)] if data.get("switch") else []
    parts += [latency(data)] if data.get("latency") else []
    return HEAD + "\n".join(parts)


def spectra(data: Data, axis: str) -> str:
    """One column per point; what was trained alone is one row."""
    rows = [row for row in data["rows"] if row["axis"] == axis]
    points = sorted({point["point"] for row in rows if len(row["points"]) > 1 for point in row["points"]})
    points = points or sorted({point["point"] for row in rows for point in row["points"]})
    lines = [
        (_named(row), row["statistics"], str(row["steps"]), *_scores(row["points"], points))
        for row in rows
        if len(row["points"]) > 1 or not row["method"].startswith("alone")
    ]
    alone = [row for row in rows if row["method"].startswith("alone")]
    for steps in sorted({row["steps"] for row in alone}):
        found = [point for row in alone if row["steps"] == steps for point in row["points"]]
        lines.append(("alone", "stored", str(steps), *_scores(found, points)))
    return _table((axis, "statistics", "steps", *(f"{point:g}" for point in points)), lines)


def files(data: Data) -> str:
    """Bytes of spectra and of separate files."""
    lines = []
    for row in data["rows"]:
        found = row["files"]
        if found and row["statistics"] == "stored":
            members = ", ".join(f"{value}: {size:,}" for value, size in found["members"].items())
            lines.append(
                (
                    row["axis"],
                    f"{row['method']}, {row['steps']} steps",
                    f"{found['spectrum']:,}",
                    f"{found['share_of_largest']:.3f}",
                    members,
                    f"{sum(found['members'].values()):,}",
                )
            )
    text = "Bytes of the file of a spectrum, as a share of its largest member's, and of separate files:\n\n"
    return text + _table(("axis", "method", "bytes", "share", "separate files", "together"), lines)


def switches(data: Data) -> str:
    """Milliseconds per switch."""
    ways = list(dict.fromkeys(way for row in data["switch"] for way in row["seconds"]))
    lines = [
        (
            row["network"],
            row["to"],
            *(_milliseconds(row["seconds"].get(way)) for way in ways),
            _milliseconds(row["session"]["median"]),
            _milliseconds(row["session"]["mean"]),
        )
        for row in data["switch"]
    ]
    text = "Milliseconds of process time per switch, medians, in turns; what is *made* is then held. A\n"
    text += f"session is {SESSION} switches from listed point to listed point at random, the first to\n"
    text += "each of them included:\n\n"
    return text + _table(("network", "to", *ways, "session: median", "mean"), lines)


def latency(data: Data) -> str:
    """Times of widths."""
    lines = [
        (
            row["network"],
            f"{row['width']:g}",
            f"{row['macs'] / 32e6:.1f}",
            f"{1e3 * row['seconds']:.1f} ± {1e3 * row['spread']:.1f}",
            f"{row['speedup']:.2f}",
        )
        for row in data["latency"]
    ]
    text = "Latency of a batch of 32 at each width, baked, channels last, one thread:\n\n"
    return text + _table(("network", "width", "million MACs per image", "ms", "times faster"), lines)


def _scores(found: list[Row], points: list[float]) -> tuple[str, ...]:
    by_point = {point["point"]: point for point in found}
    return tuple(
        f"{100 * by_point[p]['score']:.1f} ({100 * by_point[p]['val']:.1f})" if p in by_point else "–"
        for p in points
    )


def _named(row: Row) -> str:
    return row["method"] + (", from fresh weights" if row["start"] == "fresh" else "")


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
