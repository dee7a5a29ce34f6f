from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plisse.adapt.channels import Run, channel_plan, kept_entries
from plisse.adapt.elastic import Point
from plisse.adapt.norms import without_statistics
from plisse.adapt.statistics import measure_statistics, tables
from plisse.adapt.width import width_subspace
from plisse.core.batch import Batch, BatchList
from plisse.core.modules import clone
from plisse.cost.macs import count_macs
from plisse.errors import GraphError, InputError
from plisse.networks.resnet import projected_block, resnet20
from plisse.train.statistics import reestimate_statistics


def seeded(make):
    torch.manual_seed(3)
    return make().eval()


class Residual(nn.Module):
    """Two residual stages, as in ResNet-18."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stages = nn.Sequential(
            projected_block(8, 8, 1), projected_block(8, 16, 2), projected_block(16, 16, 1)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


class Inverted(nn.Module):
    """An inverted residual with a depthwise convolution, as in MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 2 * inputs
        self.same = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.same else self.layers(x)


def mobile() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12 * 4 * 4, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip


class Joined(nn.Module):
    """A concatenation whose first half is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(14)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return self.head(self.norm(torch.cat([a, self.b(a)], 1)).sigmoid().mean((2, 3)))


NETWORKS = {"residual": Residual, "mobile": mobile, "vgg": vgg, "joined": Joined}


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_widths_of_networks_that_nobody_adapted(make):
    net, x = seeded(make), images()
    subspace = width_subspace(net, x, widths=(0.25, 0.5, 0.8, 1.0)).eval()
    elastic = subspace.elastic()
    assert torch.allclose(elastic(x), net(x), atol=1e-5)
    macs = []
    for point in subspace.space.points:
        subspace.select(point)
        extracted = elastic.extract(point)
        assert torch.equal(extracted(x), subspace(x))
        macs.append(count_macs(extracted, x))
    assert macs == sorted(set(macs))
    assert macs[1] < 0.6 * macs[-1]


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_every_tensor_of_a_narrow_network_is_a_prefix_of_the_wide_one(make):
    elastic = width_subspace(seeded(make), images(), widths=(0.25, 0.5, 1.0)).elastic()
    half, full = (dict(elastic.extract(Point("width", w)).named_parameters()) for w in (0.5, 1.0))
    prefixes = 0
    for name, value in half.items():
        corner = full[name][tuple(slice(0, side) for side in value.shape)]
        prefixes += torch.equal(value, corner)
    assert prefixes >= len(half) - 2  # what follows a concatenation has two prefixes side by side


def test_a_residual_stream_with_padded_shortcuts_keeps_its_channels():
    net = seeded(resnet20)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    quarter = width_subspace(net, x).elastic().extract(Point("width", 0.25))
    assert quarter.layer3[0].conv1.weight.shape == (16, 32, 3, 3)
    assert quarter.layer3[0].conv2.weight.shape == (64, 16, 3, 3)
    assert quarter(x).shape == (2, 10)


def test_statistics_of_a_listed_point_are_those_measured_there():
    net = seeded(Residual)
    batches = BatchList((Batch(images(8)), Batch(images(16) * 2)))
    subspace = width_subspace(net, images(), widths=(0.5, 0.75, 1.0))
    point = Point("width", 0.5)
    wanted = clone(subspace.materialised(point))
    reestimate_statistics(wanted, batches)
    measure_statistics(subspace, batches)
    found = subspace.elastic().extract(point)
    assert torch.allclose(found(images()), wanted(images()), atol=2e-2)
    for (name, a), b in zip(found.named_buffers(), wanted.buffers(), strict=True):
        if "running" in name:
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_statistics_between_listed_points_are_interpolated():
    subspace = width_subspace(seeded(vgg), images(), widths=(0.5, 1.0))
    measure_statistics(subspace, BatchList((Batch(images(16)),)))
    name = "1.running_mean"
    half, whole = tables(subspace)[name].values
    found = subspace.elastic().extract(Point("width", 0.75))[1].running_mean
    assert torch.allclose(found, ((half + whole) / 2)[:6])
    assert torch.equal(half[4:], whole[4:])  # channels that half the width does not have


def test_a_multiple_of_channels_stays_where_wanted():
    elastic = width_subspace(seeded(vgg), images(), widths=(0.25, 0.6, 1.0), round_to=4).elastic()
    assert elastic.extract(Point("width", 0.6))[0].out_channels == 4
    assert elastic.extract(Point("width", 0.25))[0].out_channels == 4


def test_ignored_layers_keep_their_channels():
    elastic = width_subspace(seeded(vgg), images(), widths=(0.25, 1.0), ignore=("4",)).elastic()
    quarter = elastic.extract(Point("width", 0.25))
    assert (quarter[0].out_channels, quarter[4].out_channels) == (2, 12)


def test_a_network_without_channels_to_cut_is_refused_with_the_reason():
    with pytest.raises(GraphError, match="no channel can be cut"):
        width_subspace(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("widths", [(), (0.0, 1.0), (0.5, 1.5), (0.5, 0.5)], ids=str)
def test_widths_out_of_range_are_refused(widths):
    with pytest.raises(InputError):
        width_subspace(seeded(vgg), images(), widths=widths)


def test_entries_of_a_rule():
    runs = (Run(0, 0, 3), Run(1, 0, 2, 2), Run(-1, 0, 1))
    assert kept_entries(runs, (2, 1)) == (0, 1, 3, 4, 7)


def test_blocks_of_a_concatenation_shrink_apart():
    plan, _ = channel_plan(seeded(Joined), images())
    assert sorted(plan.blocks) == [6, 8]
    assert sorted(plan.counts(0.5)) == [3, 4]


@pytest.mark.parametrize("make", [Residual, mobile, vgg], ids=["residual", "mobile", "vgg"])
def test_instance_norms_need_no_statistics_at_any_width(make):
    net, x = seeded(make), images()
    subspace = width_subspace(net, x, widths=(0.25, 0.5, 1.0), statistics=False).eval()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in subspace.modules())
    elastic = subspace.elastic()
    assert torch.allclose(elastic(x), without_statistics(net)(x), atol=1e-5)
    for point in subspace.space.points:
        subspace.select(point)
        assert torch.equal(elastic.extract(point)(x), subspace(x))
    measure_statistics(subspace, BatchList((Batch(x),)))
    assert not tables(subspace)


def test_group_norms_take_over_weights_and_biases():
    net = seeded(vgg)
    with torch.no_grad():
        net[1].weight.fill_(2.0)
    found = without_statistics(net, groups=3)
    assert (found[1].num_groups, found[5].num_groups) == (2, 3)  # divisors of 8 and 12 channels
    assert torch.equal(found[1].weight, net[1].weight)
    assert isinstance(net[1], nn.BatchNorm2d)
    with pytest.raises(InputError):
        without_statistics(net, groups=0)


def test_active_networks_hold_dense_tensors_and_share_what_has_no_gaps():
    subspace = width_subspace(seeded(vgg), images(), widths=(0.5, 1.0)).eval()
    half = subspace.materialised(Point("width", 0.5))
    assert all(tensor.is_contiguous() for tensor in (*half.parameters(), *half.buffers()))
    whole = subspace.wrapped.reparams["0.weight"].source.weight
    assert half[0].weight.data_ptr() == whole.data_ptr()
    assert len(half[1].running_mean.untyped_storage()) == 4 * half[1].num_features
