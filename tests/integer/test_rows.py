"""Rows rounded at run time, layers that share them, and the memory that weights lie in."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from rounded import noise, quantized
from torch import Tensor, nn

from plisse.compress.quantize.activations import Activations
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.integer import to_integer
from plisse.integer.kernels import kernels, onednn
from plisse.integer.layers import DynamicLinear, EmbeddingRows, Siblings
from plisse.integer.operators import Entry, Symbols
from plisse.integer.pages import FEWEST, PAGE, use_large_pages
from plisse.integer.reference import reference
from plisse.integer.rows import rescale, rounded_rows
from plisse.integer.weights import IntegerWeight


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_are_rounded_to_the_nearest_symbol(bits: int) -> None:
    x = noise(7, 33) * torch.logspace(-30, 20, 7)[:, None]
    symbols, scale = rounded_rows(x, bits)
    top = 2 ** (bits - 1) - 1
    assert symbols.dtype == torch.int8
    torch.testing.assert_close(scale, x.abs().amax(1, keepdim=True) / top)
    assert symbols.abs().amax(1).tolist() == [top] * 7
    assert (symbols - x / scale).abs().max() <= 0.5 + 1e-4


def test_halves_go_to_even_and_rows_of_zeros_stay() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5], [0.0] * 6])
    symbols, scale = rounded_rows(x, 8)
    assert symbols.tolist() == [[127, 0, 2, 2, 0, -2], [0] * 6]
    assert float(scale[1]) > 0


def test_views_are_rounded_as_their_values() -> None:
    x = noise(12, 5).T
    assert torch.equal(rounded_rows(x, 8)[0], rounded_rows(x.contiguous(), 8)[0])


def test_nan_and_infinity_come_out_as_nan() -> None:
    x = noise(3, 4)
    x[0, 1], x[1, 2] = float("nan"), float("inf")
    layer = DynamicLinear(
        IntegerWeight(torch.ones(2, 4, dtype=torch.int8), torch.ones(2)), None, kernels=True
    )
    assert layer(x).isfinite().all(1).tolist() == [False, False, True]


IMAGES = noise(2, 3, 5, 4099) * 3
SHAPES = {
    "images": IMAGES,
    "channels last": IMAGES.contiguous(memory_format=torch.channels_last),
    "parts of images": IMAGES[:, 1:, ::2],
    "rows": IMAGES.flatten(1),
    "nothing": IMAGES[:0],
    "one": IMAGES[0, 0, 0, 0],
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("grid", [Symbols(0.02, 120), Symbols(0.3, 0, 15), Symbols(0.013, 255)], ids=str)
def test_values_enter_as_in_the_reference(name: str, grid: Symbols) -> None:
    x = SHAPES[name]
    slow, quick = reference(Entry(grid))(x), kernels(Entry(grid))(x)
    assert quick.shape == x.shape
    assert quick.dtype == torch.uint8
    if x.dim() == 4 and len(x):
        assert quick.is_contiguous(memory_format=torch.channels_last)
    apart = (slow.int() - quick.int()).abs()
    assert not x.numel() or int(apart.max()) <= 1
    assert apart.float().sum() <= 1e-4 * x.numel()


@pytest.mark.parametrize("rows", [1, 5])
def test_sums_are_rescaled_in_place(rows: int) -> None:
    total, scale, shift = noise(5, 9), noise(rows, 1, seed=1), noise(9, seed=2)
    wanted = total * scale + shift
    found = rescale(total, scale, shift)
    assert found.data_ptr() == total.data_ptr()
    torch.testing.assert_close(found, wanted)


def test_layers_over_one_tensor_share_their_sums_memory() -> None:
    symbols = torch.randint(-127, 128, (9, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    layer = DynamicLinear(IntegerWeight(symbols, torch.full((9,), 0.01)), noise(9), kernels=True)
    x = noise(2, 5, 8)
    parts = layer.parts(x, (2, 4, 3))
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    torch.testing.assert_close(torch.cat(parts, -1), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_kinds_of_floating_point_are_taken(kind: torch.dtype, kernels: bool) -> None:
    symbols = torch.randint(-127, 128, (3, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    layer = DynamicLinear(IntegerWeight(symbols, torch.full((3,), 0.01)), noise(3), kernels=kernels)
    x = noise(2, 4, 8)
    wanted = layer(x)
    assert (layer(x.to(kind).requires_grad_()).float() - wanted).abs().max() < 0.02 * wanted.abs().max()
    assert layer(x[:0]).shape == (0, 4, 3)


class Heads(nn.Module):
    """Three layers on one tensor, a fourth on a tensor that was changed in between."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.other = (nn.Linear(8, 8) for _ in range(4))
        self.branch = False

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().sum()) > 1e9:  # or it is traced
            return x
        y = x * 2
        out = self.query(y) + self.key(y) * self.value(y)
        return out + self.other(y.add_(1))


