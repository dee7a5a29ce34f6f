from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rounded import noise, quantized, task_of
from torch import Tensor, nn

from plisse.bitstream.modelfile import dumps, loads
from plisse.compress.notes import notes_of
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.grids import PerGroup
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.core.batch import call
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import baked
from plisse.errors import GraphError, InputError
from plisse.integer import IntegerNetwork, StaysFloat, layer_differences, to_integer
from plisse.integer.layers import DynamicLinear, EmbeddingRows
from plisse.networks.resnet import BasicBlock, CifarResNet, PadShortcut, projected_block

IMAGES = noise(16, 3, 12, 12)


class Mobile(nn.Module):
    """Depthwise convolutions, ReLU6, average pooling in windows, a mean over pixels, an addition of two
    things that are no convolutions, and a reshape by a size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.pool = nn.AvgPool2d(2)
        self.point = nn.Conv2d(8, 6, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu6(self.stem(x)), 3, 1, padding=1)
        y = torch.relu(self.depthwise(x))
        y = torch.relu(self.pool(x) + self.pool(y))
        y = self.point(y).mean((2, 3))
        return self.head(self.drop(y).view(x.size(0), -1))


class Signal(nn.Module):
    """Convolutions over time with stride, dilation, groups and a shortcut, and a mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 5, 2, 2)
        self.second = nn.Conv1d(8, 8, 3, 1, 2, dilation=2, groups=4)
        self.third, self.last = nn.Conv1d(8, 6, 1), nn.Linear(6, 4)
        self.pool = nn.AdaptiveAvgPool1d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(2)))
        x = torch.relu(self.second(x) + x)
        y = self.third(x)
        return self.last(y.mean(-1) + self.pool(y).flatten(1))


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Hardtanh(),
        nn.ZeroPad2d(1), nn.Flatten(), nn.Linear(8 * 6 * 6, 10), nn.ReLU(), nn.Linear(10, 4),
    )  # fmt: skip


def projected() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    return nn.Sequential(*stem, projected_block(8, 8, 1), projected_block(8, 16, 2), *tail)


CASES = {
    "plain": plain_cnn,
    "projected": projected,
    "option A": lambda: CifarResNet(1, 4),
    "mobile": Mobile,
    "signal": Signal,
}


def warmed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model.train()(IMAGES)
    return model.eval()


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return quantized(warmed(CASES[name]()), IMAGES)


def snr(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize("name", CASES)
def test_integer_equals_simulated_and_kernels_equal_the_reference(name: str) -> None:
    model = built(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StaysFloat)
        exact, fast = (to_integer(model, IMAGES, kernels=kind, strict=True) for kind in (False, True))
    differences = layer_differences(exact, fast, IMAGES)  # type: ignore[arg-type]
    assert len(differences) >= 6
    assert max(worst for worst, _ in differences.values()) <= 1
    with torch.no_grad():
        simulated, found, quick = model(IMAGES), exact(IMAGES), fast(IMAGES)
    assert snr(simulated, found) > 28
    assert snr(simulated, quick) > 28
    assert snr(found, quick) > 32
    assert (simulated.argmax(1) == found.argmax(1)).float().mean() > 0.9


def test_a_chain_of_convolutions_equals_the_simulation_exactly_but_for_ties() -> None:
    """Without shortcuts and pools every value is rounded once, to the grid of the layer that reads it."""
    torch.manual_seed(1)
    model = quantized(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)),
        IMAGES,
    )
    with torch.no_grad():
        simulated, found = model(IMAGES), to_integer(model, IMAGES, kernels=False)(IMAGES)
    far = ((simulated - found).abs() > 1e-5).float().mean()
    assert far < 0.02
    assert snr(simulated, found) > 45


def test_activations_stay_bytes_between_layers() -> None:
    network = to_integer(built("projected"), IMAGES)
    assert isinstance(network, IntegerNetwork)
    kinds: list[Any] = []
    network.replay(lambda number, operands, result: kinds.append(result.dtype), IMAGES[:2])
    assert set(kinds[:-1]) == {torch.uint8}
    assert kinds[-1] == torch.float32
    names = [type(module).__name__ for module in network.operators]
    assert names.count("Convolve") == 6  # batch norms, ReLU and shortcuts are inside
    assert set(names) == {"Round", "Convolve", "Pool", "Mean", "Move", "Multiply"}


