"""Laws of the reduced parameter space: the same function, one form for all rescalings, bounds that hold."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plisse.compress.equalize import scale_pair
from plisse.compress.prune.prune import Prune
from plisse.compress.sphere.canonicalize import Canonicalize, canonical
from plisse.compress.sphere.domain import Box, CalibrationBox, Unbounded, in_double, input_intervals
from plisse.compress.sphere.shared import unit_rows
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import baked
from plisse.train.task import Task, classification

ACTIVATIONS = [nn.ReLU, lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(-0.3), nn.Identity]
PADDINGS = [(0, "zeros"), (1, "zeros"), (1, "reflect"), ("same", "zeros")]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


class Step(nn.Module):
    """Binary activation, in one of its spellings."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if self.kind == 0:
            return (x > 0).to(x.dtype)
        if self.kind == 1:
            return torch.sign(x)
        return torch.heaviside(x, torch.zeros((), dtype=x.dtype))


def task_of(inputs: torch.Tensor) -> Task:
    batches = BatchList((Batch(inputs),))
    return classification("made", inputs[:16], batches, batches, batches)


def spoiled(network: nn.Module, spread: float) -> nn.Module:
    """Rows of very different scales, wide thresholds, neurons without weights, and some that nobody hears."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.weight.mul_(
                    torch.exp(spread * torch.randn(len(layer.weight), *[1] * (layer.weight.dim() - 1)))
                )
                if layer.bias is not None:
                    layer.bias.copy_(1.5 * torch.randn(len(layer.bias)) * layer.weight.flatten(1).norm(dim=1))
                layer.weight[torch.rand(len(layer.weight)) < 0.1] = 0
                layer.weight[:, torch.rand(layer.weight.shape[1]) < 0.05] = 0
    return network.eval()


def mlp(seed: int, make, widths, dtype, bias=True) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), make()]
    return spoiled(nn.Sequential(*layers[:-1]), 1.0).to(dtype)


def cnn(seed: int, make, padding, pool, dtype) -> nn.Module:
    torch.manual_seed(seed)
    size, where = padding
    network = nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=size, padding_mode=where), nn.BatchNorm2d(8), make(), pool),
        *(nn.Conv2d(8, 6, 3, padding=size, padding_mode=where, bias=False), make()),
        *(nn.Conv2d(6, 5, 3, padding=1), make(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3)),
    )
    network[1].running_mean.normal_()
    network[1].running_var.uniform_(0.5, 2)
    nn.init.normal_(network[1].weight)
    return spoiled(network, 0.7).to(dtype)


def magnitudes(network: nn.Module) -> torch.Tensor:
    return torch.cat([layer.weight.detach().abs().flatten() for layer in network if hasattr(layer, "weight")])


def apart(network: nn.Module, result: nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad():
        wanted, found = network(inputs), result(inputs)
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    make=st.sampled_from(ACTIVATIONS),
    widths=st.lists(st.integers(1, 24), min_size=3, max_size=5),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    bias=st.booleans(),
)
def test_an_mlp_computes_the_same_within_the_box(seed, make, widths, dtype, bias):
    network = mlp(seed, make, widths, dtype, bias)
    inputs = torch.rand(512, widths[0], dtype=dtype) * 3 - 1
    inputs[:4] = torch.tensor([-1.0, 2.0], dtype=dtype)[torch.randint(2, (4, widths[0]))]
    result, changes, _, _ = canonical(network, task_of(inputs), Box(-1.0, 2.0))
    assert apart(network, result, inputs) <= TOLERANCE[dtype]
    assert all(
        change.neurons - change.removed == len(result.get_submodule(change.first).weight)
        for change in changes
    )
    assert all(unit_rows(result.get_submodule(change.first).weight) for change in changes)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    make=st.sampled_from(ACTIVATIONS[:3]),
    padding=st.sampled_from(PADDINGS),
    pool=st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2), nn.Identity()]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_a_cnn_computes_the_same_within_the_box(seed, make, padding, pool, dtype):
    network = cnn(seed, make, padding, pool, dtype)
    inputs = torch.rand(24, 2, 12, 12, dtype=dtype)
    inputs[0], inputs[1] = 0, 1
    result, changes, _, _ = canonical(network, task_of(inputs), Box(0.0, 1.0))
    assert apart(network, result, inputs) <= TOLERANCE[dtype]
    assert len(changes) == 3
    assert all(unit_rows(result.get_submodule(change.first).weight) for change in changes)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_binary_networks_give_equal_bits(kind):
    """Hidden values are 0 or 1 (-1 or 1), so that nothing but the last sum could differ; with weights and
    thresholds on a coarse dyadic grid that is exact too."""
    torch.manual_seed(kind)
    network = nn.Sequential(
        nn.Linear(3, 60), Step(kind), nn.Linear(60, 40), Step(kind), nn.Linear(40, 2)
    ).double()
    with torch.no_grad():
        network[0].weight[:6] = 0
        network[0].bias[6:20] *= 9
        network[2].bias[:8] *= 200
        for value in network[4].parameters():
            value.copy_(torch.round(value * 64) / 64)
    inputs = torch.rand(4096, 3).double() * 2 - 1
    result, changes, _, _ = canonical(network, task_of(inputs), Box(-1.0, 1.0))
    with torch.no_grad():
        assert torch.equal(result(inputs), network(inputs))
    assert changes[0].removed >= 8
    assert changes[1].removed >= 2


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.3, 0.5, 0.9]))
def test_one_form_and_one_pruning_order_for_all_rescalings(seed, share):
    network = mlp(seed, nn.ReLU, [4, 16, 12, 8, 3], torch.float64)
    inputs = torch.rand(64, 4).double()
    task = task_of(inputs)
    scaled = copy.deepcopy(network)
    for first, second in ((0, 2), (2, 4), (4, 6)):
        scale_pair(
            scaled[first], scaled[second], torch.exp(3 * torch.randn(len(network[first].weight))).double()
        )
    forms = [Canonicalize(Box(0.0, 1.0))(model, task) for model in (network, scaled)]
    for name, value in forms[0].state_dict().items():
        torch.testing.assert_close(forms[1].state_dict()[name], value, rtol=1e-11, atol=1e-12)
    masks = [
        {name: value != 0 for name, value in baked(Prune(share)(form, task)).state_dict().items()}
        for form in forms
    ]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    plain = [baked(Prune(share)(model, task))[0].weight != 0 for model in (network, scaled)]
    assert not torch.equal(plain[0], plain[1])


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), powers=st.booleans())
def test_in_float32_the_order_differs_only_within_rounding(seed, powers):
    """Rescaling by powers of two is exact, and so is the order then. Other factors round every weight, up to
    2^-24 of it, so that of two magnitudes nearer than a few of these no form can tell which was larger."""
    network = mlp(seed, nn.ReLU, [4, 16, 12, 8, 3], torch.float32)
    task = task_of(torch.rand(64, 4))
    scaled = copy.deepcopy(network)
    for first, second in ((0, 2), (2, 4), (4, 6)):
        log = 3 * torch.randn(len(network[first].weight))
        scale_pair(scaled[first], scaled[second], 2 ** log.round() if powers else log.exp())
    one, other = (magnitudes(Canonicalize(Box(0.0, 1.0))(model, task)) for model in (network, scaled))
    assert len(one) == len(other)
    order = one.argsort(stable=True)
    if powers:
        assert torch.equal(order, other.argsort(stable=True))
    sorted_one, sorted_other = one.double()[order], other.double()[order]
    reached = torch.maximum(sorted_other.cummax(0).values - sorted_other, torch.zeros(()))
    assert bool((reached <= 2**-20 * sorted_one).all())


def test_the_form_is_its_own_form():
    network = mlp(3, nn.ReLU, [4, 20, 15, 3], torch.float64)
    task = task_of(torch.rand(64, 4).double())
    once = Canonicalize()(network, task)
    twice = Canonicalize()(once, task)
    for name, value in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], value, rtol=1e-9, atol=1e-9)


class Varied(nn.Module):
    """Operators with rules of their own between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.c = nn.Conv2d(8, 4, 3, groups=2), nn.Linear(16, 3)

    def forward(self, x):
        x = self.norm(self.a(x))
        x = torch.cat([F.gelu(x) - 2 * torch.sigmoid(x), torch.sin(x) * -0.5 + F.relu(x, inplace=True)], 1)
        x = F.silu(self.b(F.max_pool2d(x, 2))) - F.pad(x, (0, 0, 0, 0, 0, 0))[:, :4, ::3, ::3][:, :, :2, :2]
        return self.c((x / 3).permute(0, 2, 3, 1).reshape(len(x), -1).softmax(1) - 0.1)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_every_value(seed):
    torch.manual_seed(seed)
    network = Varied().eval()
    network.norm.running_mean.normal_()
    nn.init.normal_(network.norm.weight)
    network = network.double()
    inputs = (torch.rand(128, 2, 8, 8) * 2 - 1).double()
    found = input_intervals(network, Box(-1.0, 1.0), task_of(inputs))
    seen: dict[str, torch.Tensor] = {}
    for name in ("a", "b", "c"):
        network.get_submodule(name).register_forward_hook(
            lambda _, x, __, name=name: seen.__setitem__(name, x[0].detach())
        )
    network(inputs)
    for name, (low, high) in found.items():
        assert bool((seen[name] >= low[:1] - 1e-9).all() and (seen[name] <= high[:1] + 1e-9).all())
        assert bool(low.isfinite().all() and high.isfinite().all())


