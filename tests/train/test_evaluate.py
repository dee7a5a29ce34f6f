"""Scores: what cannot be scored is said, not scored."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from plisse.core.batch import Batch, BatchList
from plisse.errors import InputError, WeightsError
from plisse.train.evaluate import evaluate, outputs_of
from plisse.train.task import Task, classification


def task(n: int = 3) -> Task:
    torch.manual_seed(0)
    batches = BatchList(tuple(Batch(torch.randn(4, 5), torch.arange(4) % 2) for _ in range(n)))
    return classification("points", torch.randn(4, 5), batches, batches, batches)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_are_refused_with_their_batch(value: float) -> None:
    given = task()
    given.holdout[1].inputs[2, 3] = value
    model = net().train()
    with pytest.raises(InputError, match=r"1 values in the inputs of batch 1 .*not finite"):
        evaluate(model, given)
    assert model.training
    named = BatchList(tuple(Batch({"input": batch.inputs}, batch.target) for batch in given.holdout))
    with pytest.raises(InputError, match="batch 1"):
        evaluate(nn.Linear(5, 2), given, named)


def test_outputs_that_are_no_numbers_are_refused() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    with pytest.raises(WeightsError, match=r"outputs of Sequential for batch 0 .*not finite"):
        evaluate(model, task())


def test_whole_numbers_are_inputs_as_well() -> None:
    tokens = BatchList((Batch(torch.tensor([[1, 2], [3, 0]]), torch.tensor([0, 1])),))
    model = nn.Sequential(nn.Embedding(4, 1), nn.Flatten())
    assert 0 <= evaluate(model, task(), tokens).score <= 1


def test_an_empty_part_is_named() -> None:
    empty = dataclasses.replace(task(), holdout=BatchList(()))
    with pytest.raises(InputError, match="'points' with an empty holdout"):
        evaluate(net(), empty)
    with pytest.raises(InputError, match="no batch to score on"):
        evaluate(net(), task(), BatchList(()))


def test_inputs_that_do_not_fit_name_the_network() -> None:
    with pytest.raises(InputError, match=r"shape \(4, 6\) that q4.plisse cannot take"):
        outputs_of(net(), torch.zeros(4, 6), "q4.plisse")
