"""Canonicalize: what it refuses, what it leaves, what it says; and the shared grid that follows it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.notes import notes_of
from plisse.compress.quantize.grids import PerChannel
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.sphere.canonicalize import Canonicalize, canonical
from plisse.compress.sphere.domain import Box, CalibrationBox, Observed, Unbounded
from plisse.compress.sphere.shared import SharedGrid, gaussian_step, unit_rows
from plisse.compress.sphere.units import find_units
from plisse.compress.step import chain
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, with_origin
from plisse.errors import GraphError, InputError, WeightsError
from plisse.networks.build import build
from plisse.networks.coordinate import coordinates, fourier_mlp
from plisse.networks.resnet import resnet20
from plisse.train.task import classification


def task_of(inputs, calibration=True):
    batches = BatchList((Batch(inputs),) if calibration else ())
    return classification("made", inputs[:8], batches, batches, batches)


def net(*between, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), *between, nn.Linear(6, 5, bias=bias), nn.ReLU(), nn.Linear(5, 2))


def inputs(n=64):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(0))


def same(one, other, value, tolerance=1e-5):
    with torch.no_grad():
        torch.testing.assert_close(other(value), one(value), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.Sigmoid(), "sigmoid: it saturates"),
        (nn.GELU(), "GELU: s x is gated otherwise"),
        (nn.SiLU(), "SiLU"),
        (nn.Tanh(), "tanh: it saturates"),
        (nn.ReLU6(), "clipping at a fixed value"),
        (nn.LayerNorm(6), "LayerNorm, reads it"),
        (nn.Softmax(-1), "not followed"),
    ],
    ids=["sigmoid", "gelu", "silu", "tanh", "relu6", "layernorm", "softmax"],
)
def test_layers_before_other_activations_stay_with_the_reason(between, reason):
    network = net(between)
    result = Canonicalize()(network, task_of(inputs()))
    assert any("'0' keeps its scale" in note and reason in note for note in notes_of(result))
    assert torch.equal(result[0].weight, network[0].weight)
    assert unit_rows(result[2].weight)
    same(network, result, inputs())


class Sines(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.sin(self.a(x)))


def test_a_network_of_sines_alone_is_refused():
    with pytest.raises(GraphError, match="sine: sin"):
        Canonicalize()(Sines(), task_of(inputs()))


class Functional(nn.Module):
    """Weights outside layers: nothing to follow."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        return F.relu(x @ self.first.T) @ self.second.T


def test_a_network_whose_graph_is_not_followed_is_refused():
    with pytest.raises(GraphError, match=r"no scale can move.*no linear or convolution layer runs"):
        Canonicalize()(Functional(), task_of(inputs()))
    with pytest.raises(GraphError, match="while running"):
        Canonicalize()(net(nn.ReLU()), task_of(torch.rand(8, 7)))


@pytest.mark.parametrize("low", [-math.inf, math.nan])
def test_an_unbounded_box_is_refused(low):
    with pytest.raises(InputError, match="unbounded domain"):
        Box(low, 1.0)


@pytest.mark.parametrize("domain", [CalibrationBox(), Observed()], ids=lambda domain: type(domain).__name__)
def test_without_calibration_data_a_domain_must_be_named(domain):
    with pytest.raises(InputError, match="calibration"):
        Canonicalize(domain)(net(nn.ReLU()), task_of(inputs(), calibration=False))
    for known in (Box(0.0, 1.0), Unbounded()):
        Canonicalize(known)(net(nn.ReLU()), task_of(inputs(), calibration=False))


def test_bad_boxes_are_refused():
    task = task_of(inputs())
    for make in (lambda: Box(1.0, 0.0), lambda: Box((0.0, 0.0), (1.0, 1.0, 1.0))):
        with pytest.raises(InputError, match="low <= high"):
            make()
    with pytest.raises(InputError, match="2 bounds"):
        Canonicalize(Box((0.0, 0.0), (1.0, 1.0)))(net(nn.ReLU()), task)
    with pytest.raises(InputError, match="an example with values"):
        Canonicalize(Box(0.0, 0.1))(net(nn.ReLU()), task)
    for kind in (CalibrationBox, Observed):
        with pytest.raises(InputError, match="margin"):
            kind(margin=-0.1)


def test_weights_that_are_not_finite_are_refused():
    network = net(nn.ReLU())
    with torch.no_grad():
        network[0].weight[0, 0] = math.nan
    with pytest.raises(WeightsError):
        Canonicalize()(network, task_of(inputs()))


