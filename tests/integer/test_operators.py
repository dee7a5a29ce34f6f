"""Reference against kernels, and both against exact arithmetic, one operator at a time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from rounded import noise
from torch import Tensor

from plisse.integer.kernels import kernels
from plisse.integer.operators import (
    Addition,
    Average,
    Clip,
    Entry,
    Exit,
    Maximum,
    Requantization,
    Symbols,
    Weighted,
    Window,
)
from plisse.integer.reference import reference
from plisse.integer.weights import IntegerWeight, from_values

SOURCE, TARGET, SHORTCUT = Symbols(0.02, 3), Symbols(0.05, 120), Symbols(0.03, 40)

WINDOWS = [
    Window((3, 3), (1, 1), (1, 1)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((1, 1), (2, 2)),
    Window((5, 3), (2, 1), (2, 0)),
    Window((3, 3), (1, 1), (2, 2), (2, 2)),
    Window((3, 3), (1, 1), (1, 1), groups=4),
    Window((3, 3), (2, 2), (1, 1), groups=8),
]


def symbols(*shape: int, seed: int = 0, top: int = 255) -> Tensor:
    return torch.randint(0, top + 1, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def weight(outputs: int, *rest: int) -> IntegerWeight:
    values = torch.randint(-127, 128, (outputs, *rest), generator=torch.Generator().manual_seed(9))
    scale = torch.linspace(0.001, 0.004, outputs).bfloat16().float()
    return IntegerWeight(values.to(torch.int8), scale)


def convolution(window: Window, **options: object) -> Weighted:
    inside = 8 // window.groups
    spec = Weighted(weight(8, inside, *window.kernel), noise(8, seed=3), SOURCE, TARGET, window)
    return replace(spec, **options)  # type: ignore[arg-type]


def exact(spec: Weighted, q: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """The real-valued result in float64, before rounding to the target's grid."""
    x = (q.double() - spec.source.zero) * spec.source.scale
    values = spec.weight.symbols.double()
    values = values * spec.weight.scale.double().reshape(-1, *[1] * (values.dim() - 1))
    bias, w = spec.bias.double() if spec.bias is not None else None, spec.window
    y = (
        F.linear(x, values, bias)
        if w is None
        else F.conv2d(x, values, bias, w.stride, w.padding, w.dilation, w.groups)
    )
    if shortcut is not None and spec.added is not None:
        y = y + (shortcut.double() - spec.added.zero) * spec.added.scale
    return y.clamp(spec.clip.low, spec.clip.high)


def on_grid(y: Tensor, grid: Symbols) -> Tensor:
    return (y / grid.scale + grid.zero).clamp(0, grid.top)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("clip", [Clip(), Clip(0.0), Clip(0.0, 3.0)], ids=["", "relu", "relu6"])
def test_convolutions(window: Window, clip: Clip) -> None:
    spec, q = convolution(window, clip=clip), symbols(2, 8, 9, 10)
    slow, quick = reference(spec)(q), kernels(spec)(q)
    assert slow.dtype == quick.dtype == torch.uint8
    assert (slow.int() - quick.int()).abs().max() <= 1
    assert (slow - on_grid(exact(spec, q), TARGET)).abs().max() <= 0.5 + 1e-3
    assert len(slow.unique()) > 20


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_shortcut_is_added_on_a_common_scale(channels_last: bool) -> None:
    window = WINDOWS[0]
    spec = convolution(window, added=SHORTCUT, clip=Clip(0.0))
    q, shortcut = symbols(2, 8, 6, 6), symbols(2, 8, 6, 6, seed=1)
    if channels_last:
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
    before = shortcut.clone()
    slow, quick = reference(spec)(q, shortcut), kernels(spec)(q, shortcut)
    assert torch.equal(shortcut, before)  # nobody's operand is written over
    assert (slow.int() - quick.int()).abs().max() <= 1
    assert (slow - on_grid(exact(spec, q, shortcut), TARGET)).abs().max() <= 0.5 + 1e-3


