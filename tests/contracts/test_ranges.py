"""The contract of every range (calibrator): add yours to RANGES and run this file."""

from __future__ import annotations

import pytest
import torch

from plisse.compress.quantize.grids import Format, scale_and_zero, symbols, values_of
from plisse.compress.quantize.ranges import (
    ACIQ,
    MSE,
    Entropy,
    MeanMagnitude,
    MinMax,
    MovingAverage,
    Percentile,
    PowerOfTwo,
    mse,
    over_batches,
)

RANGES = [
    MinMax(),
    Percentile(99.0),
    Percentile(100.0),
    MSE(),
    MSE(norm=2.4),
    MeanMagnitude(),
    MovingAverage(),
    MovingAverage(0.5, Percentile(99.0)),
    Entropy(),
    Entropy(128),
    ACIQ(),
    ACIQ("laplace"),
    ACIQ("gauss"),
    PowerOfTwo(),
    PowerOfTwo(MinMax()),
]
FORMS = [
    Format(2),
    Format(4, symmetric=False),
    Format(4, narrow=False),
    Format(8),
    Format(8, symmetric=False),
]


def some_samples(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(5, 400, generator=generator)
    samples[1] *= 100
    samples[2] = samples[2].abs() + 1
    samples[3] = -samples[3].abs()
    samples[4, 7] = 30.0
    return samples


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("chosen", RANGES, ids=str)
class TestContract:
    def test_holds_zero_and_is_balanced_where_symmetric(self, chosen, form):
        low, high = chosen.range(some_samples(), form)
        assert low.shape == high.shape == (5,)
        assert bool((low <= 0).all())
        assert bool((high >= 0).all())
        assert bool((high > low).all())
        if form.symmetric:
            assert torch.equal(low, -high)

    def test_units_do_not_see_each_other(self, chosen, form):
        samples = some_samples()
        low, high = chosen.range(samples, form)
        for unit in range(5):
            alone = chosen.range(samples[unit : unit + 1], form)
            torch.testing.assert_close(torch.stack([low[unit], high[unit]]), torch.cat(alone))

    def test_scales_with_the_samples(self, chosen, form):
        samples = some_samples()
        low, high = chosen.range(samples, form)
        torch.testing.assert_close(chosen.range(samples * 4, form), (low * 4, high * 4))

    def test_leaves_the_samples(self, chosen, form):
        samples = some_samples()
        chosen.range(samples, form)
        assert torch.equal(samples, some_samples())

    def test_zeros_give_zeros(self, chosen, form):
        scale, zero = scale_and_zero(*chosen.range(torch.zeros(2, 9), form), form)
        found = values_of(symbols(torch.zeros(2), scale, zero, form), scale, zero)
        assert torch.equal(found, torch.zeros(2))

    def test_batches_that_are_alike_give_the_range_of_one(self, chosen, form):
        samples = some_samples()
        twice = over_batches(chosen, [samples, samples], form)
        torch.testing.assert_close(twice, chosen.range(torch.cat([samples, samples], 1), form))

    def test_is_a_value(self, chosen, form):
        assert hash(chosen) == hash(type(chosen)(**chosen.__dict__))
        assert chosen == type(chosen)(**chosen.__dict__)


def test_blocks_do_not_change_the_search(monkeypatch):
    form = Format(3)
    whole = MSE().range(some_samples(), form)
    monkeypatch.setattr(mse, "BLOCK", 1)
    torch.testing.assert_close(MSE().range(some_samples(), form), whole)


def test_percentile_drops_the_outlier():
    _, high = Percentile(99.0).range(some_samples()[4:], Format(8, symmetric=False))
    assert float(high) < 5.0


def test_mean_magnitude_is_the_papers_step():
    form, samples = Format(4), some_samples()
    _, high = MeanMagnitude().range(samples, form)
    step = high / form.high
    torch.testing.assert_close(step, 2 * samples.abs().mean(1) / 7**0.5)
