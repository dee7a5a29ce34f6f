"""An invented result: the figures mean nothing, only how they are shown is tested."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from plisse.compress.result import FrontierPoint, Result, StepRow, TensorRow
from plisse.cost.budget import Cost
from plisse.train.evaluate import Difference, Evaluation


def evaluation(score: float, half: float) -> Evaluation:
    nothing = torch.zeros(0)
    return Evaluation("accuracy", score, score - half, score + half, 1017, nothing, nothing, "points")


def result(**changes: object) -> Result:
    """ResNet-20 in shape, invented in figures."""
    before = Cost(272_474, 1_098_123, 40_813_184, 0.00612, 0.00021)
    pruned = Cost(272_474, 1_098_001, 40_813_184, 0.00609, 0.00019)
    after = Cost(272_474, 91_733, 40_813_184, 0.00611, 0.00020)
    made = Result(
        model=nn.Identity(),
        data=b"\0" * 91_733,
        before=before,
        after=after,
        score_before=evaluation(0.9243, 0.016),
        score_after=evaluation(0.9184, 0.017),
        difference=Difference(-0.0059, -0.0138, 0.0020, 1017),
        steps=(
            StepRow("as it came", before, 0.9243),
            StepRow("Prune(sparsity=0.6, scope='global')", pruned, 0.9223, saved_nothing=True),
            StepRow("Quantize(bits=4, granularity='channel')", after, 0.9184),
        ),
        tensors=tuple(_tensors()),
        frontier=tuple(_frontier()),
        record={
            "network": {"kind": "builtin", "name": "resnet20"},
            "task": "cifar10",
            "seed": 0,
            "budget": "bytes=0.1x",
            "<b>": "&",
        },
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def _tensors() -> list[TensorRow]:
    sides = [(16, 3, 3, 3)] + [(c, c, 3, 3) for c in (16, 32, 64) for _ in range(6)] + [(10, 64)]
    random = np.random.default_rng(0)
    rows = []
    for index, shape in enumerate(sides):
        values = int(np.prod(shape))
        bits = random.uniform(1.8, 4.2)
        rows.append(
            TensorRow(f"layers.{index}.conv.weight", shape, int(values * bits / 8) + 9, "context", 0.4)
        )
    return [*rows, TensorRow("bn.num_batches_tracked", (), 12, "raw", 0.0)]


def _frontier() -> list[FrontierPoint]:
    random = np.random.default_rng(1)
    sizes = np.geomspace(30_000, 400_000, 40)
    loss = 2e10 * sizes**-2.4 * random.uniform(1, 2.5, 40) / 10
    pairs = zip(sizes.tolist(), loss.tolist(), strict=True)
    return [FrontierPoint(n_bytes, found, index == 16) for index, (n_bytes, found) in enumerate(pairs)]
