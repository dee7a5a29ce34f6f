"""The table of bytes and divergence: what it measures is what the whole network would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plisse.compress import options
from plisse.compress.sensitivity import ANCHORS, RATIOS, divergence, rate_table
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.errors import BudgetError
from plisse.train.task import Task, classification


class Shared(nn.Module):
    """Three layers, the last of which has the weight of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


def net(shared: bool) -> nn.Module:
    torch.manual_seed(0)
    if shared:
        return Shared()
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


def task(shared: bool) -> Task:
    torch.manual_seed(1)
    shape = (8,) if shared else (1, 6, 6)
    batches = BatchList(tuple(Batch(torch.randn(32, *shape), torch.randint(5, (32,))) for _ in range(2)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


@pytest.mark.parametrize("shared", [False, True], ids=["layers", "shared weight"])
def test_divergence_is_that_of_the_whole_network_with_one_weight_replaced(shared: bool) -> None:
    model, given = net(shared).eval(), task(shared)
    for name, row in rate_table(model, given).rows.items():
        weight = modules.tensor(model, name).detach().clone()
        found = []
        anchors = [RATIOS.index(2.0 ** (k / 2)) for k in ANCHORS]
        for i in anchors:
            changed = modules.clone(model)
            modules.set_tensor(
                changed, name, torch.from_numpy(options.written(weight, row.options[i].steps[0])[0])
            )
            found.append(divergence(changed, model, given, list(given.calibration)))
        assert found[-1] > 1e-4
        assert row.divergence[anchors] == pytest.approx(np.maximum.accumulate(found), rel=1e-5, abs=1e-9)


def test_less_than_the_floor_is_refused() -> None:
    table = rate_table(net(False), task(False))
    assert table.least(table.floor * 1.1) >= table.least(table.floor * 3)
    with pytest.raises(BudgetError):
        table.choose(table.floor * 0.5)
