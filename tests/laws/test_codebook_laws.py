"""Laws of grids that are not uniform."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from plisse.compress.quantize.codebooks import lloyd
from plisse.compress.quantize.codebooks.binary import Binary, LossAwareBinary
from plisse.compress.quantize.codebooks.codes import BinaryCodes, least_squares, nearest_codes, sums
from plisse.compress.quantize.codebooks.floats import MX, Float, Microscaling
from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.codebooks.levels import (
    AdditivePowersOfTwo,
    Logarithmic,
    NormalFloat,
    additive_levels,
    normal_levels,
)
from plisse.compress.quantize.codebooks.onlevels import nearest
from plisse.compress.quantize.codebooks.ternary import Ternary, TrainedTernary
from plisse.compress.quantize.codebooks.vectors import ProductQuantization, ResidualQuantization
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerChannel, PerTensor
from plisse.compress.quantize.ranges import MSE
from plisse.core.reparam import Plain


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laplace(*shape, seed=0):
    return normal(*shape, seed=seed) * normal(*shape, seed=seed + 1).abs()


def rounded(grid, values, *importance):
    return grid.quantized(Plain(values), *importance)().detach()


def error(grid, values):
    return float((rounded(grid, values) - values).double().square().sum())


def uniform_error(values, bits, granularity):
    found = FakeQuantized(Plain(values), Format(bits), granularity, MSE())()
    return float((found - values).detach().double().square().sum())


class TestKMeans:
    @pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
    @pytest.mark.parametrize("draw", [normal, laplace], ids=["normal", "laplace"])
    def test_is_no_worse_than_uniform(self, draw, bits):
        for seed in range(3):
            values = draw(40, 50, seed=seed)
            assert error(KMeans(bits), values) <= uniform_error(values, bits, PerTensor())

    def test_comes_near_the_best_quantizer_of_normal_numbers(self):
        """Max 1960: 0.1175, 0.03454 and 0.009497 of the variance at 4, 8 and 16 levels."""
        values = normal(60_000)
        for bits, wanted in {2: 0.1175, 3: 0.03454, 4: 0.009497}.items():
            assert abs(error(KMeans(bits, 60), values) / values.numel() / wanted - 1) < 0.03

    @pytest.mark.parametrize("d", [1, 3])
    def test_a_step_never_raises_the_distortion(self, d):
        points = laplace(500, d).double()
        weights = torch.rand(500, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        centroids = lloyd.seeded(points, weights, 12, seed=3)
        centroids[:2] = 50.0  # far from every point: without points of their own
        before = lloyd.distortion(points, weights, centroids)
        for _ in range(15):
            centroids = lloyd.lloyd_step(points, weights, centroids)
            after = lloyd.distortion(points, weights, centroids)
            assert after <= before * (1 + 1e-12)
            before = after

    def test_assignment_is_the_nearest_by_search(self):
        points, centroids = normal(60, 3).double(), normal(7, 3, seed=1).double()
        weights = normal(60, 3, seed=2).double().abs()
        found = lloyd.assign(points, weights, centroids)
        every = (weights[:, None] * (points[:, None] - centroids).square()).sum(2)
        assert torch.equal(found, every.argmin(1))
        flat = lloyd.assign(points[:, :1], weights[:, :1], centroids[:, :1])
        assert torch.equal(flat, (points[:, :1] - centroids[:, 0]).abs().argmin(1))

    def test_a_level_gets_the_gradients_of_its_weights(self):
        reparam = KMeans(2).quantized(Plain(normal(200)))
        reparam().backward(normal(200, seed=1))
        symbols = torch.from_numpy(reparam.stored().symbols).long()
        wanted = torch.zeros(4).index_add_(0, symbols, normal(200, seed=1)) * (4 / 200) ** 0.5
        torch.testing.assert_close(reparam.levels.grad, wanted)

    def test_a_scale_per_channel_helps_where_channels_differ(self):
        values = laplace(16, 300) * torch.logspace(-1, 1, 16)[:, None]
        scaled = KMeans(3, granularity=PerChannel())
        assert error(scaled, values) < 0.7 * error(KMeans(3), values)
        assert error(scaled, values) < uniform_error(values, 3, PerChannel())

    def test_few_distinct_values_are_kept_as_they_are(self):
        values = torch.tensor([0.5, -1.25, 0.0, 3.0]).repeat(9)
        assert torch.equal(rounded(KMeans(2), values), values)


class TestLevels:
    def test_nearest_is_nearest_and_parts_ties_evenly(self):
        levels, values = normal(9).sort().values, normal(500, seed=1)
        assert torch.equal(nearest(values, levels), (values[:, None] - levels).abs().argmin(1))
        whole = torch.arange(-8.0, 9.0)
        halves = torch.arange(-7.5, 8.0)
        assert torch.equal(whole[nearest(halves, whole)], halves.round())

    def test_logarithmic_levels_are_powers_of_two_and_zero(self):
        found = rounded(Logarithmic(4), laplace(30, 40))
        exponents = found[found != 0].abs().log2()
        assert torch.equal(exponents, exponents.round())
        for row in found:
            powers = row[row != 0].abs().log2()
            assert powers.max() - powers.min() <= 6  # seven powers
        assert rounded(Logarithmic(2), torch.tensor([1.4, 1.6, 0.4])).tolist() == [2.0, 2.0, 0.0]
        assert rounded(Logarithmic(3), torch.tensor([1.49, 1.0, 0.7])).tolist() == [1.0, 1.0, 0.5]

    def test_additive_levels_are_those_of_the_paper(self):
        """3 bits of magnitude: {0, 1/2, 1/4, 1/16} + {0, 1/8}; 4 bits: {0, 2^-1, 2^-3, 2^-5} +
        {0, 2^-2, 2^-4, 2^-6}; all sums differ."""
        eighths = sorted(a + b for a, b in product((0, 8, 4, 1), (0, 2)))
        assert (additive_levels(4, 2) * 16).tolist() == eighths
        sixty = sorted(a + b for a, b in product((0, 32, 8, 2), (0, 16, 4, 1)))
        assert (additive_levels(5, 2) * 64).tolist() == sixty
        for bits, k in product(range(2, 9), (1, 2, 3)):
            assert len(additive_levels(bits, k)) == 2 ** (bits - 1)
        assert torch.equal(additive_levels(4, 1) * 8, torch.arange(8.0))  # terms of one bit: uniform

    def test_additive_levels_beat_plain_powers(self):
        values = laplace(40, 100)
        for bits in (4, 5, 6):
            assert error(AdditivePowersOfTwo(bits), values) < 0.7 * error(Logarithmic(bits), values)

    @pytest.mark.parametrize("bits", range(2, 9))
    def test_normal_levels_are_quantiles_with_an_exact_zero(self, bits):
        levels, half = normal_levels(bits).double(), 2 ** (bits - 1)
        assert len(levels) == 2**bits
        assert levels[0] == -1
        assert levels[-1] == 1
        assert levels[half - 1] == 0
        share = torch.distributions.Normal(0.0, 1.0).cdf(levels * _outermost(bits))
        for side, n in ((share[: half - 1 + 1], half - 1), (share[half - 1 :], half)):
            steps = side.diff()
            assert len(steps) == n
            torch.testing.assert_close(steps, steps.mean().expand(n), rtol=0.02, atol=3e-4)

    def test_normal_levels_of_four_bits_are_nf4(self):
        wanted = [-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0]
        wanted += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1]
        torch.testing.assert_close(normal_levels(4), torch.tensor(wanted), rtol=0, atol=3e-4)

    def test_search_is_no_worse_than_the_largest_value(self):
        values = laplace(16, 200)
        for plain, searched in (
            (NormalFloat(3, 0), NormalFloat(3, 0, search=True)),
            (Float(2, 1), Float(2, 1, search=True)),
        ):
            assert error(searched, values) < error(plain, values)

    def test_a_learned_scale_gets_the_gradient_of_learned_steps(self):
        values = normal(1, 50)
        reparam = NormalFloat(3, 0, learn_scale=True).quantized(Plain(values))
        reparam().sum().backward()
        scale = float(reparam.scale.detach())
        wanted = (reparam().detach() - values).sum() / scale / math.sqrt(50)
        assert float(reparam.scale.grad) == pytest.approx(float(wanted), rel=1e-4)


def _outermost(bits):
    n = 2 ** (bits - 1)
    share = 1 - (1 / (4 * n) + 1 / (4 * n - 2)) / 2
    return torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(share, dtype=torch.float64))


class TestFloats:
    @pytest.mark.parametrize(
        ("grid", "dtype"),
        [
            (Float(4, 3, granularity=None), torch.float8_e4m3fn),
            (Float(5, 2, granularity=None), torch.float8_e5m2),
        ],
        ids=str,
    )
    def test_eight_bits_are_those_of_torch(self, grid, dtype):
        codes = torch.arange(256, dtype=torch.uint8).view(dtype).float()
        numbers = codes[codes.isfinite()].unique()
        assert torch.equal(grid.levels(), numbers)
        middles = (numbers[1:] + numbers[:-1]) / 2
        spread = torch.exp2(torch.linspace(-18, 8, 4000)) * normal(4000).sign()
        top = float(numbers[-1])
        values = torch.cat([numbers, middles, spread, middles * (1 + 1e-6), middles * (1 - 1e-6)])
        values = values[values.abs() <= top]
        assert torch.equal(rounded(grid, values), values.to(dtype).float())
        assert float(rounded(grid, torch.tensor([1e9, -1e9])).abs().min()) == top

    def test_levels_of_the_block_formats(self):
        """OCP Microscaling Formats 1.0, table 1: largest 6, 7.5, 28."""
        assert Float(2, 1).levels().tolist()[7:] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
        assert [float(Float(*form).levels()[-1]) for form in ((2, 3), (3, 2), (4, 3))] == [7.5, 28.0, 448.0]
        for exponent, mantissa in product(range(1, 5), range(4)):
            lost = 1 if (exponent, mantissa) == (4, 3) else 0
            assert len(Float(exponent, mantissa).levels()) == 2 ** (exponent + mantissa + 1) - 1 - 2 * lost

    @pytest.mark.parametrize("bits", MX)
    def test_blocks_share_the_power_of_two_of_the_standard(self, bits):
        values = laplace(4, 96)
        grid = Microscaling(MX[bits]).quantized(Plain(values)).stored().grid
        top = float(MX[bits].levels()[-1])
        largest = values.reshape(4, 3, 32).abs().amax(2)
        wanted = torch.exp2(torch.floor(torch.log2(largest)) - math.floor(math.log2(top)))
        assert np.array_equal(grid.scale, wanted.numpy())

    def test_four_bit_blocks_beat_one_scale(self):
        values = laplace(16, 640) * torch.logspace(-1, 1, 640)
        assert error(Microscaling(MX[4]), values) < 0.5 * error(Float(2, 1), values)


class TestCodes:
    @pytest.mark.parametrize("bits", [2, 3, 4])
    @pytest.mark.parametrize("draw", [normal, laplace], ids=["normal", "laplace"])
    def test_alternating_beats_refined_beats_greedy(self, draw, bits):
        values = draw(24, 150)
        greedy, refined, alternating = (
            error(BinaryCodes(bits, method), values) for method in ("greedy", "refined", "alternating")
        )
        assert alternating <= refined * (1 + 1e-3)
        assert refined <= greedy * (1 + 1e-3)

    def test_one_bit_is_the_binary_grid(self):
        values = normal(6, 50)
        assert torch.equal(rounded(BinaryCodes(1), values), rounded(Binary(), values))

    def test_two_codes_hold_what_four_levels_hold(self):
        """Symmetric levels a + b, a - b: no worse than the uniform grid of as many levels."""
        values = normal(8, 400)
        assert error(BinaryCodes(2), values) < uniform_error(values, 2, PerChannel())

    def test_codes_are_the_nearest_by_search(self):
        alphas, rows = normal(3, 4).abs(), normal(3, 20, seed=1)
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=4)))
        table = sums(alphas, signs)
        found = table.gather(1, nearest_codes(rows, table))
        every = (rows[:, :, None] - table[:, None]).abs().amin(2)
        torch.testing.assert_close((rows - found).abs(), every)

    def test_least_squares_leave_a_residual_at_right_angles(self):
        rows, codes = normal(5, 40).double(), normal(5, 40, 3, seed=1).double().sign()
        alphas = least_squares(rows, codes)
        left = rows - (codes @ alphas[:, :, None])[:, :, 0]
        assert float((codes.transpose(1, 2) @ left[:, :, None]).abs().max()) < 1e-10

    def test_magnitudes_get_the_gradients_of_their_signs(self):
        reparam = BinaryCodes(2).quantized(Plain(normal(3, 40)))
        upstream = normal(3, 40, seed=1)
        reparam().backward(upstream)
        symbols = torch.from_numpy(reparam.stored().symbols)
        signs = torch.stack([(symbols >> i & 1) * 2.0 - 1 for i in range(2)], 2)
        wanted = (upstream[:, :, None] * signs).sum(1) / math.sqrt(40)
        torch.testing.assert_close(reparam.alphas.grad, wanted)


class TestBinaryAndTernary:
    def test_the_mean_magnitude_is_the_best_in_least_squares(self):
        values = laplace(5, 300)
        found = rounded(Binary(), values).abs()[:, 0].double()
        for row, alpha in zip(values.double(), found, strict=True):

            def loss(a, row=row):
                return float((row - a * row.sign()).square().sum())

            assert loss(alpha) <= min(loss(alpha * 0.99), loss(alpha * 1.01))

    def test_the_loss_aware_magnitude_is_the_best_for_the_curvature(self):
        values, curvature = laplace(5, 300), normal(5, 300, seed=3).square()
        found = rounded(LossAwareBinary(), values, curvature).abs()[:, 0].double()
        rows = zip(values.double(), curvature.double(), found, strict=True)
        for row, d, alpha in rows:

            def loss(a, row=row, d=d):
                return float((d * (row - a * row.sign()).square()).sum())

            assert loss(alpha) <= min(loss(alpha * 0.99), loss(alpha * 1.01))

    def test_the_binary_gradient_is_clipped_and_comes_through_the_mean(self):
        values = torch.tensor([[0.5, -2.0, 0.25, -0.25]])
        reparam = Binary().quantized(Plain(values))
        upstream = torch.tensor([[1.0, 2.0, 0.0, -1.0]])
        reparam().backward(upstream)
        mean, signs = 0.75, values.sign()
        wanted = upstream * mean * (values.abs() <= 1) + (upstream * signs).sum() / 4 * signs
        torch.testing.assert_close(reparam.source.weight.grad, wanted)

    def test_unit_signs_have_the_gradient_of_binary_connect(self):
        reparam = Binary("one").quantized(Plain(torch.tensor([0.5, -2.0, 1.0])))
        assert reparam().tolist() == [1.0, -1.0, 1.0]
        reparam().sum().backward()
        assert reparam.source.weight.grad.tolist() == [1.0, 0.0, 1.0]

    def test_ternary_comes_near_the_best_threshold(self):
        """Li et al. 2016: within a few percent of the best of all thresholds, for normal weights."""
        values = normal(1, 20000)
        shares = [error(Ternary(share), values) for share in np.linspace(0.1, 1.6, 31)]
        assert error(Ternary(), values) <= 1.05 * min(shares)
        assert error(Ternary(), values) < error(Binary(), values)

    def test_trained_ternary_starts_at_the_means_of_its_sides(self):
        values = torch.tensor([2.0, 1.0, 0.05, -0.05, -0.5, -0.25])
        found = rounded(TrainedTernary(0.05), values)
        assert found.tolist() == [1.5, 1.5, 0.0, 0.0, -0.375, -0.375]

    def test_trained_ternary_has_the_gradients_of_its_paper(self):
        reparam = TrainedTernary(0.05).quantized(Plain(torch.tensor([2.0, 1.0, 0.05, -0.5])))
        reparam().backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        assert reparam.source.weight.grad.tolist() == [1.5, 3.0, 3.0, 2.0]
        factor = (2 / 4) ** 0.5
        assert float(reparam.up.grad) == pytest.approx(3.0 * factor)
        assert float(reparam.down.grad) == pytest.approx(-4.0 * factor)


class TestVectors:
    def test_error_falls_with_stages(self):
        values = laplace(40, 72)
        errors = [error(ResidualQuantization(4, 4, stages), values) for stages in (1, 2, 3, 4)]
        assert all(later < 0.8 * earlier for earlier, later in pairwise(errors))

    def test_one_stage_is_product_quantization(self):
        values = laplace(20, 36)
        one, plain = ResidualQuantization(4, 4, 1), ProductQuantization(4, 4)
        assert torch.equal(rounded(one, values), rounded(plain, values))

    def test_blocks_of_one_are_k_means(self):
        values = laplace(40, 50)
        scalar, block = error(KMeans(3, 60), values), error(ProductQuantization(1, 3, 60), values)
        assert block == pytest.approx(scalar, rel=0.02)

    def test_longer_blocks_are_better_at_the_same_rate(self):
        """The space-filling and shape gain of vectors, here at 1 bit per value, 20,000 values."""
        values = laplace(50, 400)
        errors = [error(ProductQuantization(d, d), values) for d in (1, 2, 4, 8)]
        assert all(later < earlier for earlier, later in pairwise(errors))

    def test_blocks_are_neighbours_in_the_flattened_tensor(self):
        kernels = normal(5, 9)[torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0))]
        kernels = kernels.bfloat16().float().reshape(4, 6, 3, 3)
        assert torch.equal(rounded(ProductQuantization(9, 3), kernels), kernels)

    def test_choice_is_nearly_that_of_a_full_search(self):
        values = laplace(30, 16)
        reparam = ResidualQuantization(4, 3, 2).quantized(Plain(values))
        books = reparam.codebooks.detach()
        every = (books[0][:, None] + books[1][None]).reshape(-1, 4)
        best = (values.reshape(-1, 1, 4) - every).square().sum(2).amin(1)
        found = (values - reparam().detach()).reshape(-1, 4).square().sum(1)
        torch.testing.assert_close(found, best)

    def test_a_zero_importance_does_not_matter(self):
        values, importance = laplace(20, 8), torch.tensor([1.0, 0.0] * 4)
        found = rounded(ProductQuantization(2, 4), values, importance)
        wild = values.clone()
        wild[:, 1::2] = normal(20, 4, seed=9) * 100
        again = rounded(ProductQuantization(2, 4), wild, importance)
        assert float((again - values)[:, ::2].square().sum()) < 0.1 * float(values[:, ::2].square().sum())
        assert float((found - values)[:, ::2].square().sum()) < 0.1 * float(values[:, ::2].square().sum())
