"""Laws of uniform quantization and of folding."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import (
    Format,
    PerChannel,
    PerGroup,
    PerTensor,
    bfloat16_through,
    scale_and_zero,
    symbols,
    values_of,
)
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.compress.quantize.rated import RateQuantized, TrellisQuantized
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import Plain
from plisse.core.stored import spread, to_bfloat16
from plisse.train.task import classification

GRANULARITIES = [PerTensor(), PerChannel(), PerGroup(5)]
FORMS = [Format(2), Format(3, symmetric=False), Format(4), Format(8, symmetric=False)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fake(values, form=Format(4), granularity=PerTensor(), found=MinMax(), **options):
    return FakeQuantized(Plain(values), form, granularity, found, **options)


def rounding_error(reparam, values):
    return float((reparam() - values).detach().double().square().sum())


def squared_error(values, *args):
    return rounding_error(fake(values, *args), values)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_bit_is_worth_six_decibels(symmetric):
    """Exactly: 20 log10 of the ratio of steps, which tends to 6.02 (symmetric grids spare one symbol)."""
    values = torch.rand(100000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    forms = [Format(bits, symmetric) for bits in (4, 5, 6, 7, 8)]
    errors = [squared_error(values, form) for form in forms]
    for i in range(4):
        gain = 10 * math.log10(errors[i] / errors[i + 1])
        assert abs(gain - 20 * math.log10(forms[i + 1].high / forms[i].high)) < 0.15
    assert abs(gain - 6.02) < 0.15


def test_half_the_step_is_worth_six_decibels():
    values = normal(100000)
    errors = [rounding_error(RateQuantized(Plain(values), step), values) for step in (0.25, 0.125)]
    assert abs(10 * math.log10(errors[0] / errors[1]) - 6.02) < 0.1


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_quantizing_twice_changes_nothing(form, granularity):
    once = fake(normal(6, 12), form, granularity)
    again = copy.deepcopy(once)
    with torch.no_grad():
        again.source.weight.copy_(once())
    assert torch.equal(again(), once())


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_error_is_at_most_half_a_step_inside_the_range(form, granularity):
    for seed in range(10):
        values = normal(6, 12, seed=seed) + 0.3
        reparam = fake(values, form, granularity)
        scale = torch.from_numpy(spread(reparam.stored().grid.scale, (6, 12), granularity.group).copy())
        error = (reparam() - values).detach().abs() / scale
        assert float(error.max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_finer_granularity_does_not_hurt(form):
    values = normal(8, 40) * torch.logspace(-1, 1, 8)[:, None]
    errors = [squared_error(values, form, granularity) for granularity in GRANULARITIES]
    assert errors[2] <= errors[1] * 1.02
    assert errors[1] < errors[0]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_searched_range_is_no_worse_than_the_whole(form, granularity):
    values = normal(6, 50) ** 3
    assert squared_error(values, form, granularity, MSE()) <= squared_error(values, form, granularity) * (
        1 + 1e-6
    )


def test_searched_range_is_near_the_best_of_a_fine_scan():
    values, form = normal(1, 5000), Format(3)
    _, high = MinMax().range(values, form)
    shares = torch.linspace(0.05, 1, 100)
    errors = []
    for share in shares:
        scale, zero = scale_and_zero(-high * share, high * share, form)
        errors.append(
            float((values_of(symbols(values, scale, zero, form), scale, zero) - values).square().sum())
        )
    assert squared_error(values, form, PerTensor(), MSE()) <= min(errors) * 1.01


def test_gradient_is_one_inside_and_zero_where_clipped():
    values = torch.tensor([-9.0, -7.0, -0.4, 0.0, 3.3, 7.0, 8.0])
    reparam = fake(values[1:6])  # range -7 to 7: scale 1
    reparam.source = Plain(values)
    reparam().sum().backward()
    assert reparam.source.weight.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_learned_step_has_the_papers_gradient():
    values = torch.tensor([-9.0, -0.4, 2.7, 8.0])
    reparam = fake(torch.tensor([7.0, 0.0, 0.0, 0.0]), learn_step=True)
    reparam.source = Plain(values)
    reparam().sum().backward()
    expected = (-7) + (0 + 0.4) + (3 - 2.7) + 7
    assert float(reparam.scale.grad) == pytest.approx(expected / math.sqrt(4 * 7), rel=1e-5)


def test_scales_are_the_bfloat16_numbers_of_the_file():
    values = torch.cat([normal(1000).abs() * 10.0**power for power in range(-45, 30, 5)] + [torch.zeros(1)])
    assert torch.equal(bfloat16_through(values), torch.from_numpy(to_bfloat16(values.numpy())))


def test_dead_zone_makes_zeros():
    values = normal(5000)
    shares = [
        float((RateQuantized(Plain(values), 0.5, dead_zone=zone)() == 0).float().mean())
        for zone in (0.0, 0.1, 0.2, 0.3)
    ]
    assert shares == sorted(shares)
    assert shares[3] > shares[0] + 0.05


def entropy(symbols_found):
    counts = torch.from_numpy(symbols_found).flatten().unique(return_counts=True)[1].double()
    shares = counts / counts.sum()
    return float(-(shares * shares.log2()).sum())


def test_rate_weight_buys_bits():
    values = normal(8000)
    plain, rated = (RateQuantized(Plain(values), 0.5, "rate", rate_weight=w) for w in (0.0, 0.2))
    assert entropy(rated.stored().symbols) < entropy(plain.stored().symbols) - 0.05


def test_trellis_beats_the_scalar_grid_of_the_same_rate():
    values = normal(20000)
    scalar, trellis = RateQuantized(Plain(values), 0.25), TrellisQuantized(Plain(values), 0.125, 0.0)
    errors = [rounding_error(reparam, values) for reparam in (scalar, trellis)]
    assert entropy(trellis.stored().symbols) < entropy(scalar.stored().symbols) + 0.05
    assert 10 * math.log10(errors[0] / errors[1]) > 0.8


class Network(nn.Module):
    """A batch norm after each kind of layer, and two that cannot be folded: one follows a sum, the other a
    layer that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, groups=3, padding=1), nn.BatchNorm2d(6, affine=False)
        self.third, self.norm3 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.norm4 = nn.BatchNorm2d(6)
        self.head, self.norm5 = nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, images):
        x = torch.relu(self.norm1(self.first(images)))  # [N, 6, H, W]
        x = torch.relu(self.norm2(self.second(x)) + x)
        y = self.third(x)
        x = self.norm4(torch.relu(self.norm3(y)) + y)
        return self.norm5(self.head(x.mean((2, 3))))  # [N, 4]


