"""Holding the rate: steps move until the coded weights take the target, and then stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plisse.compress.hold import HoldRate
from plisse.compress.quantize.rated import RateQuantize, coded_bytes
from plisse.compress.within import rescaled, shrink_within
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import Reparametrized
from plisse.errors import BudgetError
from plisse.train.loop import State
from plisse.train.task import classification


def quantized() -> Reparametrized:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    batches = BatchList((Batch(torch.randn(4, 64), torch.zeros(4, dtype=torch.long)),))
    task = classification("tiny", batches[0].inputs, batches, batches, batches)
    return RateQuantize({"0.weight": 0.01, "2.weight": 0.01}, dead_zone=0.1)(model, task)


def state(network: nn.Module, step: int, steps: int = 1000) -> State:
    return State(step=step, steps=steps, model=network, loss=torch.zeros(()), lr=0.1)


@pytest.mark.parametrize("share", [0.6, 1.3])
def test_the_rate_reaches_its_target_from_both_sides(share: float) -> None:
    network = quantized()
    target = int(share * coded_bytes(network))
    for step in range(24, 700, 25):
        HoldRate(target)(state(network, step))
    assert coded_bytes(network) == pytest.approx(target, rel=0.03)


def test_a_short_training_is_held_too() -> None:
    network = quantized()
    target = int(0.8 * coded_bytes(network))
    for step in range(60):
        HoldRate(target)(state(network, step, 60))
    assert coded_bytes(network) == pytest.approx(target, rel=0.06)


def test_steps_stay_between_looks_and_at_the_end() -> None:
    network = quantized()
    before = coded_bytes(network)
    HoldRate(before // 2)(state(network, 30))
    HoldRate(before // 2)(state(network, 999))
    assert coded_bytes(network) == before


def test_shrinking_is_as_little_as_needed_and_refuses_the_impossible() -> None:
    network = quantized()
    bound = 0.8 * coded_bytes(network)
    shrunk = shrink_within(network, bound, coded_bytes)
    assert 0.97 * bound <= coded_bytes(shrunk) <= bound
    assert shrink_within(shrunk, bound, coded_bytes) is shrunk
    assert coded_bytes(rescaled(network, 1.0)) == coded_bytes(network)
    with pytest.raises(BudgetError):
        shrink_within(network, 10, coded_bytes)
