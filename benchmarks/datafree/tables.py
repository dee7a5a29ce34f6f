"""Tables of compression without data, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any

from benchmarks.datafree.settings import SETTINGS
from benchmarks.datafree.sources import SOURCES, VARIANTS

Row = dict[str, Any]
INTRAQ = {"W4A4": (94.03, 91.49), "W3A3": (94.03, 77.07)}
"""Full precision and score in % of IntraQ (Zhong et al. 2022), ResNet-20 on CIFAR-10, trained on images that
were made without data; the scores are those of its repository."""


def section(data: Row) -> str:
    """All networks, then the ratios, then the neighbours."""
    rows = data["rows"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    parts = [
        """## Without data (`python -m benchmarks.datafree`)

Accuracy in % on the 1,017 lossless CIFAR-10 test images, mean over seeds with their standard deviation where
there are several. 256 images without labels to calibrate and reconstruct with; to train with, the 40,000 of
the training set in column "real", 1,024 in the others. First and last layer have 8 bits. "Gaussian" is noise,
"BNS" images that were made from the statistics of batch norm, "Inception" from classes; "JPEG" a shifted set.
"""
    ]
    for network in networks:
        parts.append(_scores(network, [row for row in rows if row["network"] == network]))
    parts.append(ratios(rows))
    parts.append(neighbours(rows))
    parts.append(images(rows))
    return "\n".join(part for part in parts if part)


def _scores(network: str, rows: list[Row]) -> str:
    names = [name for name in (*SOURCES, *VARIANTS) if any(row["source"] == name for row in rows)]
    body = []
    for setting in SETTINGS:
        cells = [_cell(found(rows, setting, name)) for name in names]
        if any(cells):
            body.append([setting, *cells])
    before = 100 * rows[0]["score_before"]
    return f"{network}, {before:.2f} before\n\n{_table(['setting', *names], body)}"


def ratios(rows: Iterable[Row]) -> str:
    """(BNS - Gaussian) / (real - Gaussian) of mean scores, where real data helped by a point or more."""
    listed = list(rows)
    body = []
    for network in dict.fromkeys(row["network"] for row in listed):
        for setting in SETTINGS:
            value = ratio([row for row in listed if row["network"] == network], setting)
            if value is not None:
                body.append([network, setting, f"{value:.2f}"])
    if not body:
        return ""
    return (
        "Share of the gain of real images over noise that images without data have, (BNS - Gaussian) /\n"
        "(real - Gaussian), where real ones gain a point or more\n\n"
        + _table(["network", "setting", "share"], body)
    )


def ratio(rows: list[Row], setting: str, name: str = "BNS") -> float | None:
    """Of one network; None where a source is missing or real images gain less than a point."""
    scores = [found(rows, setting, each) for each in (name, "Gaussian", "real")]
    if not all(scores):
        return None
    made, noise, real = (mean(each) for each in scores)
    return (made - noise) / (real - noise) if real - noise >= 1 else None


def neighbours(rows: Iterable[Row]) -> str:
    """The drop beside that of IntraQ."""
    listed = [row for row in rows if row["network"] == "resnet20"]
    body = []
    for bits, (before, after) in INTRAQ.items():
        for setting in (bits, f"{bits} trained"):
            scores = found(listed, setting, "BNS")
            if scores:
                drop = 100 * listed[0]["score_before"] - mean(scores)
                body.append([setting, f"{drop:.2f}", f"{before - after:.2f}"])
    if not body:
        return ""
    return "Points lost on ResNet-20 without data, beside IntraQ at equal bits\n\n" + _table(
        ["setting", "BNS", "IntraQ"], body
    )


def images(rows: Iterable[Row]) -> str:
    """How the images were made."""
    made = {
        (row["network"], row["source"], row["seed"], len(row["iterations"])): row
        for row in rows
        if "bns" in row
    }
    body = [
        [
            network,
            name,
            f"{row['bns']:.4f}",
            f"{100 * row['confidence']:.0f} %",
            f"{mean(row['iterations']):.0f}",
            f"{row['synthesis_seconds']:.0f}",
        ]
        for (network, name, seed, batches), row in made.items()
        if seed == 0 and batches <= 4
    ]
    if not body:
        return ""
    return (
        "The images: divergence from the stored statistics (real ones: `benchmarks.similarity`), confidence\n"
        "of the network\n\n"
        + (_table(["network", "source", "BNS", "confidence", "iterations", "seconds"], body))
    )


def found(rows: Iterable[Row], setting: str, name: str) -> list[float]:
    """Scores in %, one per seed."""
    return [100 * row["score"] for row in rows if (row["setting"], row["source"]) == (setting, name)]


def _cell(scores: list[float]) -> str:
    if not scores:
        return ""
    spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{mean(scores):.2f}{spread}"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
