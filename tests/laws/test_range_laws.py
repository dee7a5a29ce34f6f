"""Laws of ranges: what each is best at, measured."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from plisse.bitstream.tensors import decode_tensor, encode_tensor
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import (
    Format,
    PerBlock,
    PerGroup,
    scale_and_zero,
    spread,
    symbols,
    values_of,
)
from plisse.compress.quantize.ranges import (
    ACIQ,
    MSE,
    Entropy,
    MinMax,
    MovingAverage,
    Percentile,
    PowerOfTwo,
    over_batches,
)
from plisse.compress.quantize.ranges.entropy import divergences
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.reparam import Plain

FORMS = [
    Format(2),
    Format(3, symmetric=False),
    Format(4),
    Format(4, narrow=False),
    Format(8),
    Format(8, symmetric=False),
]


def uniform(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp(1e-12, 1)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laplace(n, seed=0):
    sign = torch.where(uniform(n, seed + 1) < 0.5, -1.0, 1.0)
    return (sign * -uniform(n, seed).log()).float()


def error(samples, low, high, form):
    """Mean squared error [U] of rounding samples [U, n] within ranges."""
    scale, zero = (part[:, None] for part in scale_and_zero(low, high, form))
    return (values_of(symbols(samples, scale, zero, form), scale, zero) - samples).square().mean(1)


@pytest.mark.parametrize("form", [*FORMS[:4], Format(6), Format(6, symmetric=False)], ids=str)
@pytest.mark.parametrize("family", ["laplace", "gauss"])
@pytest.mark.parametrize("rectified", [False, True])
def test_the_formula_for_a_distribution_finds_what_a_scan_finds(form, family, rectified):
    samples = (laplace(200000) if family == "laplace" else normal(200000))[None] * 0.7
    if rectified:
        samples = samples.relu()
    low, high = MinMax().range(samples, form)
    shares = torch.linspace(0.02, 1, 60)[:, None]
    least = min(float(error(samples, low * share, high * share, form)) for share in shares)
    by_formula = float(error(samples, *ACIQ(family).range(samples, form), form))
    assert by_formula <= least * 1.03  # scales round up to bfloat16


def test_auto_takes_the_distribution_that_fits():
    samples = torch.stack([laplace(20000), normal(20000)])
    form = Format(4)
    auto = ACIQ("auto").range(samples, form)[1]
    assert float(auto[0]) == float(ACIQ("laplace").range(samples, form)[1][0])
    assert float(auto[1]) == float(ACIQ("gauss").range(samples, form)[1][1])


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("inner", [MinMax(), MSE(), Percentile(99.0), MovingAverage(0.5)], ids=str)
def test_power_of_two_scales_are_powers_and_not_below(inner, form):
    samples = normal(20, 300) * torch.logspace(-20, 15, 20)[:, None] + 0.3
    before, _ = scale_and_zero(*inner.range(samples, form), form)
    scale, zero = scale_and_zero(*PowerOfTwo(inner).range(samples, form), form)
    assert bool((torch.frexp(scale).mantissa == 0.5).all())
    assert bool((scale >= before).all())
    assert bool((scale < 2 * before).all())
    assert torch.equal(zero, zero.round())


def test_a_power_stays_as_it_is():
    samples = torch.tensor([[-3.5, 1.0, 3.5]])
    _, high = PowerOfTwo(MinMax()).range(samples, Format(4))
    assert float(high) == 3.5


def test_the_moving_average_of_a_constant_is_the_constant_and_of_a_change_decays():
    form = Format(8, symmetric=False)
    ones, twos = torch.full((1, 5), 1.0), torch.full((1, 9), 2.0)
    assert float(MovingAverage(0.9).over([ones] * 7, form)[1]) == 1.0
    for n in (1, 2, 5):
        _, high = MovingAverage(0.8).over([ones] + [twos] * n, form)
        assert float(high) == pytest.approx(2 - 0.8**n, rel=1e-6)
    assert float(MovingAverage(0.0).over([ones, twos], form)[1]) == 2.0
    wrapped = over_batches(PowerOfTwo(MovingAverage(0.5)), [ones, twos], form)  # sees 1.5, not 2
    assert float(wrapped[1] - wrapped[0]) == 255 * 2.0**-7


def kl_by_hand(counts, end, levels):
    """KL(P || Q) for one threshold, as its definition says, bin by bin."""
    p = counts[:end].copy()
    inside = p.copy()
    p[-1] += counts[end:].sum()
    q = np.zeros(end)
    edges = [math.floor(end * k / levels + 0.5) for k in range(levels + 1)]
    for a, b in itertools.pairwise(edges):
        used = p[a:b] > 0
        if used.any():
            q[a:b][used] = max(inside[a:b].sum(), 1e-4) / used.sum()
    p, q = p / p.sum(), q / inside.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def test_divergence_is_what_its_definition_says():
    counts = np.random.default_rng(0).poisson(np.linspace(6, 0.2, 64)).astype(float)
    ends = np.arange(8, 65, 7)
    found = divergences(counts, ends, 8)
    np.testing.assert_allclose(found, [kl_by_hand(counts, end, 8) for end in ends], rtol=1e-9)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_entropy_never_empties_a_range(form):
    hard = [
        torch.zeros(1, 50),
        torch.ones(1, 1),
        torch.full((1, 40), -3.0),
        torch.tensor([[0.0] * 999 + [7.0]]),
        torch.tensor([[1e-30, 2e-30]]),
        normal(1, 3000) ** 5,
    ]
    for samples in hard:
        low, high = Entropy().range(samples, form)
        empty = not bool(samples.any())
        assert float(low) <= 0 <= float(high)
        assert (float(high - low) == 0) == empty


def test_exact_zeros_do_not_change_ranges_by_entropy_or_formula():
    samples = normal(1, 4000).relu()
    form = Format(4, symmetric=False)
    many = torch.cat([samples, torch.zeros(1, 40000)], 1)
    for chosen in (Entropy(), ACIQ()):
        torch.testing.assert_close(chosen.range(many, form), chosen.range(samples, form))


def test_entropy_drops_a_far_outlier_and_keeps_an_even_spread():
    form = Format(8, symmetric=False)
    even = uniform(50000)[None].float()
    assert float(Entropy().range(even, form)[1]) > 0.95
    wild = torch.cat([even, torch.full((1, 2), 40.0)], 1)
    assert float(Entropy().range(wild, form)[1]) < 20.0


@pytest.mark.parametrize("bits", [4, 8])
def test_a_scale_per_row_beats_one_per_tensor_where_rows_differ(bits):
    value = normal(6, 32, 64) * torch.logspace(-2, 1, 32)[:, None]
    of_tensor, of_row = (
        (DynamicQuantizer(bits, unit)(value) - value).square().mean((0, 2)) for unit in ("tensor", "row")
    )
    assert bool((of_row[:-1] < of_tensor[:-1]).all())
    assert float(of_row[0]) < 0.01 * float(of_tensor[0])


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_one_more_symbol_makes_smaller_steps(bits):
    reach = torch.tensor([1.0])
    narrow, _ = scale_and_zero(-reach, reach, Format(bits))
    full, _ = scale_and_zero(-reach, reach, Format(bits, narrow=False))
    assert float(narrow) == pytest.approx(2 / (2**bits - 2), rel=2**-7)
    assert float(full) == pytest.approx(2 / (2**bits - 1), rel=2**-7)
    values = torch.linspace(-1, 1, 10001)[None]
    assert float(error(values, -reach, reach, Format(bits, narrow=False))) < float(
        error(values, -reach, reach, Format(bits))
    )


@pytest.mark.parametrize("shape", [(8, 12), (7, 13), (3, 2, 3, 3), (1, 1), (4,)])
def test_blocks_cover_every_value_once(shape):
    values = torch.arange(1.0, math.prod(shape) + 1).reshape(shape)
    blocks = PerBlock(3, 5)
    parts = blocks.split(values)
    assert sum(part.numel() for part in parts) == values.numel()
    top = spread(blocks.join(tuple(part.amax(1) for part in parts), values), values, blocks.group)
    rows = values.flatten(1) if values.dim() > 1 else values[None]
    wanted = torch.zeros_like(rows)
    if values.dim() > 1:
        for i in range(0, rows.shape[0], 3):
            for j in range(0, rows.shape[1], 5):
                wanted[i : i + 3, j : j + 5] = rows[i : i + 3, j : j + 5].max()
    else:
        wanted[:] = rows.max()
    assert torch.equal(top.expand_as(values), wanted.reshape(shape))


def test_blocks_are_stored_as_they_are_computed():
    values = normal(7, 3, 3, 3)
    fake = FakeQuantized(Plain(values), Format(4), PerBlock(3, 10), MinMax())
    stored = fake.stored()
    assert stored.grid.scale.shape == (7, 3)
    assert (stored.grid.scale[0] == stored.grid.scale[2]).all()
    assert torch.equal(torch.from_numpy(stored.values()), fake().detach())
    assert torch.equal(torch.from_numpy(decode_tensor(encode_tensor(stored)).values()), fake().detach())


def test_blocks_of_one_row_are_groups():
    values = normal(6, 22)
    assert all(
        torch.equal(a, b)
        for a, b in zip(PerBlock(1, 8).split(values), PerGroup(8).split(values), strict=True)
    )