def test_fewer_bits_than_eight() -> None:
    narrow = Symbols(0.05, 2, top=15)
    spec = convolution(WINDOWS[0], source=replace(SOURCE, top=15), target=narrow)
    q = symbols(2, 8, 6, 6, top=15)
    slow, quick = reference(spec)(q), kernels(spec)(q)
    assert int(slow.max()) == int(quick.max()) == 15
    assert (slow.int() - quick.int()).abs().max() <= 1


@pytest.mark.parametrize("target", [TARGET, None])
@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12)])
def test_linear_layers(target: Symbols | None, shape: tuple[int, ...]) -> None:
    spec = Weighted(weight(7, 12), noise(7), SOURCE, target, clip=Clip(0.0))
    q = symbols(*shape)
    slow, quick = reference(spec)(q), kernels(spec)(q)
    assert slow.shape == quick.shape == (*shape[:-1], 7)
    if target is None:
        torch.testing.assert_close(slow, exact(spec, q).float())
        torch.testing.assert_close(quick, slow)
    else:
        assert (slow.int() - quick.int()).abs().max() <= 1
        assert (slow - on_grid(exact(spec, q), target)).abs().max() <= 0.5 + 1e-3


def test_packed_layers_can_be_copied() -> None:
    spec = convolution(WINDOWS[0])
    layer = kernels(spec)
    assert torch.equal(copy.deepcopy(layer)(symbols(1, 8, 5, 5)), layer(symbols(1, 8, 5, 5)))


def test_addition_average_maximum_and_tables() -> None:
    a, b = symbols(2, 8, 6, 6), symbols(2, 8, 6, 6, seed=1)
    real = lambda q, grid: (q.double() - grid.zero) * grid.scale  # noqa: E731
    added = reference(Addition(SOURCE, SHORTCUT, TARGET, Clip(0.0)))(a, b)
    wanted = on_grid((real(a, SOURCE) + real(b, SHORTCUT)).clamp_min(0), TARGET)
    assert (added - wanted).abs().max() <= 0.5 + 1e-6
    whole = reference(Average(SOURCE, TARGET))(a)
    assert whole.shape == (2, 8, 1, 1)
    assert (whole - on_grid(real(a, SOURCE).mean((2, 3), keepdim=True), TARGET)).abs().max() <= 0.5 + 1e-6
    window = Window((2, 2), (2, 2), (1, 1))
    part = reference(Average(SOURCE, TARGET, window))(a)
    assert (part - on_grid(F.avg_pool2d(real(a, SOURCE), 2, 2, 1), TARGET)).abs().max() <= 0.5 + 1e-6
    table = reference(Requantization(SOURCE, TARGET, Clip(0.0)))(a)
    assert (table - on_grid(real(a, SOURCE).clamp_min(0), TARGET)).abs().max() <= 0.5 + 1e-6
    largest = Maximum(Window((3, 3), (2, 2), (1, 1)))
    assert torch.equal(reference(largest)(a), F.max_pool2d(a.float(), 3, 2, 1).to(torch.uint8))
    assert torch.equal(kernels(largest)(a), reference(largest)(a))


def test_entry_and_exit_are_inverse_up_to_half_a_step() -> None:
    x = noise(4, 5).clamp(-2, 2)
    q = reference(Entry(TARGET))(x)
    assert (reference(Exit(TARGET))(q) - x).abs().max() <= TARGET.scale / 2 + 1e-6
    assert int(reference(Entry(TARGET))(torch.zeros(1))) == TARGET.zero


def test_weights_are_found_again_in_their_values() -> None:
    kept = weight(6, 4, 3, 3)
    kept.symbols[2] = 0
    values = kept.symbols.float() * kept.scale.reshape(-1, 1, 1, 1)
    found = from_values(values)
    assert found is not None
    assert torch.equal(found.symbols.float() * found.scale.reshape(-1, 1, 1, 1), values)
    assert from_values(noise(6, 200)) is None
