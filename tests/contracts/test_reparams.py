"""The contract of every reparametrization of the quantizers: add yours to REPARAMS and run this file."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from plisse.compress.quantize.aware import LearnedScale
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.compress.quantize.rated import RateQuantized, TrellisQuantized
from plisse.compress.quantize.small import Constant, HalfPrecision
from plisse.core.reparam import Fixed, Plain

SHAPES = [(7,), (6, 5), (4, 3, 3, 3), (1, 10)]
GRIDS = [
    partial(FakeQuantized, form=form, granularity=granularity, range=found, learn_step=learn)
    for form, granularity, found, learn in [
        (Format(2, True), PerTensor(), MinMax(), False),
        (Format(4, True), PerChannel(), MSE(), True),
        (Format(3, True), PerGroup(4), MSE(), True),
        (Format(8, True), PerGroup(3), MinMax(), False),
        (Format(8, False), PerTensor(), MinMax(), True),
        (Format(3, False), PerChannel(), MSE(), False),
        (Format(4, False), PerGroup(4), MinMax(), True),
        (Format(12, False), PerTensor(), MinMax(), False),
    ]
]
RATED = [
    partial(RateQuantized, step=0.03),
    partial(RateQuantized, step=0.3, dead_zone=0.2),
    partial(RateQuantized, step=0.1, rounding="rate", rate_weight=0.2),
    partial(TrellisQuantized, step=0.07),
]
SMALL = [Plain, Constant, HalfPrecision, partial(LearnedScale, factor=0.5)]
REPARAMS = [*GRIDS, *RATED, *SMALL]


class Doubled(Plain):
    """A computed source."""

    def forward(self) -> torch.Tensor:
        return self.weight * 2.0


def wrap(make, values, source=Plain):
    """A reparametrization of `values`; two of them take the tensor itself."""
    if make is Plain:
        return Plain(values)
    if isinstance(make, partial) and make.func is LearnedScale:
        return make(values.abs() + 0.1)
    return make(source(values))


def some_values(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.7


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", REPARAMS, ids=str)
class TestContract:
    def test_stored_values_equal_forward_bit_for_bit(self, make, shape):
        reparam = wrap(make, some_values(shape))
        stored = reparam.stored()
        assert stored.shape == shape
        assert np.issubdtype(stored.symbols.dtype, np.integer)
        assert stored.symbols.size == int(np.prod(shape))
        assert torch.equal(torch.from_numpy(stored.values().copy()), reparam().detach())

    def test_forward_repeats_and_follows_its_source(self, make, shape):
        reparam = wrap(make, some_values(shape))
        first = reparam().detach().clone()
        assert torch.equal(reparam(), first)
        with torch.no_grad():
            for parameter in reparam.parameters():
                parameter.mul_(1.7)
        assert not torch.equal(reparam(), first)
        assert torch.equal(torch.from_numpy(reparam.stored().values().copy()), reparam().detach())

    def test_copies_are_independent(self, make, shape):
        reparam = wrap(make, some_values(shape))
        first = reparam().detach().clone()
        other = copy.deepcopy(reparam)
        assert torch.equal(other(), first)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.7)
        assert not torch.equal(other(), first)
        assert torch.equal(reparam(), first)

    def test_is_differentiable(self, make, shape):
        reparam = wrap(make, some_values(shape))
        reparam().sum().backward()
        gradients = [p.grad for p in reparam.parameters() if p.requires_grad]
        assert gradients
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("make", [*GRIDS, *RATED, Constant, HalfPrecision], ids=str)
def test_takes_computed_and_fixed_sources(make):
    values = some_values((4, 6))
    for source in (Doubled, Fixed):
        reparam = wrap(make, values, source)
        assert torch.equal(torch.from_numpy(reparam.stored().values().copy()), reparam().detach())


@pytest.mark.parametrize("make", [*GRIDS, *RATED[:3]], ids=str)
def test_zeros_stay_exactly_zero(make):
    values = some_values((6, 8))
    values[values.abs() < 0.5] = 0.0
    found = wrap(make, values)()
    assert not bool(found[values == 0].any())


@pytest.mark.parametrize("make", RATED, ids=str)
def test_gradient_passes_unchanged(make):
    reparam = wrap(make, some_values((4, 6)))
    weight = torch.arange(24.0).reshape(4, 6)
    (reparam() * weight).sum().backward()
    assert torch.equal(reparam.source.weight.grad, weight)
