"""Tables of low rank and of the joint default, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def selectors(data: Row) -> str:
    """Accuracy of every selector of ranks without any training."""
    parts = [
        """## Low rank: which ranks (`python -m benchmarks.lowrank`)

Accuracy in % on the 1,017 lossless CIFAR-10 test images after truncation alone: nothing trained, no
statistics measured again, ranks chosen without labels on calibration images.
"""
    ]
    for network in data["networks"]:
        parts.append(_selectors(network))
    return "\n".join(parts)


def _selectors(network: Row) -> str:
    rows = network["rows"]
    names = list(dict.fromkeys(row["selector"] for row in rows))
    ratios = sorted({row["ratio"] for row in rows})
    score = {(row["selector"], row["ratio"]): 100 * row["accuracy"] for row in rows}
    seconds = max(row["cpu_seconds"] for row in rows if row["selector"].startswith("beam"))
    head = ["selector", *(f"{100 * ratio:.0f} % removed" for ratio in ratios)]
    body = [[name, *(f"{score[name, ratio]:.1f}" for ratio in ratios)] for name in names]
    factors = "whitened" if network["whitened"] else "plain"
    title = (
        f"{network['network']}, {factors} factors; the search to the last column: {seconds:.0f} CPU seconds\n"
    )
    return f"{title}\n{_table(head, body)}"


def training(data: Row) -> str:
    """Stable-rank training beside truncation and fine-tuning."""
    head = ("run", "batches", "whole", "cut", "in the end", "difference", "CPU s")
    body = [
        (
            row["name"],
            " + ".join(map(str, row["batches"])),
            f"{100 * row['score_whole']:.1f}",
            f"{100 * row['score_truncated']:.1f}",
            f"{100 * row['score']:.1f}",
            _signed(row["difference"]),
            f"{row['cpu_seconds']:.0f}",
        )
        for row in data["rows"]
    ]
    return f"""## Low rank: training (`python -m benchmarks.lowrank_training`)

Stable-rank training before truncation beside truncation at once, with as many batches. Accuracy in %: of the
whole network when it is cut, after the cut with batch norm measured again, and in the end; difference in
points from the original.

{_table(head, body)}"""


def tensors(data: Row) -> str:
    """Matrix and tensor decompositions at equal parameters."""
    head = (
        "method",
        "bytes",
        "cut",
        "statistics anew",
        f"{data['rows'][0]['batches']} batches",
        "difference",
    )
    body = [
        (
            row["name"],
            f"{row['bytes']:,}",
            f"{100 * row['score_cut']:.1f}",
            f"{100 * row['score_cut_norm']:.1f}",
            f"{100 * row['score']:.1f}",
            _signed(row["difference"]),
        )
        for row in data["rows"]
    ]
    return f"""## Tensor decompositions of ResNet-20 (`python -m benchmarks.lowrank_tensors`)

At 40 % of the parameters removed. Accuracy in %; difference in points from the original.

{_table(head, body)}"""


def joint(data: Row) -> str:
    """The joint default beside single techniques."""
    head = ("network", "asked", "technique", "bytes", "score", "difference", "CPU s")
    body = [
        (
            row["network"],
            f"{row['ratio']:.0f}x",
            row["technique"],
            f"{row['bytes']:,}" if "bytes" in row else "does not fit",
            f"{100 * row['score']:.2f}" if "score" in row else "",
            _signed(row["difference"]) if "difference" in row else "",
            f"{row['processor_seconds']:.0f}",
        )
        for row in data["rows"]
    ]
    return f"""## The joint default beside single techniques (`python -m benchmarks.joint`)

Post-training, no labels; the largest file of each technique that fits. Score: accuracy in % (ResNet-20) or
Spearman correlation times 100 (MiniLM); difference in points.

{_table(head, body)}"""


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _signed(difference: list[float]) -> str:
    value, low, high = (100 * each for each in difference)
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