def test_without_bounds_only_scales_and_what_is_never_heard_change():
    network = mlp(1, nn.ReLU, [4, 20, 15, 3], torch.float64)
    inputs = 1e3 * torch.randn(512, 4).double()
    result = Canonicalize(Unbounded())(network, task_of(inputs))
    assert apart(network, result, inputs) <= 1e-12
    assert len(result[0].weight) < 20


def test_a_wider_box_removes_less():
    network = mlp(5, nn.ReLU, [3, 64, 10, 2], torch.float64)
    task = task_of(torch.zeros(4, 3).double())
    removed = [canonical(network, task, Box(-r, r))[1][0].removed for r in (0.1, 1.0, 10.0)]
    assert removed[0] > removed[1] > removed[2]


def test_doubles_keep_integers():
    value = in_double({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int64)})
    assert [value[key].dtype for key in "ab"] == [torch.float64, torch.int64]


def test_the_box_of_calibration_inputs_is_exact_inside_it():
    network = mlp(2, nn.ReLU, [3, 30, 10, 2], torch.float64)
    seen = torch.rand(32, 3).double()
    low, high = seen.amin(0), seen.amax(0)
    result = Canonicalize(CalibrationBox())(network, task_of(seen))
    assert apart(network, result, low + (high - low) * torch.rand(2048, 3).double()) <= 1e-12
