"""Laws of Bit-Split: digits make up symbols, and every change of one lowers the error of the outputs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerChannel, PerGroup
from plisse.compress.quantize.ranges import MinMax
from plisse.compress.quantize.rounding.bitsplit import BitSplit, digit, digits_chosen
from plisse.compress.quantize.rounding.moments import Gram
from plisse.core.reparam import Plain


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(k: int) -> Tensor:
    x = drawn(k, k, seed=1) @ drawn(k, 300, seed=2)
    return x @ x.T / 300


def error(weight: Tensor, steps: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    change = weight - scale * steps
    return ((change @ hessian) * change).sum(1)


def chosen(weight: Tensor, scale: Tensor, hessian: Tensor, steps: Tensor, top: int = 3) -> Tensor:
    bounds = (torch.full_like(weight, -top), torch.full_like(weight, top))
    return digits_chosen(hessian, weight, scale, *bounds, torch.zeros_like(weight) > 0, steps)


def test_digits_make_up_every_symbol() -> None:
    steps = torch.arange(-15.0, 16.0)
    planes = [2.0**plane * digit(steps, plane) for plane in range(4)]
    assert torch.equal(sum(planes, torch.zeros(())), steps)
    assert all(set(digit(steps, plane).unique().abs().tolist()) == {0.0, 1.0} for plane in range(4))


@pytest.mark.parametrize("start", ["nearest", "zero"])
def test_no_round_makes_outputs_worse(start: str) -> None:
    weight, hessian = drawn(9, 14), correlated(14)
    scale = (weight.abs().amax(1, keepdim=True) / 3).expand_as(weight)
    steps = (weight / scale).round() if start == "nearest" else torch.zeros_like(weight)
    before = first = error(weight, steps, scale, hessian)
    for _ in range(3):
        steps = chosen(weight, scale, hessian, steps)
        now = error(weight, steps, scale, hessian)
        assert bool((now <= before * 1.0001).all())
        before = now
    assert float(now.sum()) < 0.75 * float(first.sum())
    assert torch.equal(steps, steps.round())
    assert float(steps.abs().max()) <= 3


def test_single_columns_get_the_nearest_symbol() -> None:
    weight, one = drawn(40, 1) * 4, torch.ones(1, 1)
    scale = torch.full_like(weight, 0.7)
    steps = torch.zeros_like(weight)
    for _ in range(8):
        steps = chosen(weight, scale, one, steps, top=7)
    assert torch.equal(steps, (weight / scale).round().clamp(-7, 7))


def test_few_columns_come_near_the_best_of_all_symbols() -> None:
    weight, hessian = drawn(30, 3), correlated(3)
    scale = (weight.abs().amax(1, keepdim=True) / 3).expand_as(weight)
    every = torch.tensor(list(itertools.product(range(-3, 4), repeat=3))).float()
    best = torch.stack([error(weight, row.expand_as(weight), scale, hessian) for row in every]).amin(0)
    steps = (weight / scale).round()
    nearest = error(weight, steps, scale, hessian)
    for _ in range(3):
        steps = chosen(weight, scale, hessian, steps)
    found = error(weight, steps, scale, hessian)
    assert float(found.sum() - best.sum()) < 0.5 * float(nearest.sum() - best.sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [PerChannel(), PerGroup(7)], ids=str)
def test_layers_are_nearer_in_outputs_and_pruned_weights_stay_zero(
    symmetric: bool, granularity: PerChannel | PerGroup
) -> None:
    weight, hessian = drawn(6, 14), correlated(14)
    weight[0, :3] = 0
    found = FakeQuantized(Plain(weight), Format(3, symmetric), granularity, MinMax())
    before = found().detach()
    moments = Gram(hessian.double()[None], torch.zeros(()))
    BitSplit().round(found, nn.Linear(14, 6), moments)
    after = found().detach()
    lost = [float(error(weight, values, torch.ones(()), hessian).sum()) for values in (before, after)]
    assert lost[1] < 0.6 * lost[0]
    assert float(after[0, :3].abs().max()) == 0
    low, high = found.form.low, found.form.high
    symbols = found.stored().symbols
    assert low <= symbols.min()
    assert symbols.max() <= high
