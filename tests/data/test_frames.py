from __future__ import annotations

import pytest
import torch

from plisse.data.frames import MATRICES, Colour, Frame
from plisse.errors import InputError

GENERATOR = torch.Generator().manual_seed(3)
COLOURS = [Colour(matrix, full) for matrix in MATRICES for full in (False, True)]


def noise(height: int = 9, width: int = 13) -> torch.Tensor:
    return torch.randint(256, (height, width, 3), generator=GENERATOR).to(torch.uint8)


@pytest.mark.parametrize("colour", COLOURS, ids=str)
def test_rgb_comes_back_from_whole_chroma(colour: Colour) -> None:
    rgb = noise()
    frame = Frame.from_rgb(rgb, colour, "444")
    assert (frame.rgb().int() - rgb.int()).abs().max() <= (1 if colour.full else 2)


@pytest.mark.parametrize("colour", COLOURS, ids=str)
@pytest.mark.parametrize("value", [0, 51, 255])
def test_greys_have_the_luma_of_the_standard_and_no_colour(colour: Colour, value: int) -> None:
    frame = Frame.from_rgb(torch.full((4, 6, 3), value, dtype=torch.uint8), colour, "420")
    offset, span = colour.luma
    assert torch.all(frame.planes[0] == round(offset + span * value / 255))
    assert torch.all(frame.planes[1] == 128)
    assert torch.all(frame.planes[2] == 128)
    assert (frame.rgb().int() - value).abs().max() <= 1


def test_pure_red_of_bt601_as_in_the_standard() -> None:
    red = torch.zeros(2, 2, 3, dtype=torch.uint8)
    red[..., 0] = 255
    assert [int(p[0, 0]) for p in Frame.from_rgb(red, Colour("bt601"), "444").planes] == [81, 90, 240]


def test_halving_chroma_keeps_luma_and_flat_colour() -> None:
    flat = Frame.from_rgb(torch.full((5, 7, 3), 90, dtype=torch.uint8), Colour(), "444")
    small = flat.with_chroma("420")
    assert torch.equal(small.planes[0], flat.planes[0])
    assert small.planes[1].shape == (3, 4)
    assert torch.equal(small.with_chroma("444").planes[1], flat.planes[1])
    assert small.with_chroma("420") is small


@pytest.mark.parametrize(
    "planes",
    [
        [(4, 4), (2, 2), (3, 2)],
        [(4, 4), (1, 2), (1, 2)],
        [(0, 4), (0, 2), (0, 2)],
    ],
)
def test_planes_that_do_not_fit_are_refused(planes: list[tuple[int, int]]) -> None:
    with pytest.raises(InputError):
        Frame(tuple(torch.zeros(shape, dtype=torch.uint8) for shape in planes))  # type: ignore[arg-type]


def test_floats_and_unknown_matrices_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        Frame.from_rgb(torch.zeros(4, 4, 3), Colour())
    with pytest.raises(InputError, match="bt2100"):
        Colour("bt2100")
