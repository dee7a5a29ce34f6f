"""What must hold of every spectrum of networks, whatever it was trained for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from plisse.adapt.bits import Planes, bits_space, bits_subspace
from plisse.adapt.channels import ChannelPlan, Rule, Run
from plisse.adapt.elastic import Point
from plisse.adapt.reparams import Dial, Held, Line, Tabled, on_line
from plisse.adapt.sparsity import TopK, magnitude_at, measure_thresholds, sparsity_space, sparsity_subspace
from plisse.adapt.width import Sliced, width_space, width_subspace
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import Plain
from plisse.networks.small import digits_cnn

INPUTS = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(2)
    return digits_cnn().eval()


def values(n: int = 4000) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(4))


def test_width_one_is_the_network_itself():
    net = network()
    found = width_subspace(net, INPUTS, order=False).elastic().extract(Point("width", 1.0))
    for (name, value), other in zip(found.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_sparsity_zero_is_the_network_itself():
    net = network()
    found = sparsity_subspace(net).elastic().extract(Point("sparsity", 0.0))
    for value, other in zip(found.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("line", [False, True])
def test_the_share_of_zeros_is_the_sparsity(line):
    subspace = sparsity_subspace(network(), line=line)
    measure_thresholds(subspace)
    elastic = subspace.elastic()
    for point in subspace.space.points:
        weight = elastic.extract(point).conv2.weight
        assert int((weight == 0).sum()) == round(point.value * weight.numel())


def test_what_stays_at_a_high_sparsity_stays_at_every_lower_one():
    subspace = sparsity_subspace(network())
    measure_thresholds(subspace)
    elastic = subspace.elastic()
    masks = [
        elastic.extract(Point("sparsity", float(sparsity))).fc1.weight != 0
        for sparsity in np.linspace(0.975, 0.0, 40)
    ]
    for sparse, dense in pairwise(masks):
        assert bool((dense | ~sparse).all())
    assert int(masks[0].sum()) < int(masks[20].sum()) < int(masks[-1].sum())


def test_stored_thresholds_give_what_a_sort_gives():
    dial = Dial(sparsity_space((0.0, 0.3, 0.9)))
    reparam = TopK(Plain(values()), dial)
    for point in dial.space.points:
        dial.point = point
        sorted_out = values().abs().argsort(stable=True)[: round(point.value * 4000)]
        wanted = values().index_fill(0, sorted_out, 0.0)
        assert torch.equal(reparam(), wanted)
        reparam.thresholds = torch.tensor([magnitude_at(values(), p.value) for p in dial.space.points])
        assert torch.equal(reparam.eval()(), wanted)
        reparam.train()


def test_only_weights_that_stay_get_a_gradient():
    dial = Dial(sparsity_space((0.0, 0.75)))
    dial.point = Point("sparsity", 0.75)
    reparam = TopK(Plain(values()), dial)
    reparam().sum().backward()
    assert torch.equal(reparam.source.weight.grad != 0, reparam() != 0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_line_ends_in_its_endpoints(alpha):
    dial = Dial(sparsity_space((0.0, 0.8)))
    line = Line(Plain(values()), Plain(values() + 1), dial)
    dial.point = Point("sparsity", 0.8 * (1 - alpha))
    assert torch.allclose(line(), values() + alpha, atol=1e-6)
    if alpha in (0.0, 1.0):
        assert torch.equal(line(), (line.start, line.end)[int(alpha)]())


def test_a_line_without_spread_is_a_point():
    dial = Dial(sparsity_space((0.0, 0.8)))
    line = on_line(Plain(values()), dial)
    for sparsity in (0.0, 0.3, 0.8):
        dial.point = Point("sparsity", sparsity)
        assert torch.allclose(line(), values(), atol=1e-6)


def planes(top: int = 8) -> Planes:
    return Planes(Plain(values()), Dial(bits_space(tuple(range(2, top + 1)))), top)


def test_the_highest_bits_of_a_code_are_the_coarser_code():
    reparam = planes()
    step = float(reparam.scale.detach())
    for point in reparam.dial.space.points:
        reparam.dial.point = point
        cell = step * 2 ** (8 - point.value)
        directly = torch.floor(values() / cell).clamp(-(2 ** (point.value - 1)), 2 ** (point.value - 1) - 1)
        from_codes = reparam.codes() >> (8 - int(point.value))
        assert torch.equal(from_codes.float(), directly)
        assert torch.equal(reparam(), (directly + 0.5) * cell)
        assert torch.equal(reparam.settled()(), reparam())


def test_a_line_of_codes_is_exact_at_its_ends_and_within_a_cell_between():
    dial = Dial(bits_space(tuple(range(3, 9))))
    line = Planes(on_line(Plain(values()), dial, 0.3), dial, 8)
    coded, reach = line.settled(), line.step * 128
    inside = (line.source.start().abs() < reach) & (line.source.end().abs() < reach)
    assert float(inside.float().mean()) > 0.9
    for point in dial.space.points:
        dial.point = point
        ends = point in (dial.space.smallest, dial.space.largest)
        steps = (coded() - line()).detach().abs() / (line.step * 2 ** (8 - point.value))
        assert not ends or float(steps.max()) < 1e-4
        steps = steps[inside]
        assert float(steps.max()) < 1.001
        assert float((steps > 0.5).float().mean()) < 0.5 * 2 ** (point.value - 7)
        assert torch.equal(coded.settled()(), coded())


def test_each_bit_takes_six_decibels_off_the_error_inside_the_range():
    reparam = planes()
    reach = float(reparam.scale.detach()) * 128
    inside = values().abs() < reach
    errors = []
    for point in reparam.dial.space.points:
        reparam.dial.point = point
        errors.append(float((reparam().detach() - values())[inside].square().mean()))
    gains = 10 * np.log10(np.array(errors[1:-1]) / np.array(errors[2:]))
    assert np.allclose(gains, 6.02, atol=0.5)


def test_the_gradient_of_planes_passes_inside_the_range_only():
    reparam = planes()
    reparam.dial.point = Point("bits", 3.0)
    reparam().sum().backward()
    reach = float(reparam.scale.detach()) * 128
    assert torch.equal(reparam.source.weight.grad != 0, values().abs() <= reach - 1e-6)
    assert bool(reparam.scale.grad.isfinite())


def test_weights_of_integers_take_a_quarter_of_the_memory():
    batches = BatchList((Batch(INPUTS),))
    elastic = bits_subspace(network(), batches, activations=False)
    frozen = elastic.wrapped.reparams["fc1.weight"].settled()
    assert sum(t.numel() * t.element_size() for t in frozen.buffers()) == frozen().numel()


def test_activations_have_as_many_values_as_their_bits_say():
    batches = BatchList((Batch(INPUTS),))
    elastic = bits_subspace(network(), batches, bits=(2, 3, 4)).elastic()
    for bits in (2, 3, 4):
        found = elastic.extract(Point("bits", float(bits)))
        seen = []
        found.conv2.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0].unique()))
        found(INPUTS)
        assert 2 ** (bits - 1) < len(seen[0]) <= 2**bits
        assert len(found.conv2.weight.unique()) == 2**bits


def sliced_values(dial: Dial) -> Sliced:
    rule = Rule("layer", (("weight", 0),), (), (Run(0, 0, 40, 2),))
    other = Rule("layer", (("weight", 1),), (), (Run(-1, 0, 10), Run(1, 0, 40)))
    plan = ChannelPlan((40, 40), (rule, other))
    return Sliced(Plain(values().reshape(80, 50)), {0: rule, 1: other}, plan, dial)


REPARAMS = {
    "line": (sparsity_space((0.0, 0.8)), lambda dial: on_line(Plain(values()), dial, 0.3)),
    "table": (sparsity_space((0.0, 0.8)), lambda dial: Tabled(values().reshape(2, -1), dial)),
    "sparse": (sparsity_space((0.0, 0.8)), lambda dial: TopK(Plain(values()), dial)),
    "sparse on a line": (sparsity_space((0.0, 0.8)), lambda dial: TopK(on_line(Plain(values()), dial), dial)),
    "planes": (bits_space((2, 3, 4)), lambda dial: Planes(Plain(values()), dial, 4)),
    "codes": (bits_space((2, 3, 4)), lambda dial: Planes(Plain(values()), dial, 4).settled()),
    "codes on a line": (
        bits_space((2, 3, 4)),
        lambda dial: Planes(on_line(Plain(values()), dial, 0.3), dial, 4).settled(),
    ),
    "channels": (width_space((0.25, 0.5, 1.0)), sliced_values),
    "held": (bits_space((2, 3)), lambda dial: Held(Plain(values()).stored())),
}


@pytest.mark.parametrize("name", REPARAMS)
def test_what_a_point_stores_is_what_it_computes(name):
    space, make = REPARAMS[name]
    reparam = make(Dial(space))
    dial = getattr(reparam, "dial", Dial(space))
    for point in space.points:
        dial.point = point
        stored = reparam.stored()
        assert stored.shape == tuple(reparam().shape)
        assert torch.equal(torch.from_numpy(stored.values().copy()), reparam().detach())
    for parameter in reparam.parameters():
        assert parameter.grad is None
    trained = [parameter for parameter in reparam.parameters() if parameter.requires_grad]
    if trained:
        reparam().square().sum().backward()
        grads = [parameter.grad for parameter in trained]
        assert any(grad is not None and bool(grad.isfinite().all()) and bool(grad.any()) for grad in grads)
