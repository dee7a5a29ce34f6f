"""Chosen ranks on images that no selector saw: `python -m benchmarks.lowrank.unseen [--small] [--network N]`.

The search chooses by what its calibration images lose, so that its own figure is too good, and few images
leave scores alike. Here are the ranks of `python -m benchmarks.lowrank` (whitened factors, nothing trained)
on 1,000 `val` images of another sheet, without labels: divergence from the original (KL in nats) and
agreement with it, the search beside the two best other selectors, paired. "seen" is the search's divergence
on the images that it chose by. Rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from benchmarks.joint_samples import Row, Seen, difference, seen
from benchmarks.lowrank.selection import BEAM, SUBJECTS, Subject
from benchmarks.lowrank_training import Rows
from benchmarks.record import RESULTS
from plisse.compress.lowrank.factorize import factorized
from plisse.compress.lowrank.problem import Problem
from plisse.core.batch import Batches
from plisse.data.cifar10 import read_validation
from plisse.data.folder import data_set
from plisse.data.images import ImageBatches
from plisse.train.task import Task
from plisse.train.tasks import IMAGENET, open_task

SELECTORS = (BEAM, "energy per parameter", "learning-compression")
RATIOS = (0.4, 0.5, 0.6, 0.7)
FIRST, N = 3000, 1000


def images(n: int = N) -> Batches:
    """`val` images of the fourth sheet."""
    found = read_validation(data_set("cifar10"), FIRST // 1000 + 1)
    return ImageBatches(found.take(np.arange(FIRST, FIRST + n)), 250, IMAGENET)


def chosen(subject: Subject) -> dict[tuple[str, float], Row]:
    """What `python -m benchmarks.lowrank` found for a network."""
    parts = json.loads((RESULTS / "lowrank.json").read_text(encoding="utf-8"))["networks"]
    wanted = (subject.network, subject.whitened)
    part = next(part for part in parts if (part["network"], part["whitened"]) == wanted)
    return {(row["selector"], row["ratio"]): row for row in part["rows"]}


def row(found: Row, own: Seen, original: Seen, search: Seen) -> Row:
    """Figures of one selection, paired with the search's."""
    same, other = (
        (each.evaluation.predictions == original.evaluation.predictions).numpy().astype(float)
        for each in (own, search)
    )
    return {
        "name": f"{found['network']}, {found['ratio']:.0%}: {found['selector']}",
        "network": found["network"],
        "ratio": found["ratio"],
        "selector": found["selector"],
        "samples": len(same),
        "seen": found.get("calibration_loss"),
        "divergence": float(own.divergence.mean()),
        "agreement": float(same.mean()),
        "beyond_search": difference(own.divergence, search.divergence),
        "agreement_search_minus_this": difference(other, same),
    }


def measured(
    subject: Subject, problem: Problem, task: Task, ratio: float, original: Seen, n: int
) -> list[Row]:
    """All selectors at one ratio."""
    batches, ranks = images(n), chosen(subject)
    answers = {
        name: seen(
            factorized(problem.model, ranks[name, ratio]["ranks"], problem.spectra, problem.scheme),
            task,
            batches,
            original,
        )
        for name in SELECTORS
    }
    return [row(ranks[name, ratio], answers[name], original, answers[BEAM]) for name in SELECTORS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ResNet-20 at 40 %%, 250 images")
    parser.add_argument("--network", choices=("resnet20", "resnet56"), help="one network")
    given = parser.parse_args()
    rows = Rows("lowrank_unseen_small" if given.small else "lowrank_unseen", given.small)
    task, n = open_task("cifar10"), 250 if given.small else N
    network = "resnet20" if given.small else given.network
    for subject in SUBJECTS:
        ratios = [
            ratio
            for ratio in (RATIOS[:1] if given.small else RATIOS)
            if f"{subject.network}, {ratio:.0%}: {SELECTORS[-1]}" not in rows.found
        ]
        if not subject.whitened or network not in (None, subject.network) or not ratios:
            continue
        problem = subject.problem(task)
        original = seen(problem.model, task, images(n))
        for ratio in ratios:
            for each in measured(subject, problem, task, ratio, original, n):
                rows.add(each)


if __name__ == "__main__":
    main()