def test_bounds_by_entry_are_tighter_than_one_box():
    network = net(nn.ReLU()).double()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.copy_(torch.linspace(-4, 0, 6))
    task = task_of(inputs().double() * torch.tensor([0.01, 0.01, 1.0]))
    wide, narrow = (
        canonical(network, task, domain)[1][0].removed
        for domain in (Box(0.0, 1.0), Box((0.0, 0.0, 0.0), (0.01, 0.01, 1.0)))
    )
    assert narrow > wide


def test_a_layer_without_bias_gets_one_and_the_notes_say_so():
    network = net(nn.ReLU(), bias=False)
    with torch.no_grad():
        network[0].bias.fill_(0.1)
        network[0].bias[0] = 9
        network[0].weight[1], network[0].bias[1] = 0, 2
    result = Canonicalize(Box(0.0, 1.0))(network, task_of(inputs()))
    assert result[2].bias is not None
    assert any("'2' got a bias" in note for note in notes_of(result))
    assert len(result[0].weight) == 5
    same(network, result, inputs())


def test_observed_bounds_are_marked_and_are_not_exact_elsewhere():
    network = net(nn.ReLU())
    seen = 0.1 * inputs()
    result = Canonicalize(Observed())(network, task_of(seen))
    assert notes_of(result)[0].startswith("NOT exact")
    assert "64 samples" in notes_of(result)[0]
    same(network, result, seen)
    far = 20 * inputs() - 10
    with torch.no_grad():
        assert float((result(far) - network(far)).abs().max()) > 1e-3
    exact = Canonicalize(Box(-10.0, 10.0))(network, task_of(seen))
    same(network, exact, far, 1e-4)


def border_net(padding):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=padding), nn.Flatten())
    with torch.no_grad():
        network[0].weight[:4] = 0
        network[0].bias.copy_(torch.tensor([1.0, 2.0, 3.0, -1.0, 9.0, 0.1]))
    return network.double()


def test_constants_before_zero_padding_are_merged_into_one_neuron():
    """Four neurons are constant: one gives 0, three give 1, 2 and 3, one is always active. Without padding
    all of them fold into the next bias; behind zeros at the border one has to carry the others."""
    images = torch.rand(16, 1, 8, 8).double()
    for padding, left, kept in ((0, 2, 0), (1, 3, 1)):
        network = border_net(padding)
        result, changes, _, _ = canonical(network, task_of(images), Box(0.0, 1.0))
        assert len(result[0].weight) == left
        assert (changes[0].dead, changes[0].clamped, changes[0].kept) == (1, 1, kept)
        same(network, result, images, 1e-12)


def test_thresholds_before_zero_padding_stay_where_nothing_carries_them():
    network = border_net(1)
    with torch.no_grad():
        nn.init.normal_(network[0].weight, std=0.1)
        network[0].bias.fill_(9.0)
    images = torch.rand(16, 1, 8, 8).double()
    result, changes, _, _ = canonical(network, task_of(images), Box(0.0, 1.0))
    assert (changes[0].removed, changes[0].clamped, changes[0].kept) == (0, 0, 6)
    same(network, result, images, 1e-12)


def test_grouped_layers_keep_their_neurons():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    with torch.no_grad():
        network[0].bias.copy_(torch.tensor([-9.0, 9.0, 0.0, 0.0, 0.0, 0.0]))
    images = torch.rand(8, 2, 6, 6)
    result, changes, _, _ = canonical(network.eval(), task_of(images), Box(0.0, 1.0))
    assert (changes[0].removed, changes[0].clamped) == (0, 1)
    same(network, result, images)


def test_blocks_of_a_residual_network_keep_their_shared_scale():
    torch.manual_seed(0)
    network = resnet20().eval()
    images = torch.rand(2, 3, 16, 16)
    folded = FoldBatchNorm()(network, task_of(images))
    result = Canonicalize()(network, task_of(images))
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    units, left = find_units(folded, images)
    assert [(unit.first, unit.second) for unit in units] == [(f"{b}.conv1", f"{b}.conv2") for b in blocks]
    for block in blocks:
        assert "shortcut" in left[f"{block}.conv2"]
        assert unit_rows(result.get_submodule(f"{block}.conv1").weight)
        norms = [m.get_submodule(f"{block}.conv2").bias.norm() for m in (folded, result)]
        torch.testing.assert_close(*norms)
    same(network, result, images, 1e-4)


