"""Cross-layer equalization: pairs, even ranges, outputs that stay."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plisse.compress import equalize
from plisse.compress.equalize import Equalize, scale_pair
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.notes import notes_of
from plisse.compress.pairs import Pair, by_input_channel, scalable_pairs
from plisse.compress.quantize.grids import PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.core.batch import Batch, BatchList
from plisse.errors import GraphError, InputError
from plisse.networks.resnet import resnet20
from plisse.train.task import classification


class Network(nn.Module):
    """Three scalable pairs in the trunk (one through a depthwise layer, one into a linear layer through
    pooling and flattening), a layer that is read twice, and one before an operator that is no scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 6, 1, bias=False)
        self.last = nn.Conv2d(6, 4, 3, groups=2)
        self.head = nn.Linear(4 * 4, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, images):
        x = self.stem(images)  # [N, 8, 8, 8]
        x = F.relu(x) + F.relu(-x)
        x = F.relu(self.wide(x))
        x = F.leaky_relu(self.depth(x), inplace=True)
        x = F.max_pool2d(F.relu(self.point(x)), 2)  # [N, 6, 4, 4]
        x = F.relu(self.last(x)).flatten(1)  # [N, 16]
        return self.out(torch.tanh(self.head(x)))


PAIRS = [
    Pair("wide", "depth", True),
    Pair("depth", "point"),
    Pair("point", "last", True),
    Pair("last", "head", True),
]


def uneven(seed=0):
    torch.manual_seed(seed)
    network = Network().eval()
    with torch.no_grad():
        for layer in network.children():
            layer.weight.mul_(
                torch.logspace(-2, 1, len(layer.weight)).reshape(-1, *[1] * (layer.weight.dim() - 1))
            )
    return network


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(0)
    batches = BatchList(tuple(Batch(torch.randn(16, 3, 8, 8, generator=generator)) for _ in range(2)))
    return classification("made", batches[0].inputs, batches, batches, batches)


def ranges(model, pair):
    first, second = model.get_submodule(pair.first), model.get_submodule(pair.second)
    columns = by_input_channel(second, len(first.weight))
    return first.weight.detach().flatten(1).abs().amax(1), columns.abs().amax((1, 3)).flatten()


def test_pairs_are_those_that_scaling_passes_through(task):
    assert scalable_pairs(uneven(), task.example) == PAIRS


def test_outputs_stay_and_ranges_become_even(task):
    network = uneven()
    state = copy.deepcopy(network.state_dict())
    even = Equalize()(network, task)
    with torch.no_grad():
        wanted, found = network(task.example), even(task.example)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    for pair in PAIRS:
        first, second = ranges(even, pair)
        torch.testing.assert_close(first, second, rtol=3e-3, atol=0)
        before = [part.max() / part.min() for part in ranges(network, pair)]
        assert float(max(first.max() / first.min(), 1.0)) < float(max(before))
    assert notes_of(even) == tuple(f"{pair} equalized" for pair in PAIRS)


def test_rounding_to_one_scale_per_tensor_hurts_less(task):
    torch.manual_seed(0)
    network = Network().eval()
    for pair in PAIRS:  # computes the same, with channels of ranges from 1 to 1000
        first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
        scale_pair(first, second, torch.logspace(-1.5, 1.5, len(first.weight)))
    coarse = Quantize(bits=6, granularity=PerTensor(), range=MinMax())
    with torch.no_grad():
        wanted = network(task.example)
        errors = [
            float((coarse(model, task)(task.example) - wanted).square().mean())
            for model in (network, Equalize()(network, task))
        ]
    assert errors[1] < 0.3 * errors[0]


def test_dead_channels_stay_and_nothing_becomes_infinite(task):
    network = uneven()
    with torch.no_grad():
        network.wide.weight[3] = 0
        network.wide.bias[3] = 0
        network.last.weight[:, 1] = 0
        network.point.weight[0] = 1e-30
    even = Equalize()(network, task)
    assert all(bool(torch.isfinite(value).all()) for value in even.state_dict().values())
    assert not bool(even.wide.weight[3].any())


def test_resnet20_has_a_pair_in_every_block_once_batch_norm_is_folded(task):
    torch.manual_seed(0)
    network = resnet20().eval()
    unfolded = Equalize()(network, task)
    assert "fold batch norm" in notes_of(unfolded)[0]
    found = scalable_pairs(FoldBatchNorm()(network, task), task.example)
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    assert found == [Pair(f"{block}.conv1", f"{block}.conv2", True) for block in blocks]


def test_layers_that_share_or_repeat_are_left(task):
    shared = nn.Linear(3, 3)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    assert scalable_pairs(twice, torch.ones(2, 3)) == []
    tied = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    tied[4].weight = tied[0].weight
    assert scalable_pairs(tied, torch.ones(2, 3)) == []


class Exposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        middle = self.a(x)
        return self.b(middle), middle


def test_a_value_that_is_an_output_too_is_left():
    assert scalable_pairs(Exposed(), torch.ones(2, 3)) == []


def test_channels_that_move_are_left(task):
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.b(self.a(x).transpose(2, 3).mean(1, keepdim=True).expand(-1, 4, -1, -1))

    assert scalable_pairs(Swapped(), torch.ones(2, 3, 4, 4)) == []


def test_outputs_that_change_are_refused(task, monkeypatch):
    wrong = [Pair("stem", "wide")]  # |x| is no obstacle to scaling, but tanh before `out` is
    monkeypatch.setattr(equalize, "scalable_pairs", lambda *_: [*wrong, Pair("head", "out")])
    network = uneven()
    with pytest.raises(GraphError, match="equalized"):
        Equalize()(network, task)


def test_high_biases_are_absorbed_where_inputs_stay_above(task):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False)).eval()
    with torch.no_grad():
        network[0].bias.copy_(torch.tensor([20.0, 20.0, 20.0, 0.0, -20.0, 0.0]))
    plain, absorbed = (Equalize(absorb_bias=on)(network, task) for on in (False, True))
    with torch.no_grad():
        wanted, found = network(task.example), absorbed(task.example)
        middles = [model[1](model[0](task.example)) for model in (plain, absorbed)]
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 0.01
    high = [middle.amax((0, 2, 3)) for middle in middles]
    assert bool((high[1][:3] < 0.6 * high[0][:3]).all())
    torch.testing.assert_close(high[1][3:], high[0][3:])
    with pytest.raises(InputError, match="calibration"):
        Equalize(absorb_bias=True)(
            network, classification("none", task.example, task.train, BatchList(()), task.holdout)
        )
