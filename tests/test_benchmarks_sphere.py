"""The benchmark of the reduced space: runs side by side are runs alone; interpolation; tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.sphere import storage, tables, training
from plisse.compress.sphere.training import Project
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW


def alone(together: training.SideBySide, run: int, hidden: int) -> training.SideBySide:
    """A copy of one run."""
    single = training.SideBySide(1, 2, (hidden,), 1)
    with torch.no_grad():
        for mine, other, size in zip(single.layers, together.layers, (hidden, 1), strict=True):
            mine.weight.copy_(other.weight[run * size : (run + 1) * size])
            mine.bias.copy_(other.bias[run * size : (run + 1) * size])
    return single


def test_runs_side_by_side_are_runs_alone():
    torch.manual_seed(0)
    together = training.SideBySide(3, 2, (7,), 1)
    singles = [alone(together, run, 7) for run in range(3)]
    case = training.cases(small=True)[1]
    hooks = (Project({"layers.0": 1.0}),)
    for model in (together, *singles):
        fit(
            *(model, training.total_error, training.batches(case)),
            **{"steps": 20, "optimizer": AdamW(lr=0.01), "hooks": hooks},
        )
    inputs, target = case.splits[1]
    with torch.no_grad():
        found = training.errors(together(inputs), target)
        wanted = torch.cat([training.errors(model(inputs), target) for model in singles])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_errors_of_classes():
    outputs = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [2.0, 0.0]]])  # [N, R, K]
    target = torch.tensor([0, 1])
    assert training.errors(outputs, target, score=True).tolist() == [0.5, 1.0]
    loss = nn.functional.cross_entropy(outputs[:, 0], target)
    torch.testing.assert_close(training.errors(outputs, target)[0], loss)


def test_the_rate_follows_the_least_error():
    def run(rate):
        off = torch.tensor([abs(rate - 0.27)])
        return off, off

    assert sorted(training.tuned(run)) == pytest.approx([1e-2, 3e-2, 1e-1, 0.3, 0.9])


def rows():
    return [
        {
            "network": "n",
            "form": form,
            "bits": bits,
            "divergence": shift * 4.0**-bits,
            "bytes": 100 * bits,
            "score": 0.5,
        }
        for form, shift in ((storage.REFERENCE, 1.0), ("other", 4.0))
        for bits in storage.BITS
    ]


def test_bytes_at_equal_divergence_are_interpolated():
    found = storage.at_equal_divergence(rows())
    assert [row["bytes"]["other"] for row in found] == [500, 400, 300]
    assert found[0]["bytes"][storage.REFERENCE] == 400


def test_tables_render():
    data = {"storage": rows(), "equal_divergence": storage.at_equal_divergence(rows())}
    assert "1.250x" in tables.section(data)
