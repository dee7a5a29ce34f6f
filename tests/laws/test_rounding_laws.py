"""Laws of roundings that look at outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plisse.compress.quantize import grids
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerChannel, PerGroup, spread
from plisse.compress.quantize.ranges import MinMax
from plisse.compress.quantize.rounding.chosen import choose, real_symbols
from plisse.compress.quantize.rounding.gptq import rounded_columns
from plisse.compress.quantize.rounding.moments import Gram, fitted_scale, patches, rows_of
from plisse.compress.quantize.rounding.stochastic import Stochastic
from plisse.compress.quantize.rounding.units import block_names
from plisse.compress.quantize.rounding.variables import Adaptive, Weight
from plisse.core.reparam import Plain, Reparametrized
from plisse.networks.resnet import CifarResNet


def fake(weight, bits=3, granularity=PerChannel(), symmetric=False):
    return FakeQuantized(Plain(weight), Format(bits, symmetric), granularity, MinMax())


def columns(weight, hessian, **options):
    found = fake(weight)
    scale, zero = (spread(part, weight, 0).expand_as(weight) for part in (found.scale.detach(), found.zero))
    hold = torch.zeros_like(weight, dtype=torch.bool)
    options = {"order": True, "block": 8, **options}
    symbols = rounded_columns(weight, hessian, (scale, zero, hold), found.form, **options)
    return symbols, grids.values_of(symbols, scale, zero), found


@pytest.fixture
def weight():
    return torch.randn(12, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def inputs():
    """Correlated: [20, 500]."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(20, 20, generator=draw) @ torch.randn(20, 500, generator=draw)


@pytest.mark.parametrize("order", [True, False])
def test_gptq_with_identity_hessian_is_nearest(weight, order):
    symbols, _, found = columns(weight, torch.eye(20).double(), order=order)
    assert (symbols.int().numpy() == found.stored().symbols).all()


@pytest.mark.parametrize("order", [True, False])
def test_gptq_is_nearer_in_outputs_and_farther_in_weights(weight, inputs, order):
    hessian = (inputs @ inputs.T).double() + 0.01 * torch.eye(20).double()
    _, values, found = columns(weight, hessian, order=order)
    nearest = found().detach()
    assert ((values - weight) @ inputs).square().sum() < 0.7 * ((nearest - weight) @ inputs).square().sum()
    assert (values - weight).square().sum() > (nearest - weight).square().sum()


def test_blocks_of_columns_change_speed_only(weight, inputs):
    hessian = (inputs @ inputs.T).double() + torch.eye(20).double()
    whole, parts = (columns(weight, hessian, block=block)[0] for block in (64, 3))
    assert (whole != parts).float().mean() < 0.02


@pytest.mark.parametrize("granularity", [PerChannel(), PerGroup(8)], ids=str)
def test_fitted_scales_are_never_farther(weight, inputs, granularity):
    found = fake(weight, granularity=granularity)
    squares = (inputs @ inputs.T).double()[None] / inputs.shape[1]
    symbols = torch.from_numpy(found.stored().symbols).float()
    scale = fitted_scale(found, nn.Linear(20, 12), symbols, Gram(squares, squares), 1e-6)
    before, after = (
        ((symbols - spread(found.zero, weight, found.group)) * spread(part, weight, found.group) - weight)
        for part in (found.scale.detach(), scale)
    )
    errors = [(part @ inputs).square().sum(1) for part in (before, after)]
    assert bool((errors[1] <= errors[0] * 1.0001).all())
    assert errors[1].sum() < 0.97 * errors[0].sum()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4, bias=False),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2, padding_mode="reflect", bias=False),
        nn.Conv1d(4, 6, 3, padding=1, groups=4 // 2, bias=False),
    ],
    ids=str,
)
def test_patches_times_weight_is_the_layer(layer):
    torch.manual_seed(0)
    shape = {nn.Linear: (3, 5, 6), nn.Conv2d: (3, 4, 8, 8), nn.Conv1d: (3, 4, 9)}[type(layer)]
    value = torch.randn(shape)
    columns_ = patches(layer, value)
    found = torch.cat(
        [
            layer.weight[rows].flatten(1) @ columns_[group]
            for group, rows in enumerate(rows_of(layer, layer.weight))
        ]
    )
    wanted = layer(value)
    wanted = wanted.flatten(0, -2).T if isinstance(layer, nn.Linear) else wanted.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_soft_rounding_starts_at_the_weight_and_ends_binary(weight):
    found = fake(weight, bits=4, symmetric=True)
    rounder = Adaptive(found)
    start = Weight(found, rounder, 0.0)().detach()
    assert float((start - weight).abs().max()) < 0.02 * float(found.scale.max())
    with torch.no_grad():
        rounder.v.copy_(torch.randn(weight.shape) * 20)
    assert bool(((rounder.h() >= 0) & (rounder.h() <= 1)).all())
    optimizer = torch.optim.Adam(rounder.parameters(), lr=0.3)
    with torch.no_grad():
        rounder.v.copy_(torch.randn(weight.shape))
    for step in range(200):
        optimizer.zero_grad()
        rounder.penalty(20.0 - 18.0 * step / 200).backward()
        optimizer.step()
    assert bool(((rounder.h() == 0) | (rounder.h() == 1)).float().mean() > 0.97)


def test_chosen_symbols_are_stored_exactly_and_remembered(weight):
    found = fake(weight)
    draw = torch.Generator().manual_seed(2)
    wanted = torch.randint(0, 8, weight.shape, generator=draw)
    real = wanted + (torch.rand(weight.shape, generator=draw) - 0.5) * 0.9
    choose(found, real, found.scale.detach() * 1.1)
    assert (found.stored().symbols == wanted.numpy()).all()
    torch.testing.assert_close(real_symbols(found), real, rtol=0, atol=2e-3)
    choose(found, wanted.float())
    torch.testing.assert_close(real_symbols(found), wanted.float(), rtol=0, atol=1e-4)


def test_stochastic_rounding_is_right_on_average(weight):
    model = nn.Linear(20, 12, bias=False)
    quantized = Reparametrized(model, {"weight": fake(weight)})
    real = real_symbols(quantized.reparams["weight"])
    inside = (real > 0) & (real < 7)
    with torch.no_grad():
        draws = [Stochastic(seed)(quantized, model, None).reparams["weight"]() for seed in range(60)]
        nearest = quantized.reparams["weight"]() - weight
    far = (torch.stack(draws).mean(0) - weight)[inside].square().mean()
    assert far < 0.1 * nearest[inside].square().mean()
    assert float(torch.stack(draws).std(0)[inside].mean()) > 0


def test_blocks_are_found():
    names = block_names(CifarResNet(2))
    assert names == ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1")
    assert block_names(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ()
