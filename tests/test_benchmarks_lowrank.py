"""What the benchmarks of low rank and of the joint default compute themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import joint
from benchmarks.lowrank import peers, tables
from plisse.core.batch import Batch, BatchList
from plisse.train.task import Task, classification, outputs_on


def task() -> Task:
    torch.manual_seed(0)
    batches = BatchList(tuple(Batch(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def test_divergences_of_single_samples_average_to_that_of_the_batch() -> None:
    first, second, given = nn.Linear(4, 3), nn.Linear(4, 3), task()
    reference = outputs_on(first, given.holdout)
    found = joint.diverging(second, given, reference)
    pairs = zip(reference, outputs_on(second, given.holdout), strict=True)
    assert found.shape == (16,)
    assert found.mean() == pytest.approx(np.mean([float(given.divergence(a, b)) for a, b in pairs]), rel=1e-4)
    assert joint.diverging(first, given, reference) == pytest.approx(np.zeros(16), abs=1e-6)


def test_paired_differences_have_their_sign_and_survive_being_written() -> None:
    low, high = np.linspace(0.001, 0.01, 50), np.linspace(0.002, 0.02, 50)
    value, below, above = joint.difference(joint.unpacked(joint.packed(high)), low)
    assert value == pytest.approx(float((high - low).mean()), rel=0.01)
    assert 0 < below < value < above


def test_the_least_share_that_is_admitted_is_found() -> None:
    def cut(share: float) -> nn.Module:
        return nn.Linear(1, max(1, round(1000 * (1 - share))), bias=False)

    share = peers.bisected(cut, lambda network: network.weight.numel() <= 400)  # type: ignore[union-attr,operator]
    assert share == pytest.approx(0.6, abs=0.01)
    assert share is not None
    assert share >= 0.6 - 1e-3
    assert peers.bisected(cut, lambda network: False) is None


def test_a_technique_that_does_not_fit_says_so() -> None:
    row = {"network": "resnet20", "ratio": 20.0, "technique": "quantization", "processor_seconds": 3.2}
    fits = {
        **row, "technique": "low rank", "bytes": 54321, "score": 0.5, "difference": [-0.4, -0.5, -0.3],
        "agreement": 0.51, "divergence": 1.25, "beyond_joint": [1.0, 0.9, 1.1],
    }  # fmt: skip
    text = tables.joint({"rows": [row, fits]})
    assert "| resnet20 | 20x | quantization | does not fit |" in text
    assert (
        "| 54,321 | 50.00 | -40.00 [-50.00, -30.00] | 51.00 | 1250.00 | +1000.00 [+900.00, +1100.00] | 3 |"
        in text
    )
    width = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(width) == 1
