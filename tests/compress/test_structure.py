"""Bounds on time, MACs and parameters, met by ranks or by channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plisse.compress.structure import ranks_within, structure_within
from plisse.core.batch import Batch, BatchList, call
from plisse.cost.budget import Budget, Cost
from plisse.errors import BudgetError
from plisse.train.task import Task, classification


def net() -> nn.Module:
    """A network whose middle layer has rank 6."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(),
        nn.Linear(96, 4),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in (model[2], model[4]):
            layer.weight.copy_(torch.randn(96, 6) @ torch.randn(6, 96) / 24)
    return model


def task() -> Task:
    torch.manual_seed(1)
    batches = BatchList(tuple(Batch(torch.randn(64, 16), torch.randint(4, (64,))) for _ in range(4)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def cost(model: nn.Module) -> Cost:
    size = sum(value.numel() for value in model.parameters())
    return Cost(params=size, bytes=4 * size, macs=size)


def test_layers_of_low_rank_become_factors_that_compute_the_same() -> None:
    model, problem = net(), task()
    found = structure_within(model, problem, Budget.parse("params=0.5x"), cost(model), cost)
    assert found is not None
    label, thin = found
    assert label.startswith("Factorize")
    assert cost(thin).params <= 0.5 * cost(model).params
    with torch.no_grad():
        torch.testing.assert_close(
            call(thin, problem.example), call(model, problem.example), atol=1e-4, rtol=1e-3
        )


def test_channels_where_ranks_do_not_reach_the_bound() -> None:
    model, problem = net(), task()
    found = structure_within(model, problem, Budget.parse("params=0.12x"), cost(model), cost)
    assert found is not None
    assert found[0].startswith("Prune")
    assert cost(found[1]).params <= 0.12 * cost(model).params


def test_nothing_to_do_and_nothing_possible() -> None:
    model, problem = net(), task()
    assert structure_within(model, problem, Budget.parse("bytes=0.1x"), cost(model), cost) is None
    assert ranks_within(model, problem, lambda network: False) is None
    with pytest.raises(BudgetError):
        structure_within(model, problem, Budget.parse("params=10"), cost(model), cost)
