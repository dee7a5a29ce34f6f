"""How near a picture is to its original: PSNR, SSIM and MS-SSIM."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from plisse.data.frames import Frame
from plisse.errors import InputError

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales, finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""


def psnr(a: Tensor, b: Tensor, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mean squared difference), in dB; inf for equal tensors.

    >>> psnr(torch.zeros(2, 2), torch.full((2, 2), 255.0))
    0.0
    """
    error = mean_square(a, b)
    return math.inf if error == 0 else 10 * math.log10(peak * peak / error)


def mean_square(a: Tensor, b: Tensor) -> float:
    """Mean squared difference. Raises InputError for tensors of other shapes."""
    if a.shape != b.shape or a.numel() == 0:
        raise InputError(f"pictures of {tuple(a.shape)} and {tuple(b.shape)}", expected="the same size")
    return float((a.double() - b.double()).square().mean())


def luma_psnr(a: Frame, b: Frame) -> float:
    """PSNR of the first planes, in dB."""
    return psnr(a.planes[0], b.planes[0])


def rgb_psnr(a: Frame, b: Frame) -> float:
    """PSNR over the three colours as shown, 8 bits each, in dB."""
    return psnr(a.rgb(), b.rgb())


def yuv_psnr(a: Frame, b: Frame) -> float:
    """(6 Y + U + V) / 8 of the PSNR of the planes, in dB: what video codecs are usually compared by."""
    y, u, v = (psnr(one, other) for one, other in zip(a.planes, b.planes, strict=True))
    return (6 * y + u + v) / 8


def ssim(a: Tensor, b: Tensor, peak: float = 255.0) -> float:
    """Structural similarity of pictures [H, W] or [C, H, W], 1 for equal ones: mean over windows of 11 x 11
    pixels with Gaussian weights, sigma 1.5, that lie inside (Wang et al. 2004, section III).

    Raises InputError for pictures of less than 11 pixels on a side.
    """
    whole, _ = _similarity(*_planes(a, b), peak)
    return float(whole.mean())


def ms_ssim(a: Tensor, b: Tensor, peak: float = 255.0) -> float:
    """SSIM at five scales, each half of the one before, as a weighted geometric mean (Wang, Simoncelli and
    Bovik 2003). Negative terms count as zero.

    Raises InputError for pictures of less than 161 pixels on a side, whose fifth scale has no window.
    """
    x, y = _planes(a, b)
    need = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
    if min(x.shape[-2:]) < need:
        raise InputError(
            f"a picture of {tuple(x.shape[-2:])}", expected=f"{need} or more a side", hint="ssim"
        )
    result = torch.ones(x.shape[0], dtype=x.dtype)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        whole, contrast = _similarity(x, y, peak)
        term = whole if scale == len(SCALE_WEIGHTS) - 1 else contrast
        result = result * term.clamp_min(0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return float(result.mean())


def _planes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """[C, 1, H, W] in float64."""
    if a.shape != b.shape or a.ndim not in (2, 3):
        raise InputError(f"pictures of {tuple(a.shape)} and {tuple(b.shape)}", expected="[H, W] or [C, H, W]")
    if min(a.shape[-2:]) < WINDOW:
        raise InputError(f"a picture of {tuple(a.shape[-2:])}", expected=f"{WINDOW} or more pixels a side")
    shape = (-1, 1, *a.shape[-2:])
    return a.double().reshape(shape), b.double().reshape(shape)


def _similarity(x: Tensor, y: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor for each picture [C], means over windows."""
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    mx, my = _blur(x), _blur(y)
    vx, vy, cov = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
    contrast = (2 * cov + c2) / (vx + vy + c2)
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    return (luminance * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over windows, along rows and columns; [C, 1, H - 10, W - 10]."""
    taps = torch.exp(-(torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2).square() / (2 * SIGMA**2))
    taps = taps / taps.sum()
    return F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
