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
    return "\n".join([*parts, _laws(data["law"])])


def _laws(rows: list[Row]) -> str:
    """How a search grows with the number of layers."""
    head = ("layers", "children judged anew", "depths", "runs", "expected", "CPU s")
    body = [
        (
            row["layers"],
            row["fresh"] or "all",
            row["steps"],
            row["runs"],
            "" if row["fresh"] else row["runs_expected_of_all"],
            row["cpu_seconds"],
        )
        for row in rows
    ]
    return f"""The search on networks with random weights: 4 levels, down to half of the parameters.
Expected, where all children are judged: (layers + 1) times depths.

{_table(head, body)}"""


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
    head = ("run", "batches", "whole", "cut", "in the end", "difference", "stable rank - direct", "CPU s")
    body = [
        (
            row["name"],
            " + ".join(map(str, row["batches"])),
            f"{100 * row['score_whole']:.1f}",
            f"{100 * row['score_truncated']:.1f}",
            f"{100 * row['score']:.1f}",
            _signed(row["difference"]),
            _signed(row["over_direct"]) if "over_direct" in row else "",
            f"{row['cpu_seconds']:.0f}",
        )
        for row in data["rows"]
    ]
    return f"""## Low rank: training (`python -m benchmarks.lowrank_training`)

Stable-rank training before truncation beside truncation at once, with as many batches and the same ranks.
Accuracy in %: of the whole network when it is cut, after the cut with batch norm measured again, and in the
end; differences in points, from the original, and between the two.

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
    head = ("network", "asked", "technique", "bytes", "score", "difference", "agreement")
    head += ("divergence", "beyond joint", "CPU s")
    body = [_technique(row) for row in data["rows"]]
    return f"""## The joint default beside single techniques (`python -m benchmarks.joint`)

Post-training, no labels; the largest file of each technique that fits. Score: accuracy in % (ResNet-20) or
Spearman correlation times 100 (MiniLM); difference in points. The other columns compare with the original
network on the same held-out samples, without labels: agreement (images put into the same class, in %; rank
correlation of similarities times 100), divergence times 1,000 (KL in nats; 1 - cosine of embeddings), and
how much more than the joint default's that is (paired; above zero: worse than joint).

{_table(head, body)}"""


def _technique(row: Row) -> tuple[str, ...]:
    about = (row["network"], f"{row['ratio']:.0f}x", row["technique"])
    seconds = f"{row['processor_seconds']:.0f}"
    if "bytes" not in row:
        return (*about, "does not fit", "", "", "", "", "", seconds)
    beyond = row.get("beyond_joint")
    return (
        *about,
        f"{row['bytes']:,}",
        f"{100 * row['score']:.2f}",
        _signed(row["difference"]),
        f"{100 * row['agreement']:.2f}" if "agreement" in row else "",
        f"{1000 * row['divergence']:.2f}" if "divergence" in row else "",
        _signed([10 * each for each in beyond]) if beyond else "",
        seconds,
    )


def peers(data: Row) -> str:
    """Low rank and channels beside other libraries at equal MACs."""
    head = ("MACs asked", "method", "MACs", "parameters", "cut", "statistics anew")
    head += (f"{data['rows'][0]['batches']} batches", "difference")
    body = [
        (
            f"{100 * row['share']:.0f} %",
            row["method"],
            f"{100 * row['macs']:.1f} %",
            f"{100 * row['params']:.1f} %",
            f"{100 * row['score_cut']:.1f}",
            f"{100 * row['score_cut_norm']:.1f}",
            f"{100 * row['score']:.1f}",
            _signed(row["difference"]),
        )
        for row in data["rows"]
        if row["fits"]
    ]
    return f"""## Low rank beside other libraries (`python -m benchmarks.lowrank.peers`)

ResNet-20 at equal MACs, one run. MACs and parameters in shares of the original's; accuracy in % when cut,
with batch norm measured again (all alike), and after training (all alike); difference in points.

{_table(head, body)}"""


def widths(data: Row) -> str:
    """Low rank and few bits together."""
    head = ("network", "bytes", "smaller", "score", "difference")
    largest = max(row["bytes"] for row in data["rows"])
    body = [
        (
            row["name"],
            f"{row['bytes']:,}",
            f"{largest / row['bytes']:.1f}x",
            f"{100 * row['score']:.2f}",
            _signed(row["difference"]),
        )
        for row in data["rows"]
    ]
    return f"""## Low rank and few bits (`python -m benchmarks.lowrank.widths`)

ResNet-20, whitened spatial factors, then GPTQ with one scale per channel; nothing trained. Bytes of the files
as written; accuracy in %, difference in points.

{_table(head, body)}"""


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _signed(difference: list[float]) -> str:
    value, low, high = (100 * each for each in difference)
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