def shared(symmetric: bool = True) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    how = Activations(8, dynamic="row", symmetric=symmetric)
    small = quantized(Heads(), noise(3, 8), fold=False, activations=how)
    with pytest.warns(UserWarning, match="stays in floating point"):
        return small, to_integer(small, noise(3, 8))


@pytest.mark.parametrize("symmetric", [True, False])
def test_layers_on_one_tensor_round_it_once(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small, network = shared(symmetric)
    rounds = []
    kept = DynamicLinear.symbols
    monkeypatch.setattr(DynamicLinear, "symbols", lambda layer, x: rounds.append(x) or kept(layer, x))
    x = noise(3, 8, seed=4)
    first, again = network(x), copy.deepcopy(network)(x)
    assert len(rounds) == 2 * 2  # for three layers, and after the change
    assert isinstance(network.query, DynamicLinear)
    assert tuple(network.query.packed.scale.shape) == (24,)  # one product for the three
    assert torch.equal(first, again)
    torch.testing.assert_close(first, small(x).detach(), rtol=1e-4, atol=1e-4)
    groups = {
        id(layer.shared): layer.shared for layer in network.modules() if isinstance(layer, DynamicLinear)
    }
    kinds = [group.kept for group in groups.values() if isinstance(group, Siblings)]
    assert kinds == [None]  # the tensor is let go


def test_siblings_called_alone_or_with_other_tensors_round_for_themselves() -> None:
    _, network = shared()
    layers: list[DynamicLinear] = [getattr(network, name) for name in ("query", "key", "value")]
    group = layers[0].shared
    assert isinstance(group, Siblings)
    joined = group.joined.packed
    symbols, scales, biases = joined.weight.to_dense().T.split(8), joined.scale.split(8), joined.bias.split(8)
    alone = [
        DynamicLinear(IntegerWeight(part, scale), bias, group.joined.how, kernels=True)
        for part, scale, bias in zip(symbols, scales, biases, strict=True)
    ]
    x, y = noise(3, 8), noise(3, 8, seed=1)
    layers[0](x)
    assert torch.equal(layers[1](y), alone[1](y))
    assert torch.equal(layers[2](x), alone[2](x))
    x.mul_(3.0)
    assert torch.equal(layers[0](x), alone[0](x))
    assert torch.equal(layers[1](x), alone[1](x))


def test_layers_that_round_differently_share_nothing() -> None:
    weight = IntegerWeight(torch.ones(2, 4, dtype=torch.int8), torch.ones(2))
    wide, narrow = (
        DynamicLinear(weight, None, DynamicQuantizer(b, "row", True), kernels=True) for b in (8, 4)
    )
    x = noise(2, 4)
    Siblings.found([(wide, x, 0), (narrow, x, 0)])
    assert wide.shared is narrow.shared is None
    Siblings.found([(wide, x, 0), (wide, x, 0)])  # one layer twice
    assert wide.shared is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages of 2 MiB are asked for on Linux")
def test_large_weights_move_to_large_pages_and_stay_the_same() -> None:
    symbols = torch.randint(-127, 128, (2048, 2 * FEWEST // 2048), dtype=torch.int8)
    packed = onednn.qlinear_prepack(symbols, None)
    before = packed.to_dense().clone()
    assert use_large_pages([packed]) >= 2 * FEWEST // PAGE
    assert torch.equal(packed.to_dense(), before)
    rows = EmbeddingRows(IntegerWeight(symbols, torch.ones(2048)))
    assert use_large_pages([rows.packed.weight]) >= 2 * FEWEST // PAGE
    assert torch.equal(rows.packed.weight, symbols)
    assert use_large_pages([symbols[:10]]) == 0
