"""Layers that hang on others: rotations and intervals, and the files that hold them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.core.edits import difference
from plisse.core.inputinterval import InputInterval
from plisse.core.origin import Origin, with_origin
from plisse.core.rotation import InputRotation, OutputRotation, can_rotate, hadamard
from plisse.errors import InputError

WIDTHS = [1, 2, 3, 8, 12, 10, 96]


@pytest.mark.parametrize("width", WIDTHS)
def test_rotations_keep_energy_and_are_undone(width: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(7, width)
    there, back = InputRotation(width, 5), OutputRotation(width, 5)
    assert torch.allclose(there(values).square().sum(1), values.square().sum(1), rtol=1e-4)
    assert torch.allclose(back(there(values)), values, atol=1e-5)
    if width > 2:
        assert not torch.allclose(InputRotation(width, 6)(values), there(values), atol=1e-3)


def test_rotations_spread_one_large_value() -> None:
    one = torch.zeros(1, 64)
    one[0, 7] = 8.0
    assert InputRotation(64)(one).abs().flatten().tolist() == pytest.approx([1.0] * 64)
    assert torch.allclose(hadamard(hadamard(one)), one, atol=1e-6)


def test_rotations_along_channels_of_images_commute_with_places() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 6, 3, 4)
    turn = InputRotation(6, 1, axis=1)
    assert torch.allclose(turn(images)[:, :, 1, 2], InputRotation(6, 1)(images[:, :, 1, 2]), atol=1e-6)


@pytest.mark.parametrize("width", [0, -4, 1 << 17, 2053])
def test_widths_without_rotation_are_refused(width: int) -> None:
    assert not can_rotate(width)
    with pytest.raises(InputError):
        InputRotation(width)


@pytest.mark.parametrize("kind", ["signed", "unsigned", "free"])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_an_interval_has_its_levels_at_even_distances(bits: int, kind: str) -> None:
    interval = InputInterval(bits, kind)
    out = interval(torch.linspace(-9, 9, 401)).detach().unique()
    assert len(out) == 2**bits
    assert torch.allclose(out.diff(), torch.full((2**bits - 1,), 2.0))
    assert float(out[0]) == (-float(2**bits - 1) if kind == "signed" else 0.0)


def test_a_sign_has_the_gradient_of_a_hard_tanh_and_a_shift_per_channel() -> None:
    interval = InputInterval(1, "signed", channels=2, axis=1)
    with torch.no_grad():
        interval.shift.copy_(torch.tensor([0.0, 5.0]))
    values = torch.tensor([[0.5, 5.5], [-0.5, 4.5], [1.5, 3.0]], requires_grad=True)
    out = interval(values)
    assert out.tolist() == [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]
    out.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    assert interval.shift.grad is not None
    assert interval.shift.grad.tolist() == [-2.0, -2.0]


@pytest.mark.parametrize(
    "hang",
    [
        lambda layer: InputInterval(1, "free", 4, -1).attach(layer),
        lambda layer: (InputRotation(4, 3).attach(layer), OutputRotation(6, 9).attach(layer)),
    ],
)
def test_files_hold_what_hangs_on_a_layer(hang) -> None:
    torch.manual_seed(0)
    skeleton = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    model = with_origin(copy.deepcopy(skeleton), Origin("builtin", "small", {})).eval()
    hang(model[0])
    values = torch.randn(5, 4)
    found = modelfile.loads(modelfile.dumps(model, skeleton), lambda _: copy.deepcopy(skeleton))
    assert difference(skeleton, found) == difference(skeleton, model)
    assert torch.equal(found(values), model(values))
    assert torch.equal(copy.deepcopy(found)(values), model(values))


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 9}, {"bits": 2, "kind": "odd"}])
def test_bad_intervals_are_refused(wrong) -> None:
    with pytest.raises(InputError):
        InputInterval(**wrong)