def test_a_tied_or_repeated_layer_stays():
    torch.manual_seed(0)
    shared = nn.Linear(3, 3)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    units, left = find_units(network, inputs())
    assert [unit.first for unit in units] == ["4"]
    assert "runs 2 times" in left["0"]


@pytest.mark.parametrize(
    "step", [lambda x: (x > 0.5).float(), lambda x: torch.where(x > 0, 1.0, 0.0)], ids=["off", "where"]
)
def test_steps_elsewhere_than_at_zero_are_refused(step):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(step(self.a(x)))

    with pytest.raises(GraphError, match="not followed"):
        Canonicalize()(Network(), task_of(inputs()))


def test_buffers_that_are_no_part_of_the_state_keep_their_type():
    network = fourier_mlp(8, 2, 4)
    places = coordinates(6, 7)
    result = Canonicalize(Unbounded())(network, task_of(places))
    assert result[0].frequencies.dtype == torch.float32
    assert unit_rows(result[1].weight)
    same(network, result, places)


def test_rounded_inputs_must_come_later():
    from plisse.compress.quantize.activations import Activations

    task = task_of(inputs())
    rounded = Quantize(bits=8, activations=Activations(bits=8))(net(nn.ReLU()), task)
    with pytest.raises(GraphError, match="rounds or scales its inputs"):
        Canonicalize()(rounded, task)


def digits():
    torch.manual_seed(0)
    origin = Origin("builtin", "digits_cnn")
    model = with_origin(build(origin), origin).eval()
    with torch.no_grad():
        model.bn1.weight[:9], model.bn1.bias[:9] = 0, 0
        model.bn2.running_var.uniform_(0.1, 9)
    return model


def test_a_network_with_removed_neurons_goes_to_a_file_and_back():
    images = torch.rand(8, 1, 8, 8)
    network = digits()
    small = Canonicalize()(network, task_of(images))
    assert small.conv1.out_channels == 23
    loaded = modelfile.loads(modelfile.dumps(small, build(Origin("builtin", "digits_cnn"))), build)
    same(network, loaded.eval(), images, 1e-4)


def test_the_shared_grid_stores_no_scale_per_channel_and_is_one_for_one_fan_in():
    images = torch.rand(8, 1, 8, 8)
    task = task_of(images)
    skeleton = build(Origin("builtin", "digits_cnn"))
    quantized = chain(Canonicalize(), Quantize(grid=SharedGrid(3)))(digits(), task)
    scales = {name: reparam.stored().grid.scale for name, reparam in quantized.reparams.items()}
    assert all(scale.size == 1 for scale in scales.values())
    for name, fan_in in (("conv2.weight", 23 * 9), ("fc1.weight", 256)):
        assert float(scales[name][0]) == pytest.approx(gaussian_step(3) / math.sqrt(fan_in), rel=2**-7)
    data = modelfile.dumps(quantized, skeleton)
    with torch.no_grad():
        torch.testing.assert_close(modelfile.loads(data, build).eval()(images), quantized.eval()(images))
    folded = chain(FoldBatchNorm(), Quantize(bits=3, granularity=PerChannel()))(digits(), task)
    assert len(data) < len(modelfile.dumps(folded, skeleton))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_step_is_that_of_least_error(bits):
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(400, 1000), dim=1)
    errors = [
        float((SharedGrid(bits, stretch).quantized(_plain(rows))() - rows).square().mean().detach())
        for stretch in (0.85, 1.0, 1.15)
    ]
    assert errors[1] < min(errors[0], errors[2])


def _plain(rows):
    from plisse.core.reparam import Plain

    return Plain(rows)


@pytest.mark.parametrize(
    "make", [lambda: SharedGrid(1), lambda: SharedGrid(4, 0.0), lambda: SharedGrid(4, math.nan)], ids="abc"
)
def test_bad_grids_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_weights_that_cannot_be_rounded_are_refused():
    with pytest.raises(WeightsError, match="finite"):
        SharedGrid(4).quantized(_plain(torch.tensor([[math.nan, 1.0]])))
    with pytest.raises(InputError, match="without values"):
        SharedGrid(4).quantized(_plain(torch.zeros(0, 3)))


def test_rows_elsewhere_get_a_range_of_their_own():
    rows = 3 * F.normalize(torch.randn(4, 50, generator=torch.Generator().manual_seed(0)), dim=1)
    assert SharedGrid(4, elsewhere=PerChannel()).quantized(_plain(rows)).stored().grid.scale.size == 4
    assert not unit_rows(rows)
    assert not unit_rows(torch.ones(3))
