"""Rounding rows of floating point to integers, and sums of integers back, each in one pass over memory.

What the kernels of oneDNN leave to do for layers whose input is rounded at run time. As chains of torch's
operators it cost half as much as the products themselves, and with two threads more, since each operator
waits for both. Compiled by numba; rows are short enough for one thread.
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


def rescale(total: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """total * scale + bias, written over `total`. total: float32 [R, C]; scale: [R or 1, 1]; bias: [C]."""
    _rescale(total.numpy(), scale.numpy(), bias.numpy())
    return total


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
def _rescale(total, scale, bias):  # type: ignore[no-untyped-def]
    rows, columns = total.shape
    step = 1 if len(scale) > 1 else 0
    for i in range(rows):
        factor = scale[i * step, 0]
        for j in range(columns):
            total[i, j] = total[i, j] * factor + bias[j]
