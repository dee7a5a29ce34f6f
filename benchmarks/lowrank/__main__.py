"""Selectors of ranks on CIFAR-10, before any training: `python -m benchmarks.lowrank [--small] [--fresh]`.

Layers are truncated by the plain singular value decomposition, scheme Channel(), first and last layer whole;
in the rows with "whitened", directions are weighed by the calibration inputs, for every selector alike.
Which images are used for what:
- choice of ranks (no labels): the task's 512 `val` images; no more than 256 of them for ResNet-56
- settings of the search: trials on 512 `val` images, compared on 2,048 other ones; those for ResNet-56 by
  their cost alone
- score, paired with the original and with the beam search: the 1,017 lossless test images
- "renormed": the same networks after batch norm was measured on 640 `train` images, every selector alike

Seconds are of the processor (use OMP_NUM_THREADS=1). Area: mean accuracy from 20 % to 70 % removed, as a
multiple of that of the uniform selector. "law": searches on networks with random weights, for the number of
runs. The JSON is written part by part; a run goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from benchmarks.cifar import interval
from benchmarks.lowrank.selection import BEAM, RATIOS, SMALL, SUBJECTS, Row, Subject, law, selections
from benchmarks.record import RESULTS, write
from plisse.compress.finetune import ReestimateNorm
from plisse.compress.lowrank.factorize import factorized
from plisse.compress.lowrank.problem import Problem
from plisse.train.evaluate import Evaluation, evaluate, paired
from plisse.train.task import Task
from plisse.train.tasks import open_task

RENORMED = (0.4, 0.6)
STATISTICS = 5
LAWS = ((2, None), (3, None), (5, None), (2, 2), (3, 2), (5, 2))


def scored(rows: Sequence[Row], problem: Problem, task: Task) -> list[Row]:
    """Every selection's accuracy, its difference from the original, and the beam search's from it."""
    before = evaluate(problem.model, task)
    found: dict[tuple[str, float], Evaluation] = {}
    results = []
    for row in rows:
        network = factorized(problem.model, row["ranks"], problem.spectra, problem.scheme)
        after = found[row["selector"], row["ratio"]] = evaluate(network, task)
        results.append(
            {
                **row,
                "original": before.score,
                "accuracy": after.score,
                "difference": interval(paired(after, before, task.score)),
                "renormed": _renormed(network, task) if row["ratio"] in RENORMED else None,
            }
        )
    for result in results:
        beam, other = found[BEAM, result["ratio"]], found[result["selector"], result["ratio"]]
        result["beam_minus_this"] = interval(paired(beam, other, task.score))
    return results


def _renormed(network: nn.Module, task: Task) -> float:
    return evaluate(ReestimateNorm(STATISTICS)(network, task), task).score


def areas(rows: Sequence[Row]) -> dict[str, float]:
    """Mean accuracy from the first to the last ratio at what was truly removed, relative to uniform's."""
    found = {}
    for name in dict.fromkeys(row["selector"] for row in rows):
        own = [row for row in rows if row["selector"] == name]
        shares = [0.0, *(row["removed"] for row in own)]
        heights = [own[0]["original"], *(row["accuracy"] for row in own)]
        at = np.linspace(RATIOS[0], RATIOS[-1], 121)
        found[name] = float(np.interp(at, shares, heights).mean())
    return {name: area / found["uniform"] for name, area in found.items()}


def measure(subject: Subject, task: Task) -> dict[str, Any]:
    """All of one network."""
    print(subject, flush=True)
    problem = subject.problem(task)
    rows = scored(selections(subject, problem), problem, task)
    for row in rows:
        print({key: value for key, value in row.items() if key != "ranks"}, flush=True)
    return {
        "network": subject.network, "whitened": subject.whitened, "search": str(subject.search),
        "area_relative_to_uniform": areas(rows), "rows": rows,
    }  # fmt: skip


def known(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one coarse search, on its own file")
    parser.add_argument("--fresh", action="store_true", help="forget earlier parts")
    chosen = parser.parse_args()
    name = "lowrank_small" if chosen.small else "lowrank"
    earlier = {} if chosen.fresh else known(name)
    parts, laws = list(earlier.get("networks", [])), list(earlier.get("law", []))
    task = open_task("cifar10")
    for blocks, fresh in LAWS[:1] if chosen.small else LAWS:
        if not any((each["layers"], each["fresh"]) == (6 * blocks, fresh) for each in laws):
            laws.append(law(blocks, fresh))
            print(laws[-1], flush=True)
            write(name, {"networks": parts, "law": laws})
    for subject in SMALL if chosen.small else SUBJECTS:
        if any((part["network"], part["whitened"]) == (subject.network, subject.whitened) for part in parts):
            continue
        parts.append(measure(subject, task))
        write(name, {"networks": parts, "law": laws})


if __name__ == "__main__":
    main()
