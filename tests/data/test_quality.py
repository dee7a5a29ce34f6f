from __future__ import annotations

import math

import pytest
import torch

from plisse.data.frames import Colour, Frame
from plisse.data.quality import luma_psnr, ms_ssim, psnr, rgb_psnr, ssim, yuv_psnr
from plisse.errors import InputError

GENERATOR = torch.Generator().manual_seed(5)
PICTURE = torch.randint(256, (3, 180, 200), generator=GENERATOR).float()
NOISE = torch.randn(3, 180, 200, generator=GENERATOR)


def test_psnr_of_a_known_error() -> None:
    assert psnr(PICTURE, PICTURE + 5) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(PICTURE, PICTURE) == math.inf


def test_halving_the_error_adds_6_decibels() -> None:
    assert psnr(PICTURE, PICTURE + NOISE) - psnr(PICTURE, PICTURE + 2 * NOISE) == pytest.approx(
        6.0206, abs=1e-4
    )


@pytest.mark.parametrize("measure", [ssim, ms_ssim])
def test_similarity_is_one_for_equal_symmetric_and_falls_with_noise(measure: object) -> None:
    assert callable(measure)
    assert measure(PICTURE, PICTURE) == pytest.approx(1.0)
    values = [measure(PICTURE, PICTURE + scale * NOISE) for scale in (4.0, 16.0, 64.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] < 1
    assert measure(PICTURE + NOISE, PICTURE) == pytest.approx(measure(PICTURE, PICTURE + NOISE))


def test_ssim_of_two_flat_pictures_is_the_luminance_term() -> None:
    a, b, c1 = 100.0, 130.0, (0.01 * 255) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(torch.full((20, 20), a), torch.full((20, 20), b)) == pytest.approx(expected)


def test_frames_are_compared_plane_by_plane() -> None:
    def frame(luma: int, blue: int) -> Frame:
        shapes = ((4, 4), (2, 2), (2, 2))
        values = (luma, blue, 128)
        planes = [torch.full(s, v, dtype=torch.uint8) for s, v in zip(shapes, values, strict=True)]
        return Frame((planes[0], planes[1], planes[2]), Colour())

    assert luma_psnr(frame(100, 128), frame(105, 120)) == pytest.approx(20 * math.log10(51))
    assert yuv_psnr(frame(100, 128), frame(105, 120)) == math.inf  # red is equal
    assert rgb_psnr(frame(100, 128), frame(100, 128)) == math.inf


def test_small_and_unequal_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="161 or more"):
        ms_ssim(PICTURE[:, :100], PICTURE[:, :100])
    with pytest.raises(InputError, match="11 or more"):
        ssim(PICTURE[:, :8], PICTURE[:, :8])
    with pytest.raises(InputError, match="the same size"):
        psnr(PICTURE, PICTURE[:1])
