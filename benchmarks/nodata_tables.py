"""Tables of similarity, of sentences without data, and of two tools' images, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def similarity(data: Row) -> str:
    """Distances of data sets, orders of a loader, alarms of the monitor."""
    body = [
        (
            row["data"],
            f"{row['value']:.4f}",
            f"{row['low']:.4f} to {row['high']:.4f}",
            f"{100 * row['confidence']:.1f}",
            "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
            f"{row['n']:,}",
        )
        for row in data["rows"]
    ]
    orders = [
        (
            row["order"],
            f"{row['value']:.4f}",
            f"{row['mean_of_batches']:.4f}",
            "yes" if row["warned"] else "no",
        )
        for row in data["loaders"]
    ]
    drift = data["drift"]
    alarms = [
        (row["change"], str(row["batches"] or "none"), ", ".join(row["reasons"]) or "-")
        for row in drift["rows"]
    ]
    return f"""## Distance from the training data (`python -m benchmarks.similarity`)

A ResNet-20 trained on CIFAR-10; distance by its batch-norm statistics, without labels, with the interval of a
bootstrap (95 %). Beside it the network's mean confidence, and accuracy where there are labels, in %. The
distance does not see that images are turned; the confidence does.

{table(("data", "distance", "95 %", "confidence", "accuracy", "images"), body)}

The test images in three orders, in batches of 64. `similarity` pools all samples; the mean of one value per
batch depends on the order.

{table(("order", "similarity", "mean of batches", "warned"), orders)}

A drift monitor on batches of 64 test images, with limits from other test images:
{drift["unseen"]["false_alarms"]} alarms in {drift["clean"]} batches. With limits from images that the network
was trained on, of which it is too sure: {drift["trained_on"]["false_alarms"]}. After a change, batches until
the alarm, and why:

{table(("change", "batches", "reasons"), alarms)}"""


def text(data: Row) -> str:
    """GPTQ on a sentence encoder with real and synthetic sentences."""
    rows = data["rows"]
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    names = list(dict.fromkeys(row["sentences"] for row in rows))
    body = [
        (
            name,
            *(_draws([row for row in rows if (row["sentences"], row["bits"]) == (name, b)]) for b in widths),
        )
        for name in names
    ]
    return f"""## A sentence encoder with no data (`python -m benchmarks.datafree_text`)

MiniLM on STS-B, Spearman's correlation times 100 on the development split (original
{100 * data["score_before"]:.2f}): encoder by GPTQ in affine groups of 32, embeddings 4 bits. Calibration: 512
real training sentences, synthetic ones (each draw), or none, which is rounding to nearest on the same grids.

{table(("calibration", *(f"W{bits}" for bits in widths)), body)}"""


def peers(data: Row) -> str:
    """The same reconstruction with images of two tools."""
    rows = data["rows"]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    body = []
    for name in dict.fromkeys(row["images"] for row in rows):
        found = {row["setting"]: row for row in rows if row["images"] == name}
        one = next(iter(found.values()))
        scores = (f"{100 * found[s]['score']:.2f}" if s in found else "" for s in settings)
        made = f"{one['cpu_seconds']:.0f}" if one["cpu_seconds"] else "-"
        body.append((name, f"{one['distance']:.3f}", f"{100 * one['confidence']:.0f}", made, *scores))
    return f"""## Synthetic images of two tools (`python -m benchmarks.datafree_peers`)

{rows[0]["n"]} images each from ResNet-20, by `synthesize` and by the data generation of Sony's
model_compression_toolkit (MCT; its defaults but for the iterations), then the same block reconstruction.
Distance from the training data; confidence in %; CPU seconds for making them; accuracy in % of the network
with 2 and 3 bits per weight on the 1,017 lossless CIFAR-10 test images.

{table(("images", "distance", "confidence", "CPU s", *settings), body)}"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """
    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    names = list(head)
    lines = [f"| {' | '.join(cells)} |" for cells in (names, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(names), *lines[1:]])


def _draws(rows: list[Row]) -> str:
    """Mean over draws, and their range where there are several."""
    scores = [100 * row["score"] for row in rows]
    if not scores:
        return ""
    mean = f"{sum(scores) / len(scores):.2f}"
    return mean if len(scores) == 1 else f"{mean} ({min(scores):.2f} to {max(scores):.2f})"
