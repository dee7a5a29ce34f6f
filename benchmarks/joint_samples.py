"""Samples that techniques are compared on, and the figures of each: a part of `python -m benchmarks.joint`.

Scores near the original's are luck with single labels, so there are larger sets beside the holdout. Nothing
is fitted to any of them, and no choice is made on them.
- ResNet-20, "holdout": the 1,017 lossless test images; "jpeg": 5,000 test images after JPEG, a shifted set;
  "val": 3,000 `val` images, of sheets 3 to 5, while calibration takes 512 of sheet 1 (the original was
  trained on all of these).
- MiniLM, "holdout": the dev split; "train": 3,000 pairs of the train split without any sentence of
  calibration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cifar import interval
from plisse.core.batch import Batches
from plisse.data.cifar10 import read_validation
from plisse.data.folder import data_set
from plisse.data.images import ImageBatches
from plisse.data.text import TextBatches
from plisse.train.evaluate import Evaluation, paired
from plisse.train.task import Task, outputs_on
from plisse.train.tasks import IMAGENET, cifar10_jpeg_holdout

Row = dict[str, Any]
FIRST_SCORED = 2000
"""`val` images before this are for calibration and for choices."""

PAIRS = 3000


def sets_of(network: str, task: Task) -> dict[str, Batches]:
    """The sets of samples by name, the holdout first."""
    if network == "minilm":
        return {"holdout": task.holdout, "train": untouched(task)}
    images = read_validation(data_set("cifar10"))
    rest = images.take(np.arange(FIRST_SCORED, len(images)))
    return {
        "holdout": task.holdout,
        "jpeg": cifar10_jpeg_holdout(batch_size=250),
        "val": ImageBatches(rest, 250, IMAGENET),
    }


def untouched(task: Task, limit: int = PAIRS, beside: Iterable[Task] = ()) -> TextBatches:
    """Pairs of the train split, none of whose sentences is in calibration, in a fixed order; nor in that of
    the tasks `beside`."""
    train, known = task.train, set()
    assert isinstance(train, TextBatches)
    assert train.targets is not None
    for each in (task, *beside):
        assert isinstance(each.calibration, TextBatches)
        known |= set(map(tuple, each.calibration.parts[0]))
    rows = [i for i, pair in enumerate(zip(*train.parts, strict=True)) if known.isdisjoint(map(tuple, pair))]
    picks = np.random.default_rng(0).permutation(rows)[:limit]
    parts = tuple([part[i] for i in picks] for part in train.parts)
    return dataclasses.replace(train, parts=parts, targets=train.targets[picks], shuffle=False)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network answers on one set. divergence: from the original, of every sample."""

    evaluation: Evaluation
    outputs: list[Tensor]
    divergence: np.ndarray


def seen(model: nn.Module, task: Task, batches: Batches, original: Seen | None = None) -> Seen:
    """The answers of `model`; those of the original itself without `original`."""
    outputs = outputs_on(model, batches)
    predictions = torch.cat([task.score.predict(each) for each in outputs])
    targets = torch.cat([batch.target for batch in batches if batch.target is not None])
    score = task.score.summary(predictions, targets)
    evaluation = Evaluation(task.score.name, score, score, score, len(targets), predictions, targets)
    reference = original.outputs if original else outputs
    return Seen(evaluation, outputs, diverging(task, reference, outputs))


def diverging(task: Task, reference: list[Tensor], outputs: list[Tensor]) -> np.ndarray:
    """The divergence of every sample's outputs from the reference's."""
    found = [
        float(task.divergence(wanted[i : i + 1], got[i : i + 1]))
        for wanted, got in zip(reference, outputs, strict=True)
        for i in range(len(wanted))
    ]
    return np.array(found)


def figures(task: Task, own: Seen, original: Seen, joint: Seen | None) -> Row:
    """Score, agreement and divergence of one set, each paired with the original or with "joint"."""
    after, before = own.evaluation, original.evaluation
    row: Row = {
        "samples": after.n,
        "score_before": before.score,
        "score": after.score,
        "difference": interval(paired(after, before, task.score)),
        "agreement": task.score.summary(after.predictions, before.predictions),
        "divergence": float(own.divergence.mean()),
    }
    if joint is None:
        return row
    pair = (_agreeing(task, each.evaluation, before) for each in (joint, own))
    return row | {
        "joint_minus_this": interval(paired(joint.evaluation, after, task.score)),
        "agreement_joint_minus_this": interval(paired(*pair, task.score)),
        "beyond_joint": difference(own.divergence, joint.divergence),
    }


def _agreeing(task: Task, own: Evaluation, original: Evaluation) -> Evaluation:
    """`own` with the original's predictions in place of labels."""
    score = task.score.summary(own.predictions, original.predictions)
    return dataclasses.replace(own, targets=original.predictions, score=score)


def difference(own: np.ndarray, other: np.ndarray) -> list[float]:
    """Mean of own - other over samples, and its bootstrap interval (95 %)."""
    pairs, random = own - other, np.random.default_rng(0)
    draws = [float(pairs[random.integers(len(pairs), size=len(pairs))].mean()) for _ in range(1000)]
    return [float(pairs.mean()), *map(float, np.percentile(draws, [2.5, 97.5]))]