def test_no_float_weights_are_kept() -> None:
    network = to_integer(built("option A"), IMAGES)
    assert not list(network.parameters())
    assert sum(value.numel() for value in network.buffers()) < 300


def test_copies_give_the_same_and_inputs_can_be_named() -> None:
    network = to_integer(built("plain"), IMAGES)
    assert torch.equal(copy.deepcopy(network)(IMAGES), network(IMAGES))
    assert torch.equal(network(input=IMAGES), network(IMAGES))
    with pytest.raises(InputError, match="expected inputs input"):
        network(IMAGES, IMAGES)


def test_a_file_with_input_quantizers_becomes_integer_too() -> None:
    torch.manual_seed(0)
    origin = Origin("factory", "tests:plain_cnn", {})
    model = quantized(with_origin(plain_cnn(), origin), IMAGES)
    data = dumps(model, with_origin(plain_cnn(), origin))
    loaded = loads(data, lambda _: with_origin(plain_cnn(), origin))
    assert torch.equal(to_integer(loaded, IMAGES)(IMAGES), to_integer(model, IMAGES)(IMAGES))


@pytest.mark.parametrize("bits", [2, 4])
def test_narrow_grids_run_as_bytes(bits: int) -> None:
    torch.manual_seed(0)
    model = quantized(plain_cnn(), IMAGES, bits=bits, activations=Activations(bits, MinMax()))
    exact, fast = (to_integer(model, IMAGES, kernels=kind) for kind in (False, True))
    assert max(worst for worst, _ in layer_differences(exact, fast, IMAGES).values()) <= 1  # type: ignore[arg-type]
    assert snr(model(IMAGES).detach(), exact(IMAGES)) > 12


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sigmoid(self.first(x))) * 2


def test_what_has_no_integer_form_is_named() -> None:
    model = quantized(Odd(), IMAGES)
    with pytest.warns(StaysFloat, match="sigmoid, mul"):
        network = to_integer(model, IMAGES)
    assert notes_of(network) == ("sigmoid stays in floating point", "mul stays in floating point")
    assert snr(model(IMAGES).detach(), network(IMAGES)) > 35
    with pytest.raises(GraphError, match="sigmoid"):
        to_integer(model, IMAGES, strict=True)


def test_layers_off_the_grid_stay_as_simulated() -> None:
    torch.manual_seed(0)
    model = quantized(plain_cnn(), IMAGES, granularity=PerGroup(16), ignore=("0.weight",))
    with pytest.warns(StaysFloat, match="Conv2d '0'.*Conv2d '3'.*Linear '7'"):
        network = to_integer(model, IMAGES)
    assert snr(model(IMAGES).detach(), network(IMAGES)) > 35
    model = quantized(plain_cnn(), IMAGES, ignore=("0.weight",))
    with pytest.warns(StaysFloat, match="Conv2d '0'"):
        network = to_integer(model, IMAGES)
    assert snr(model(IMAGES).detach(), network(IMAGES)) > 30


def test_batch_norm_that_was_not_folded_is_named() -> None:
    torch.manual_seed(0)
    model = quantized(warmed(CifarResNet(1, 4)), IMAGES, fold=False)
    with pytest.raises(GraphError, match=r"BatchNorm2d 'bn1'.*FoldBatchNorm"):
        to_integer(model, IMAGES, strict=True)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x).mean((2, 3))
        return self.last(x if float(x.detach().sum()) > 0 else x.abs())


def test_a_network_that_cannot_be_traced_gets_its_layers_replaced() -> None:
    torch.manual_seed(0)
    model = quantized(Branching(), IMAGES, fold=False)
    with pytest.warns(StaysFloat, match="mean"):
        network = to_integer(model, IMAGES)
    assert snr(model(IMAGES).detach(), network(IMAGES)) > 40
    with pytest.raises(GraphError, match="mean"):
        to_integer(model, IMAGES, strict=True)


