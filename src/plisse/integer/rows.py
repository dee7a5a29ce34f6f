"""Rounding rows of floating point to integers, and sums of integers back, each in one pass over memory.

What the kernels of oneDNN leave to do for layers whose input is rounded at run time. Rounding as a chain of
torch's operators cost six times as much as one loop compiled by numba, whose rows are short enough for one
thread. Sums are scaled by one operator of torch, on all threads and over the sums themselves: a loop that
wrote them elsewhere took four times as long.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from plisse.core.dynamicquant import SMALLEST

SIZE = np.uint32(0x7FFFFFFF)  # the bits of a float32 without its sign, in the order of |x|, NaN the largest
HALVES = np.float32(
    1.5 * 2**23
)  # added to |x| < 2^22 it rounds, halves to even; the low bits are the integer
FLOOR = np.float32(SMALLEST)
BITS = np.dtype(np.uint32)
CHUNK = 4096
TOPS = {bits: np.float32(2 ** (bits - 1) - 1) for bits in range(2, 9)}


def rounded_rows(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Signed symbols round(x / s) of each row of `x` and the scales s = max|x| / (2^(bits-1) - 1).

    x: float32 [R, D]; bits: 2 to 8. Returns int8 [R, D] and float32 [R, 1]. A row with NaN has the scale NaN.

    >>> rounded_rows(torch.tensor([[0.5, -1.27], [0.0, 0.0]]), 8)[0].tolist()
    [[50, -127], [0, 0]]
    """
    values = x.detach().contiguous().numpy()
    symbols, scale = np.empty(values.shape, np.int8), np.empty((len(values), 1), np.float32)
    _round(values, values.view(BITS), TOPS[bits], symbols, scale, scale.view(BITS))
    return torch.from_numpy(symbols), torch.from_numpy(scale)


def rounded_values(x: Tensor, scale: float, zero: int, top: int) -> Tensor:
    """Symbols round(x / scale) + zero, clipped to [0, top]: uint8 of the shape of `x`, images [N, C, H, W] in
    channels-last memory order, which integer convolutions read.

    >>> rounded_values(torch.tensor([0.0, 0.26, -9.0, 99.0]), 0.1, 128, 255).tolist()
    [128, 131, 38, 255]
    """
    grid = np.float32(1.0 / scale), np.float32(-zero), np.float32(top - zero)
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    values = x.detach().permute(0, 2, 3, 1) if last else x.detach().contiguous()
    if x.dim() != 4 or last:
        symbols = torch.empty(values.shape, dtype=torch.uint8)
        _round_all(values.numpy().reshape(-1), *grid, symbols.numpy().reshape(-1))
    else:
        n, c, h, w = x.shape
        symbols = torch.empty((n, h, w, c), dtype=torch.uint8)
        _round_images(values.numpy(), *grid, symbols.numpy())
    return symbols.permute(0, 3, 1, 2) if x.dim() == 4 else symbols


def rescale(total: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """total * scale + bias, written over `total`.

    total: float32 [R, C]; scale: [R or 1, 1]; bias: [C].
    """
    return torch.addcmul(bias, total, scale, out=total)


@njit(cache=True, nogil=True)
def _round(values, bits, top, symbols, scale, scale_bits):  # type: ignore[no-untyped-def]
    rows, columns = values.shape
    shifted = np.empty(columns, np.float32)
    shifted_bits = shifted.view(np.int32)
    for i in range(rows):
        largest = np.uint32(0)
        for j in range(columns):
            largest = max(largest, bits[i, j] & SIZE)
        scale_bits[i, 0] = largest
        step = scale[i, 0] / top
        if step < FLOOR:  # and not where it is NaN
            step = FLOOR
        scale[i, 0] = step
        inverse = np.float32(1.0) / step
        for j in range(columns):
            shifted[j] = values[i, j] * inverse + HALVES
        for j in range(columns):
            symbols[i, j] = shifted_bits[j]


@njit(cache=True, nogil=True)
def _shift(values, inverse, low, high, shifted):  # type: ignore[no-untyped-def]
    """What has the symbols of `values` in its low bits."""
    for j in range(len(values)):
        value = values[j] * inverse
        value = value if value > low else low
        shifted[j] = (value if value < high else high) - low + HALVES


@njit(cache=True, nogil=True)
def _round_all(values, inverse, low, high, symbols):  # type: ignore[no-untyped-def]
    shifted = np.empty(CHUNK, np.float32)
    bits = shifted.view(np.int32)
    for start in range(0, len(values), CHUNK):
        part, out = values[start : start + CHUNK], symbols[start : start + CHUNK]
        _shift(part, inverse, low, high, shifted)
        for j in range(len(out)):
            out[j] = bits[j]


@njit(cache=True, nogil=True)
def _round_images(values, inverse, low, high, symbols):  # type: ignore[no-untyped-def]
    n, c, h, w = values.shape
    shifted = np.empty(w, np.float32)
    bits = shifted.view(np.int32)
    for i in range(n):
        for y in range(h):
            for k in range(c):
                _shift(values[i, k, y], inverse, low, high, shifted)
                line = symbols[i, y, :, k]
                for x in range(w):
                    line[x] = bits[x]
