"""The section of docs/results.md on the reduced parameter space."""

from __future__ import annotations

from statistics import fmean
from typing import Any

Data = dict[str, Any]
Rows = list[dict[str, Any]]


def section(data: Data) -> str:
    """All tables that `data` (benchmarks/results/sphere.json) has rows for."""
    parts = {
        "training": training,
        "storage": storage,
        "order": order,
        "steps": steps,
        "equivalence": equivalence,
    }
    return HEAD + "\n".join(render(data) for name, render in parts.items() if data.get(name))


HEAD = "## Weights on the unit sphere (`python -m benchmarks.sphere`)\n\n"


def training(data: Data) -> str:
    rows = [
        (
            row["case"],
            row["steps"],
            row["runs"],
            row["method"],
            f"{row['rate']:g}",
            *(_interval(row[key]) for key in ("median", "mean", "worst")),
            _interval(row["mean_to_standard"], 2) if row["method"] != "standard" else "1",
        )
        for row in data["training"]
    ]
    text = """Training: runs of every method with the same AdamW, cosine schedule and steps; the learning rate
is the one with the least median error on validation data, searched by factors of 3. Thresholds are clamped
where nothing else is said. Errors on test data (mean squared error; digits: share of wrong classes), with
95 % bootstrap intervals over the runs.

"""
    return text + _table(
        ("function or data", "steps", "runs", "method", "rate", "median", "mean", "worst", "mean / standard"),
        rows,
    )


def storage(data: Data) -> str:
    rows = data["storage"]
    lines = []
    for network in _networks(rows):
        for form in dict.fromkeys(row["form"] for row in rows if row["network"].startswith(network)):
            cells = [_group(rows, network, form, bits) for bits in (4, 3, 2)]
            lines.append((network, form, *(_bytes_and_score(cell) for cell in cells)))
    text = """Storage: bytes of the file and accuracy of what it decodes to, batch norm folded, small tensors
compacted, digits networks as means over three trainings. Observed: bounds from calibration inputs, so that
neurons which never fired there are gone. One grid per fan-in: one factor for all steps of a network is chosen
on calibration inputs; as is, for range chosen, the norm of the error that ranges make least (else 2).

"""
    return text + _table(("network", "form", "4 bits", "3 bits", "2 bits"), lines) + "\n" + equal(data)


def equal(data: Data) -> str:
    text = """Bytes at equal divergence of the outputs from those of the original, as a share of the file
with scales per channel (interpolated between files of 2 to 6 bits):

"""
    text += _table(HEAD_EQUAL, _shares(data["equal_divergence"]))
    if data.get("equal_score"):
        text += """
The same at equal accuracy: bytes at which a form first reaches the accuracy that scales per channel have at
4, 3 and 2 bits. Accuracies near that of the original differ by chance.

"""
        text += _table(HEAD_EQUAL, _shares(data["equal_score"]))
    return text


HEAD_EQUAL = ("network", "form", "as 4 bits", "as 3 bits", "as 2 bits")


def _shares(rows: Rows) -> list[tuple[str, ...]]:
    lines = []
    for network in _networks(rows):
        for form in next(row["bytes"] for row in rows if row["network"].startswith(network)):
            cells = []
            for bits in (4, 3, 2):
                shares = [
                    row["bytes"][form] and row["bytes"][form] / next(iter(row["bytes"].values()))
                    for row in rows
                    if row["network"].startswith(network) and row["bits"] == bits
                ]
                cells.append("outside" if None in shares else f"{fmean(shares):.3f}x")
            lines.append((network, form, *cells))
    return lines


def order(data: Data) -> str:
    lines = [
        (
            f"{row['type']}, factors {'that are powers of two' if row['powers_of_two'] else 'of any kind'}",
            row["form_in"],
            *(f"{100 * row['plain'][key]:.2f} %" for key in KEYS[:2]),
            *(f"{100 * row['canonical'][key]:.2f} %" for key in KEYS),
            f"{row['canonical']['widest_swap']:.1e}",
        )
        for row in data["order"]
    ]
    text = """Pruning after random rescaling of every hidden channel (digits network): share of weights at the
same place in the order of magnitudes, of equal decisions when half of the weights go, and of all cuts (one
weight goes, two go, ...) that take the same weights. Widest swap: the largest relative difference between
neighbours in the order that changed places; float32 rounds by up to 6e-8 at every change.

"""
    head = (
        "weights",
        "form computed in",
        "plain: same place",
        "same decision",
        "canonical: same place",
        "same decision",
        "same cuts",
        "widest swap",
    )
    return text + _table(head, lines)


KEYS = ("same_place", "same_half", "same_cut")


def steps(data: Data) -> str:
    lines = [
        (
            "{} to {}".format(*row["frames"]),
            f"{row['psnr']:.2f} dB",
            *(_size(row["bytes"][form]) for form in ("as trained", "canonical")),
            _ratio(row["bytes"]["canonical"], row["bytes"]["as trained"]),
            f"{100 * row['rescaling']:.1f} %",
            f"{100 * row['rescaling_directions']:.1f} %",
        )
        for row in data["steps"]
    ]
    text = """Weight steps between networks with ReLU on Fourier features, fitted to frames of carphone at
88 x 72, the second one from the first one's weights: bytes of the step's symbols at 0.5 dB below what the
second network reached. Rescaling: the share of the step's energy that only rescales neurons; by chance: the
share of such directions among all, which a random step would show.

"""
    head = ("frames", "quality", "as trained", "canonical", "ratio", "rescaling", "by chance")
    return text + _table(head, lines)


def equivalence(data: Data) -> str:
    keys = ("neurons", "dead", "constant", "clamped", "kept")
    lines = [
        (
            f"{row['networks']} x {row['kind']}, {row['type']}",
            f"{row['worst']:.1e}",
            *(row[key] for key in keys),
        )
        for row in data["equivalence"]
    ]
    text = "Equivalence on random networks with wide thresholds: largest error by largest output.\n\n"
    head = (
        "networks",
        "error",
        "neurons",
        "dead, removed",
        "constant, removed",
        "clamped",
        "left for zero padding",
    )
    return text + _table(head, lines)


def _networks(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["network"].partition(",")[0] for row in rows))


def _group(rows: Rows, network: str, form: str, bits: int) -> Rows:
    return [
        row
        for row in rows
        if row["network"].startswith(network) and (row["form"], row["bits"]) == (form, bits)
    ]


def _bytes_and_score(rows: Rows) -> str:
    if not rows:
        return ""
    return f"{fmean(row['bytes'] for row in rows):,.0f} B, {100 * fmean(row['score'] for row in rows):.2f} %"


def _size(size: int | None) -> str:
    return "outside" if size is None else f"{size:,} B"


def _ratio(size: int | None, reference: int | None) -> str:
    return f"{size / reference:.3f}x" if size and reference else ""


def _interval(values: list[float], digits: int = 3) -> str:
    point, low, high = (f"{value:.{digits}g}" for value in values)
    return f"{point} [{low}, {high}]"


def _table(head: tuple[str, ...], rows: Any) -> str:
    from benchmarks.results import table  # which imports this module

    return table(head, rows)
