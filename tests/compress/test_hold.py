"""Holding the rate: weights are drawn to zero, or steps follow, until the coded weights take the target."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plisse.compress.fitting import rescaled, shrink_within
from plisse.compress.hold import HoldRate, draw
from plisse.compress.prune.mask import Masked
from plisse.compress.quantize.rated import RateQuantize, RateQuantized, coded_bytes
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import Fixed, Reparametrized
from plisse.errors import BudgetError
from plisse.train.loop import State
from plisse.train.task import classification


def quantized(step: float = 0.01) -> Reparametrized:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    batches = BatchList((Batch(torch.randn(4, 64), torch.zeros(4, dtype=torch.long)),))
    task = classification("tiny", batches[0].inputs, batches, batches, batches)
    return RateQuantize({"0.weight": step, "2.weight": step}, dead_zone=0.1)(model, task)


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


def test_nothing_moves_between_looks_and_nothing_becomes_finer_at_the_end() -> None:
    network = quantized()
    before = coded_bytes(network)
    HoldRate(before // 2)(state(network, 30))
    HoldRate(2 * before)(state(network, 999))
    assert coded_bytes(network) == before
    HoldRate(2 * before)(state(network, 724))
    assert coded_bytes(network) > before


def test_too_many_bytes_are_drawn_in_to_the_end() -> None:
    """By the least threshold, of as many steps for each weight; steps, signs and zeros stay."""
    network = quantized(0.05)
    old = {name: each.source.weight.detach().clone() for name, each in network.reparams.items()}
    steps = [float(each.step) for each in network.reparams.values()]
    target = int(0.97 * coded_bytes(network))
    HoldRate(target)(state(network, 999))
    assert 0.985 * target <= coded_bytes(network) <= 1.01 * target
    assert [float(each.step) for each in network.reparams.values()] == steps
    shifts = []
    for name, each in network.reparams.items():
        new, was = each.source.weight.detach(), old[name]
        assert bool((new * was >= 0).all())
        shifts.append((was.abs() - new.abs())[new != 0] / each.step)
    shift = torch.cat(shifts)
    assert 0 < float(shift.mean()) < 0.3
    assert float(shift.max() - shift.min()) < 1e-4


def test_masked_weights_are_no_bits_and_stay_zero() -> None:
    network, mask = quantized(0.05), torch.arange(64 * 64).view(64, 64) % 3 == 0
    sparse = network.reparams["0.weight"]
    assert isinstance(sparse, RateQuantized)
    sparse.source = Masked(sparse.source, mask)
    values = sparse.source.source.weight.detach().clone()
    assert 0.99 <= draw(network, 0.95) <= 1.0
    assert not sparse()[~mask].any()
    assert bool((sparse.source.source.weight.abs() <= values.abs()).all())


def test_weights_computed_from_others_get_coarser_steps() -> None:
    """A tensor that is fixed cannot be drawn anywhere."""
    network = quantized()
    for each in network.reparams.values():
        assert isinstance(each, RateQuantized)
        each.source = Fixed(each.source.weight)
    before = coded_bytes(network)
    assert draw(network, 0.5) == 2.0
    HoldRate(before // 2)(state(network, 24))
    assert [float(each.step) for each in network.reparams.values()] == pytest.approx([0.0115] * 2, rel=0.01)
    assert coded_bytes(network) < before


def test_shrinking_is_as_little_as_needed_and_refuses_the_impossible() -> None:
    network = quantized()
    bound = 0.8 * coded_bytes(network)
    shrunk = shrink_within(network, bound, coded_bytes)
    assert 0.97 * bound <= coded_bytes(shrunk) <= bound
    assert shrink_within(shrunk, bound, coded_bytes) is shrunk
    assert coded_bytes(rescaled(network, 1.0)) == coded_bytes(network)
    with pytest.raises(BudgetError):
        shrink_within(network, 10, coded_bytes)
