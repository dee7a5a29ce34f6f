"""The section of docs/results.md on mixed precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Row = dict[str, Any]

HEAD = """## Mixed precision (`python -m benchmarks.mixed_precision`)

Uniform: one width for the whole network, embeddings too, GPTQ, affine, one scale per channel. Mixed gets
the bytes of that file: *widths* is `MixedPrecision` (2 to 8 bits per weight), *steps* a step per weight and
the coder's bits (what `compress` does without factors and zeros), both with GPTQ too. Nothing is trained,
no label is used. Fidelity is the score with the original's predictions in place of labels; divergence is
from the original's outputs on the holdout (KL in nats; squared distance of normalized embeddings). Both
cannot profit from luck with labels, which scores near the original's do. Differences are mixed minus
uniform with paired 95 % intervals; bold: the better one of the two mixed on calibration batches. Larger sets
are beside the holdout: 5,000 test images after JPEG, 3,000 training pairs without sentences of calibration.

"""
COLUMNS = (
    "network",
    "bits",
    "form",
    "on",
    "bytes",
    "score",
    "difference",
    "fidelity",
    "difference",
    "divergence",
    "difference",
)
ARMS = ("widths", "steps")


def section(data: dict[str, Any]) -> str:
    """A row for every form at every width, narrowest first."""
    rows = sorted(data["rows"], key=lambda row: (row["network"], row["width"]))
    lines = [line for row in rows for line in _lines(row)]
    return HEAD + _table(COLUMNS, lines) + "\n" + _told(rows) + _saved(rows)


def _lines(row: Row) -> list[tuple[Any, ...]]:
    scale = 100 if row["network"] == "resnet20" else 1
    first = row["network"], row["width"]
    lines: list[tuple[Any, ...]] = []
    for arm in ("uniform", *(arm for arm in ARMS if arm in row)):
        name, found = f"**{arm}**" if arm == row["chosen"] else arm, row[arm]
        if "error" in found:
            lines.append((*first, name, "", found["error"], *[""] * 6))
            continue
        larger = {**found["larger"], "bytes": found["bytes"]}
        lines += [
            (*first, name, "holdout", *_cells(found, scale)),
            (*first, name, "larger", *_cells(larger, scale)),
        ]
    return lines


def _cells(found: Row, scale: float) -> tuple[str, ...]:
    digits = 2 if scale == 100 else 4
    cells = [f"{found['bytes']:,}"]
    for key, factor in (("score", scale), ("fidelity", scale), ("divergence", 1)):
        places = digits if key != "divergence" else 4
        cells.append(f"{factor * found[key]:.{places}f}")
        difference = found.get(f"{key}_difference")
        text = "{:+.{p}f} [{:+.{p}f}, {:+.{p}f}]"
        cells.append(text.format(*(factor * part for part in difference), p=places) if difference else "")
    return tuple(cells)


def _told(rows: list[Row]) -> str:
    """In how many rows the chosen one of the mixed beats the uniform width, by each figure."""
    chosen = [row[row["chosen"]] for row in rows if row["chosen"]]
    sets = {"the holdout": chosen, "the larger sets": [found["larger"] for found in chosen]}
    return (
        "\n".join(f"On {name}, the chosen one beats uniform by {_wins(each)}." for name, each in sets.items())
        + "\n"
    )


def _saved(rows: list[Row]) -> str:
    """Bytes of steps beside those of one width that diverges as far, between the rows there are."""
    parts = []
    for network in sorted({row["network"] for row in rows}):
        some = [row for row in rows if row["network"] == network and "bytes" in row.get("steps", {})]
        points = sorted((row["steps"]["divergence"], row["steps"]["bytes"]) for row in some)
        lost, sizes = (np.log([max(each, 1e-12) for each in part]) for part in zip(*points, strict=True))
        for row in some:
            at = float(np.log(max(row["uniform"]["divergence"], 1e-12)))
            if lost[0] <= at <= lost[-1]:
                share = np.exp(np.interp(at, lost, sizes)) / row["uniform"]["bytes"] - 1
                parts.append(f"{network} {row['width']} bits {100 * share:+.0f} %")
    return (
        f"Bytes of steps at the divergence of one width, interpolated: {', '.join(parts)}.\n" if parts else ""
    )


def _wins(found: list[Row]) -> str:
    counts = {key: _counted([each[f"{key}_difference"] for each in found], sign) for key, sign in SIGNS}
    parts = [
        f"{key} in {better} of {len(found)} rows ({sure} surely, {worse} surely worse)"
        for key, (better, sure, worse) in counts.items()
    ]
    return "; ".join(parts)


SIGNS = (("score", 1), ("fidelity", 1), ("divergence", -1))


def _counted(differences: list[list[float]], sign: int) -> tuple[int, int, int]:
    """How many are better, better by their whole interval, and worse by it."""
    ends = [sorted(sign * part for part in (low, high)) for _, low, high in differences]
    better = sum(sign * value > 0 for value, _, _ in differences)
    return better, sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


DRAWS = """## Luck averaged out: several draws of calibration (`python -m benchmarks.draws`)

Every file made anew for each of several draws of the calibration samples; figures are means over the draws.
*steps* gets the bytes of uniform *bits*; *joint*, *step sizes* and *quantization* a bound of so many times
fewer bytes; all as in the two benchmarks of these names, post-training. Differences are those of the first
form minus the other, with 95 % intervals over draws and samples. A score above the original's is a property
of this network and these samples; fidelity (the original's predictions in place of labels) and divergence
have no such thing. Larger sets: 5,000 test images after JPEG; 3,000 training pairs without sentences of
calibration.

"""
DRAWN = (
    *("network", "at", "on", "draws", "original", "first", "score", "other", "score", "difference"),
    *("fidelity", "other's", "difference", "divergence", "other's"),
)


def draws(data: dict[str, Any]) -> str:
    """A row for every comparison and set of samples."""
    lines = [line for row in data["rows"] for name in ("holdout", "larger") for line in _drawn(row, name)]
    return DRAWS + _table(DRAWN, lines)


def _drawn(row: Row, name: str) -> Iterator[tuple[Any, ...]]:
    found, first = row[name], row["first"]
    at = f"{row['at']:g} bits" if row["case"] == "mixed" else f"{row['at']:g}x"
    for other, difference in found["first_minus"]["score"].items():
        score, fidelity, lost = (found[key] for key in ("score", "fidelity", "divergence"))
        yield (
            *(row["network"], at, name, row["draws"], f"{100 * found['original']:.2f}"),
            *(first, f"{100 * score[first]:.2f}", other, f"{100 * score[other]:.2f}", _points(difference)),
            *(f"{100 * fidelity[each]:.2f}" for each in (first, other)),
            _points(found["first_minus"]["fidelity"][other]),
            *(f"{lost[each]:.4f}" for each in (first, other)),
        )


def _points(difference: list[float]) -> str:
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * part for part in difference))
