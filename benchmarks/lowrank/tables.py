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
statistics measured again, ranks chosen without labels on calibration images. Last lines: the search minus the
best other selector of that column, in points, paired over the images.
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
    body.append(["search - best other", *(_ahead(rows, ratio) for ratio in ratios)])
    title = (
        f"{network['network']}, {factors} factors; the search to the last column: {seconds:.0f} CPU seconds\n"
    )
    return f"{title}\n{_table(head, body)}"


def _ahead(rows: list[Row], ratio: float) -> str:
    """The search minus the best of the others at `ratio`, paired."""
    others = [row for row in rows if row["ratio"] == ratio and not row["selector"].startswith("beam")]
    return _signed(max(others, key=lambda row: row["accuracy"])["beam_minus_this"])


def unseen(data: Row) -> str:
    """Selectors on images that none of them saw."""
    head = (
        "network",
        "removed",
        "selector",
        "seen",
        "divergence",
        "beyond the search",
        "agreement",
        "search - this",
    )
    body = [
        (
            row["network"],
            f"{100 * row['ratio']:.0f} %",
            row["selector"],
            f"{row['seen']:.3f}" if row["seen"] is not None else "",
            f"{row['divergence']:.3f}",
            _signed([each / 100 for each in row["beyond_search"]], 3) if row["seen"] is None else "",
            f"{100 * row['agreement']:.1f}",
            _signed(row["agreement_search_minus_this"]) if row["seen"] is None else "",
        )
        for row in data["rows"]
    ]
    return f"""## Low rank: ranks on images not seen (`python -m benchmarks.lowrank.unseen`)

Whitened factors, nothing trained, {data["rows"][0]["samples"]:,} validation images that took no part
in the choice, without labels: divergence from the original (KL in nats), how much more that is than the
search's, agreement with the original in %, and the search minus this in points. Seen: the divergence on the
images that the search chose by.

{_table(head, body)}"""


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


SETS = {
    "holdout": "1,017 lossless test images; 1,500 pairs of the dev split",
    "jpeg": "5,000 test images after JPEG",
    "val": "3,000 validation images",
    "train": "3,000 pairs of the train split",
}


def joint(data: Row) -> str:
    """The joint default beside single techniques, on every set of samples."""
    parts = [
        """## The joint default beside single techniques (`python -m benchmarks.joint`)

No labels; the largest file of each technique that fits; "trained": then for 600 batches with the original as
teacher, as the default does by itself at 20x. Score: accuracy in % (ResNet-20) or Spearman correlation times
100 (MiniLM); difference from the original in points. Agreement with the original, without labels: images put
into the same class, in %; rank correlation of similarities times 100. Divergence from the original times
1,000: KL in nats; 1 - cosine of embeddings. Columns "joint - this" and "beyond joint" are paired with the
joint default, trained where the other is: above zero it is better. Nothing is fitted to any of these samples,
and no choice is made on them; the original was trained on the validation images.
"""
    ]
    for name, about in SETS.items():
        shown = [(row, _on(row, name)) for row in data["rows"]]
        if body := [_technique(row, found) for row, found in shown if found is not None]:
            parts.append(f"{name}: {about}\n\n{_table(JOINT, body)}")
    return "\n".join(parts)


def _on(row: Row, name: str) -> Row | None:
    """The figures of a row on one set: none where it was not scored there, empty where nothing fits. Rows of
    an earlier form have those of the holdout only."""
    if name == "holdout" and "sets" not in row:
        return row if "score" in row else {}
    return row.get("sets", {}).get(name)


JOINT = (
    *("network", "asked", "technique", "bytes", "score", "difference", "joint - this"),
    *("agreement", "joint - this", "divergence", "beyond joint", "CPU s"),
)


def _technique(row: Row, found: Row) -> tuple[str, ...]:
    about = (row["network"], f"{row['ratio']:.0f}x", row["technique"])
    seconds = f"{row['processor_seconds']:.0f}"
    if not found:
        return (*about, "does not fit", *[""] * 7, seconds)
    return (
        *about,
        f"{row['bytes']:,}",
        f"{100 * found['score']:.2f}",
        _signed(found["difference"]),
        _signed(found["joint_minus_this"]) if "joint_minus_this" in found else "",
        f"{100 * found['agreement']:.2f}" if "agreement" in found else "",
        _signed(found["agreement_joint_minus_this"]) if "agreement_joint_minus_this" in found else "",
        f"{1000 * found['divergence']:.2f}" if "divergence" in found else "",
        _signed([10 * each for each in found["beyond_joint"]]) if "beyond_joint" in found else "",
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


def _signed(difference: list[float], digits: int = 2) -> str:
    value, low, high = (100 * each for each in difference)
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