def trained_network(seed=0):
    torch.manual_seed(seed)
    network = Network()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    batches = BatchList((Batch(torch.randn(8, 3, 6, 6), torch.arange(8) % 4),))
    return network.eval(), classification("made", batches[0].inputs, batches, batches, batches)


@pytest.mark.parametrize("step", [FoldBatchNorm(), AbsorbStatistics()], ids=str)
def test_folding_leaves_the_outputs_and_the_given_network(step):
    network, task = trained_network()
    before = copy.deepcopy(network.state_dict())
    wanted = network(task.example).detach()
    found = step(network, task)(task.example).detach()
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= 1e-5
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_folding_removes_what_it_can_and_only_that():
    network, task = trained_network()
    folded = FoldBatchNorm()(network, task)
    gone = [name for name, module in folded.named_modules() if isinstance(module, nn.Identity)]
    assert gone == ["norm1", "norm2", "norm5"]
    assert folded.first.bias is not None


def test_a_layer_that_is_called_twice_is_not_folded():
    torch.manual_seed(0)
    layer, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    task = replace(trained_network()[1], example=torch.ones(2, 4))
    folded = FoldBatchNorm()(nn.Sequential(layer, norm, layer).eval(), task)
    assert isinstance(folded[1], nn.BatchNorm1d)


def test_absorbed_statistics_are_constant():
    network, task = trained_network()
    absorbed = AbsorbStatistics()(network, task)
    for module in absorbed.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert not bool(module.running_mean.any())
            assert module.running_var.unique().numel() == 1
            assert bool(((module.running_var + module.eps).sqrt() == 1.0).all())
            assert int(module.num_batches_tracked) == 0
            assert module.weight is not None
