"""The contract of every grid that is not uniform: add yours to GRIDS and run this file."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from plisse.bitstream.tensors import decode_tensor, encode_tensor
from plisse.compress.quantize.codebooks.binary import Binary, LossAwareBinary
from plisse.compress.quantize.codebooks.codes import BinaryCodes
from plisse.compress.quantize.codebooks.floats import MX, Float, Microscaling
from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.codebooks.levels import AdditivePowersOfTwo, Logarithmic, Lookup, NormalFloat
from plisse.compress.quantize.codebooks.lossaware import LossAwareTernary
from plisse.compress.quantize.codebooks.ternary import Ternary, TrainedTernary
from plisse.compress.quantize.codebooks.vectors import ProductQuantization, ResidualQuantization
from plisse.compress.quantize.grids import PerBlock, PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.core.batch import BatchList
from plisse.core.reparam import Plain, plain, reparametrize
from plisse.core.stored import Codes, Levels, Stored, Vectors
from plisse.errors import InputError, WeightsError
from plisse.train.task import classification

TABLES = [
    *(Logarithmic(2), Logarithmic(4, PerGroup(5)), Logarithmic(8)),
    *(AdditivePowersOfTwo(2), AdditivePowersOfTwo(4), AdditivePowersOfTwo(6, 3, PerTensor(), True)),
    *(NormalFloat(4, 16), NormalFloat(3, 0, search=True), NormalFloat(2, 7, learn_scale=True)),
    *(Float(4, 3), Float(5, 2, granularity=None), Float(2, 1, PerBlock(2, 4)), Float(3, 0, search=True)),
    *(Lookup(), Lookup((-0.2, 0.0, 0.1), None), Lookup(granularity=PerGroup(16), search=False)),
    *(Microscaling(), Microscaling(MX[6], 7), Microscaling(MX[8], 16), Microscaling(Float(5, 2), 4)),
    *(KMeans(2), KMeans(4), KMeans(5, iterations=0)),
]
SCALED = [KMeans(3, granularity=PerChannel()), KMeans(4, granularity=PerGroup(16))]
BINARY = [Binary(), Binary("one"), Binary("learned"), LossAwareBinary()]
TERNARY = [LossAwareTernary(), Ternary(), Ternary(granularity=PerGroup(5)), TrainedTernary()]
CODES = [BinaryCodes(1), BinaryCodes(2, "greedy"), BinaryCodes(3, "refined"), BinaryCodes(4)]
VECTORS = [
    *(ProductQuantization(1, 3), ProductQuantization(4, 4), ProductQuantization(9, 6)),
    *(ResidualQuantization(4, 3, 2), ResidualQuantization(5, 2, 3)),
]
GRIDS = [*TABLES, *SCALED, *BINARY, *TERNARY, *CODES, *VECTORS]
EXACT_ZERO = [*TABLES[:-3], KMeans(4), *SCALED, *TERNARY]
REPEATS = [*TABLES, *BINARY, *TERNARY, BinaryCodes(1), *VECTORS[:3]]  # fitted anew to its own output
SHAPES = [(6, 5), (4, 3, 3, 3), (7,), (1, 70), ()]
FAMILIES = {
    "logarithmic": [Logarithmic(b) for b in (2, 3, 4, 5, 8)],
    "additive": [AdditivePowersOfTwo(b) for b in range(2, 9)],
    "normal": [NormalFloat(b, 16) for b in range(2, 9)],
    "normal, searched": [NormalFloat(b, 0, search=True) for b in range(2, 9)],
    "mantissa": [Float(3, m) for m in range(6)],
    "blocks": [Microscaling(Float(2, m), 8) for m in range(6)],
    "k-means": [KMeans(b) for b in range(2, 8)],
    "k-means, scaled": [KMeans(b, granularity=PerChannel()) for b in range(2, 8)],
    "greedy codes": [BinaryCodes(b, "greedy") for b in range(1, 6)],
    "codes": [BinaryCodes(b) for b in range(1, 6)],
    "products": [ProductQuantization(4, b) for b in range(2, 8)],
    "residuals": [ResidualQuantization(4, b, 2) for b in range(1, 6)],
}


def some_values(shape=(6, 40), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def squared_error(grid, values):
    return float((grid.quantized(Plain(values))() - values).detach().double().square().sum())


def same(stored: Stored, values: torch.Tensor) -> bool:
    return torch.equal(torch.as_tensor(np.array(stored.values())), values.detach())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
class TestContract:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_stored_values_equal_forward_bit_for_bit_and_survive_the_file(self, grid, shape):
        reparam = grid.quantized(Plain(some_values(shape)))
        stored = reparam.stored()
        assert stored.shape == shape
        assert reparam().dtype == torch.float32
        assert same(stored, reparam())
        assert same(decode_tensor(encode_tensor(stored)), reparam())

    @pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
    def test_rounding_its_own_output_changes_nothing(self, grid, shape):
        once = grid.quantized(Plain(some_values(shape)))
        again = copy.deepcopy(once)
        with torch.no_grad():
            again.source.weight.copy_(once())
        assert torch.equal(again(), once())

    @pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
    def test_copies_are_independent(self, grid, shape):
        once = grid.quantized(Plain(some_values(shape)))
        first, other = once().detach().clone(), copy.deepcopy(once)
        assert torch.equal(other(), first)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(-1.7)
        assert not torch.equal(other(), first)
        assert same(other.stored(), other())
        assert torch.equal(once(), first)

    def test_is_differentiable(self, grid):
        reparam = grid.quantized(Plain(some_values()))
        (reparam() * some_values(seed=1)).sum().backward()
        gradients = [p.grad for p in reparam.parameters() if p.requires_grad]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert all(bool(gradient.any()) for gradient in gradients)

    def test_stays_exact_while_it_is_trained(self, grid):
        reparam, wanted = grid.quantized(Plain(some_values())), some_values(seed=1)
        optimizer = torch.optim.SGD([p for p in reparam.parameters() if p.requires_grad], lr=0.05)
        before = float((reparam() - wanted).detach().square().sum())
        for _ in range(12):
            optimizer.zero_grad()
            (reparam() - wanted).square().sum().backward()
            optimizer.step()
        assert same(reparam.stored(), reparam())
        if grid != Binary("one"):
            assert float((reparam() - wanted).detach().square().sum()) < before

    def test_takes_no_more_than_its_bits_and_tables(self, grid):
        stored = grid.quantized(Plain(some_values((48, 144)))).stored()
        assert len(encode_tensor(stored)) <= 1.02 * theoretical_bytes(stored) + 48

    def test_refuses_nan_and_nothing(self, grid):
        broken = some_values()
        broken[2, 3] = torch.nan
        with pytest.raises(WeightsError, match="finite"):
            grid.quantized(Plain(broken))
        with pytest.raises(InputError):
            grid.quantized(Plain(torch.zeros(0, 3)))

    def test_takes_constant_and_tiny_and_large_weights(self, grid):
        for values in (
            torch.zeros(4, 6),
            torch.full((4, 6), 0.3),
            some_values() * 1e-20,
            some_values() * 1e4,
        ):
            reparam = grid.quantized(Plain(values))
            assert bool(reparam().isfinite().all())
            assert same(decode_tensor(encode_tensor(reparam.stored())), reparam())

    def test_the_order_in_memory_does_not_matter(self, grid):
        values = some_values((6, 4, 3, 3))
        other = values.contiguous(memory_format=torch.channels_last)
        found = grid.quantized(Plain(other))
        assert torch.equal(found(), grid.quantized(Plain(values))())
        assert same(found.stored(), found())

    def test_quantizes_every_layer_of_a_network(self, grid):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Embedding(9, 8), nn.Conv1d(4, 6, 3), nn.Conv2d(1, 4, 3), nn.Linear(6, 5), nn.BatchNorm1d(5)
        )
        task = classification("none", torch.zeros(1, 4), *[BatchList(())] * 3)
        found = Quantize(grid=grid, first_last_bits=8)(network, task)
        assert len(found.reparams) == 4
        assert all(same(reparam.stored(), reparam()) for reparam in found.reparams.values())
        assert isinstance(plain(found.baked()), nn.Sequential)


def theoretical_bytes(stored: Stored) -> float:
    """log2 K bits per symbol, 16 per number of a table or a scale."""
    grid = stored.grid
    if isinstance(grid, Levels):
        n, numbers = grid.levels.size, grid.levels.size + (0 if grid.scale is None else grid.scale.size)
    elif isinstance(grid, Codes):
        n, numbers = 2 ** grid.alphas.shape[-1], grid.alphas.size
    else:
        assert isinstance(grid, Vectors)
        n, numbers = grid.codebooks.shape[1], grid.codebooks.size
    return (stored.symbols.size * math.log2(n) + 16 * numbers) / 8


@pytest.mark.parametrize("grid", REPEATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_fitted_to_its_own_output_changes_nothing(grid, shape):
    once = grid.quantized(Plain(some_values(shape)))().detach()
    assert torch.equal(grid.quantized(Plain(once))(), once)


@pytest.mark.parametrize("grid", EXACT_ZERO, ids=str)
def test_pruned_weights_stay_zero(grid):
    values = some_values()
    values[values.abs() < 0.08] = 0.0
    reparam = grid.quantized(Plain(values))
    assert not bool(reparam()[values == 0].any())
    stored = reparam.stored()
    assert isinstance(stored.grid, Levels)
    assert 0.0 in stored.grid.levels


@pytest.mark.parametrize("family", FAMILIES)
def test_error_does_not_grow_with_bits(family):
    values = some_values((16, 96))
    errors = [squared_error(grid, values) for grid in FAMILIES[family]]
    assert all(later <= earlier * 1.0001 for earlier, later in pairwise(errors))
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    "grid", [KMeans(3), SCALED[0], LossAwareBinary(), LossAwareTernary(), *VECTORS[1:4:2]], ids=str
)
class TestImportance:
    def test_takes_it_per_value_or_per_input_channel(self, grid):
        values = some_values((12, 4, 3, 3))
        per_channel = torch.tensor([1.0, 2.0, 0.0, 9.0])
        spread = per_channel[None, :, None, None].expand(values.shape)
        found = grid.quantized(Plain(values), per_channel)
        assert torch.equal(found(), grid.quantized(Plain(values), spread)())
        assert not torch.equal(found(), grid.quantized(Plain(values))())
        assert torch.equal(grid.quantized(Plain(values), torch.ones(4))(), grid.quantized(Plain(values))())

    def test_refuses_what_does_not_fit(self, grid):
        for wrong in (torch.ones(5), -torch.ones(40), torch.full((6, 40), torch.nan), torch.zeros(40)):
            with pytest.raises(InputError):
                grid.quantized(Plain(some_values()), wrong)

    def test_lowers_the_weighted_error(self, grid):
        values = some_values((32, 40))
        importance = torch.rand(40, generator=torch.Generator().manual_seed(3)).pow(4) + 1e-3

        def error(reparam):
            return float((importance * (reparam() - values).detach().square()).sum())

        assert error(grid.quantized(Plain(values), importance)) < error(grid.quantized(Plain(values)))


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda: Logarithmic(1),
            lambda: Lookup(()),
            lambda: Lookup((0.0,)),
            lambda: AdditivePowersOfTwo(9),
            lambda: AdditivePowersOfTwo(4, 0),
        ),
        *(lambda: NormalFloat(1), lambda: NormalFloat(4, -3), lambda: Float(0, 3), lambda: Float(4, 8)),
        *(lambda: Microscaling(block=0), lambda: KMeans(12), lambda: KMeans(4, -1)),
        *(
            lambda: BinaryCodes(9),
            lambda: BinaryCodes(2, "best"),
            lambda: Binary("two"),
            lambda: Binary(clip=0),
        ),
        *(
            lambda: LossAwareBinary(-1.0),
            lambda: LossAwareTernary(0),
            lambda: Ternary(-0.1),
            lambda: TrainedTernary(1.0),
        ),
        *(lambda: ProductQuantization(0), lambda: ProductQuantization(4, 13)),
        *(lambda: ResidualQuantization(4, 4, 0), lambda: ResidualQuantization(4, 4, 2, -1)),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()


def test_grids_are_values():
    for grid in GRIDS:
        assert grid == replace(grid)
        assert hash(grid) == hash(copy.deepcopy(grid))


def test_a_network_on_a_grid_can_be_reparametrized_again():
    network = nn.Linear(8, 4)
    once = reparametrize(network, {"weight": KMeans(3).quantized(Plain(network.weight))})
    assert torch.equal(copy.deepcopy(once).baked().weight, once.baked().weight)
