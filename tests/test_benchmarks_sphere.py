"""The benchmark of the reduced space: runs side by side are runs alone; interpolation; tables."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmarks.sphere import order, steps, storage, tables, training
from plisse.compress.equalize import scale_pair
from plisse.compress.sphere.training import Project
from plisse.core.batch import Batch, BatchList
from plisse.networks.coordinate import fourier_mlp
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import classification


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


def test_bytes_at_equal_score_are_those_that_first_reach_it():
    made = [{**row, "score": 0.1 * row["bits"] - 0.1 * (row["form"] == "other")} for row in rows()]
    found = storage.at_equal_score(made)
    assert [row["bytes"]["other"] for row in found] == [500, 400, 300]
    assert [row["bytes"][storage.REFERENCE] for row in found] == [400, 300, 200]


@pytest.mark.parametrize(
    ("files", "wanted", "size"),
    [
        ([(100, 0.1), (400, 0.3)], 0.2, 200),
        ([(400, 0.3), (100, 0.1)], 0.3, 400),
        ([(100, 0.1), (200, 0.3), (400, 0.25)], 0.25, 168),
        ([(100, 0.1), (400, 0.3)], 0.4, None),
        ([(100, 0.1), (400, 0.3)], 0.05, None),
    ],
    ids=["between", "at a file", "first reached", "above", "below"],
)
def test_least_bytes(files, wanted, size):
    assert storage.least_bytes(files, wanted) == size


def test_orders_are_compared_by_place_and_by_cut():
    values = torch.arange(1.0, 101.0)
    assert order.compared(values, 3 * values) == pytest.approx(
        {"same_place": 1.0, "same_half": 1.0, "same_cut": 1.0, "widest_swap": 0.0}
    )
    swapped = values.clone()
    swapped[[49, 50]] = values[[50, 49]]  # across the middle
    found = order.compared(values, swapped)
    assert found["same_place"] == pytest.approx(0.98)
    assert found["same_half"] == pytest.approx(0.98)
    assert found["same_cut"] == pytest.approx(98 / 99)
    assert found["widest_swap"] == pytest.approx(1 / 51)


def test_every_case_has_three_splits_within_its_box():
    for case in training.cases(small=False):
        assert len(case.splits) == 3
        assert float(case.splits[0][0].abs().max()) <= 1
        assert all(len(x) == len(y) for x, y in case.splits)
    assert {"5-D polynomial", "5-D Gaussian"} <= {case.name for case in training.cases(small=False)}


def test_rescalings_are_found_in_a_step():
    torch.manual_seed(0)
    one = fourier_mlp(6, 2, 4)
    two = copy.deepcopy(one)
    scale_pair(two[1], two[3], torch.full((6,), 1.001))
    places = torch.rand(8, 2)
    task = classification("frame", places, *[BatchList((Batch(places),))] * 3)
    assert steps.rescaling_share(one, two, task) == pytest.approx(1.0, abs=1e-3)
    assert steps.directions(one, task).shape == (steps.flat(one).numel(), 12)
    torch.nn.init.normal_(two[1].weight)
    assert steps.rescaling_share(one, two, task) < 0.5


def test_tables_render():
    data = {"storage": rows(), "equal_divergence": storage.at_equal_divergence(rows())}
    assert "1.250x" in tables.section(data)
    data = {"order": [{"type": "float32", "powers_of_two": False, "form_in": "float64"}]}
    found = order.compared(torch.arange(4.0), torch.arange(4.0))
    data["order"][0].update(plain=found, canonical=found)
    assert "| float32, factors of any kind | float64 | 100.00 % |" in tables.section(data)