@pytest.mark.parametrize("dynamic", ["row", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kernels", [True, False])
def test_dynamic_linear_layers_equal_their_simulation(dynamic: str, symmetric: bool, kernels: bool) -> None:
    torch.manual_seed(0)
    how = Activations(8, dynamic=dynamic, symmetric=symmetric)
    x = noise(2, 5, 16)
    model = quantized(
        nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), x, fold=False, activations=how
    )
    with pytest.warns(StaysFloat, match="ReLU"):
        network = to_integer(model, x, kernels=kernels)
    torch.testing.assert_close(network(x), model(x).detach(), rtol=1e-4, atol=1e-4)


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    ids = {"input_ids": torch.randint(0, 50, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    ids["attention_mask"][1, 5:] = 0
    return transformers.BertModel(config).eval(), ids


@pytest.mark.parametrize("activations", [None, Activations(8, MinMax()), Activations(8, dynamic="row")])
def test_transformers(activations: Activations | None) -> None:
    model, ids = bert()
    small = Quantize(bits=8, range=MinMax(), activations=activations)(model, task_of(ids))
    with pytest.warns(StaysFloat, match="scaled_dot_product_attention"):
        fast = to_integer(small, ids)
    with pytest.warns(StaysFloat) as said:
        exact = to_integer(small, ids, kernels=False)
    assert not any(word in str(said[0].message) for word in ("attention", "gelu", "layer_norm", "softmax"))
    with torch.no_grad():
        wanted, quick, slow = (call(net, ids) for net in (baked(small), fast, exact))
    assert snr(wanted, quick) > 35
    assert snr(wanted, slow) > 25
    kinds = [type(module) for module in fast.modules()]
    assert kinds.count(EmbeddingRows) == 3
    assert kinds.count(nn.Linear) == 0
    if activations is None or activations.dynamic:
        assert kinds.count(DynamicLinear) == 13 + 2  # and one for queries, keys and values of each layer


class Recurrent(nn.Module):
    """A module that gives several tensors, a size of something in symbols, and a type."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rest, self.out = nn.Conv2d(3, 6, 3), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        states, _ = self.rest(x)
        return self.out(states.to(x.dtype)).mean(1) * x.shape[0]


def test_modules_with_several_results_and_types_run_on_values_not_on_symbols() -> None:
    torch.manual_seed(0)
    model = quantized(Recurrent(), IMAGES, ignore=("rest",))
    with pytest.warns(StaysFloat, match="GRU 'rest'"):
        network = to_integer(model, IMAGES)
    assert snr(model(IMAGES).detach(), network(IMAGES)) > 35


@pytest.mark.parametrize("activations", [None, Activations(8, MinMax())])
def test_transformers_of_torch_keep_working(activations: Activations | None) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    x = noise(2, 6, 16)
    model = quantized(nn.Sequential(layer, nn.Linear(16, 3)), x, fold=False, activations=activations)
    with pytest.warns(StaysFloat, match="TransformerEncoderLayer"):
        network = to_integer(model, x)
    with torch.no_grad():
        assert snr(model(x), network(x)) > 30


def test_bad_input() -> None:
    with pytest.raises(GraphError, match="without a layer on an integer grid"):
        to_integer(nn.Sequential(nn.Conv2d(3, 4, 3)), IMAGES)
    model = built("plain")
    with pytest.raises(InputError, match="NaN"):
        to_integer(model, IMAGES * float("nan"))
    with pytest.raises(InputError, match="an input 'pixels'"):
        to_integer(model, {"pixels": IMAGES})
    with pytest.raises(InputError, match="does not take"):
        to_integer(model, noise(2, 5, 12, 12))


def test_shortcuts_keep_their_zero() -> None:
    """Channels that option A pads are zero in the real values, whatever symbol that is."""
    torch.manual_seed(0)
    block = BasicBlock(4, 8, 2, PadShortcut(4, 8, 2))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.Conv2d(8, 2, 1))
    small = quantized(warmed(model), IMAGES)
    assert snr(small(IMAGES).detach(), to_integer(small, IMAGES)(IMAGES)) > 25
