"""Fixed-point powers and logarithms that every machine computes alike, and lengths of codes."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from plisse.bitstream.ans import TOTAL_BITS

LOG_UNIT = 32
"""Fixed-point logarithms count in units of 1/32 octave."""
EXP2 = np.array(
    [math.isqrt(math.isqrt(math.isqrt(math.isqrt(math.isqrt(1 << (512 + i)))))) for i in range(LOG_UNIT)],
    np.int64,
)
"""floor(2^16 * 2^(i/32)) for i = 0..31, by exact integer roots."""
LOG2 = np.array([0] + [(x**LOG_UNIT).bit_length() - 1 for x in range(1, 4096)], np.int32)
"""floor(32 log2(x)) for x = 0..4095 (0 for x = 0), by exact integer powers."""


def code_length(counts: np.ndarray, table: np.ndarray) -> float:
    """Bits that symbols with these counts cost under a table. For choosing only: uses floating point."""
    return float((counts * (TOTAL_BITS - np.log2(table))).sum())


@njit(cache=True, nogil=True)
def histogram(values, low, size, step):  # type: ignore[no-untyped-def]
    """How often each of the numbers low, low + 1, ... occurs in every step-th value, int64 [size]."""
    even, odd = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for i in range(0, values.size - step, 2 * step):
        even[np.uint64(values[i] - low)] += 1
        odd[np.uint64(values[i + step] - low)] += 1
    if (values.size - 1) // step % 2 == 0:
        even[np.uint64(values[(values.size - 1) // step * step] - low)] += 1
    return even + odd


@njit(cache=True, nogil=True)
def entropy_bits(counts):  # type: ignore[no-untyped-def]
    """Bits of an ideal order-0 code for symbols with these counts. For choosing only."""
    bits, total = 0.0, counts.sum()
    for n in counts:
        if n:
            bits += n * np.log2(total / n)
    return bits
