"""Rounding to a uniform grid with an eye on the rate: a symbol is worth its error plus its bits.

A value goes to the neighbour below, the one above, or zero, whichever costs least. Bits come from the symbols
themselves, so the rule is applied a few times (entropy-constrained scalar quantization: Chou, Lookabaugh and
Gray, Entropy-constrained vector quantization, 1989; Sullivan, Efficient scalar quantization of exponential
and Laplacian random variables, 1996).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from plisse.errors import InputError, WeightsError

HALF_TABLE = 1 << 12  # symbols with a rate of their own on each side; further ones cost as much as the last
LIMIT = 1 << 30
ROUNDS = 4
SAMPLE_CHUNK, SAMPLE_CHUNKS = 4096, 32
PRIOR_SHARE = 0.02


def rate_aware_round(values: np.ndarray, scale: float | np.ndarray, rate_weight: float) -> np.ndarray:
    """Symbols k that minimise (value/scale - k)² + rate_weight · bits(k).

    values: finite floats, any shape; scale: > 0, broadcasts against values; rate_weight: 0 is plain rounding,
    near 0.1 the trade is optimal at middle and high rate. Returns int32 of the shape of values.

    Raises WeightsError for values that are not finite, InputError for a scale that is not positive.

    >>> rate_aware_round(np.array([0.1, 0.6, 0.2, -0.1, 2.2]), 1.0, 0.2)
    array([0, 0, 0, 0, 2], dtype=int32)
    """
    scaled = in_steps(values, scale, LIMIT)
    rates = np.zeros(2 * HALF_TABLE + 1, np.float32)
    if rate_weight > 0 and scaled.size:
        rates = _estimated_rates(scaled.reshape(-1), rate_weight)
    return _rounded(scaled.reshape(-1), rates).reshape(scaled.shape)


def in_steps(values: np.ndarray, scale: float | np.ndarray, limit: int) -> np.ndarray:
    """values / scale in float32, cut to -limit ... limit; raises as `rate_aware_round` does."""
    if not (np.isfinite(scale).all() and np.greater(scale, 0).all()):
        raise InputError("a scale that is not positive and finite", expected="positive numbers")
    if not np.isfinite(values).all():
        raise WeightsError("a NaN or infinity to quantize", expected="finite values")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scaled = np.ascontiguousarray(values, np.float32) / np.asarray(scale, np.float32)
    return np.clip(scaled, np.float32(-limit), np.float32(limit), out=scaled)


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of an ideal order-0 code for each symbol; one that was never seen counts as a quarter.

    >>> code_lengths(np.array([2.0, 1.0, 1.0]))
    array([1., 2., 2.])
    """
    return np.log2(max(float(counts.sum()), 1.0) / np.maximum(counts, 0.25))


def chunks_of(flat: np.ndarray) -> np.ndarray:
    """Evenly spread chunks of a long array, to estimate rates from; a short one whole."""
    if flat.size <= SAMPLE_CHUNK * SAMPLE_CHUNKS:
        return flat
    starts = np.linspace(0, flat.size - SAMPLE_CHUNK, SAMPLE_CHUNKS).astype(np.int64)
    return np.concatenate([flat[start : start + SAMPLE_CHUNK] for start in starts])


@njit(cache=True, nogil=True)
def histogram(values: np.ndarray, shift: float, half: int) -> np.ndarray:
    """How many values have floor(value + shift) = k, for k = -half ... half; the ends take the rest."""
    counts = np.zeros(2 * half + 1, np.int64)
    for i in range(values.size):
        place = np.floor(values[i] + shift) + half
        place = place if place > 0.0 else 0.0
        counts[np.uint64(place if place < 2.0 * half else 2.0 * half)] += 1
    return counts


def _estimated_rates(flat: np.ndarray, rate_weight: float) -> np.ndarray:
    """rate_weight · bits of the symbols -HALF_TABLE ... HALF_TABLE, after repeated rounding of a sample."""
    prior = histogram(flat, 0.5, HALF_TABLE) / flat.size
    sample = chunks_of(flat)
    share = PRIOR_SHARE if sample.size < flat.size else 0.0
    counts = prior * flat.size
    for _ in range(ROUNDS - 1):
        symbols = _rounded(sample, (rate_weight * code_lengths(counts)).astype(np.float32))
        counts = histogram(symbols, 0.0, HALF_TABLE) + share * sample.size * prior
    return (rate_weight * code_lengths(counts)).astype(np.float32)


@njit(cache=True, nogil=True)
def _rounded(values: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Flat float32 values to symbols; rates are those of the symbols -HALF_TABLE ... HALF_TABLE."""
    symbols = np.empty(values.size, np.int32)
    half = rates.size // 2
    of_zero = rates[half]
    one = np.float32(1)
    for i in range(values.size):
        z = values[i]
        below = np.floor(z)
        rest = z - below
        place = int(below) + half
        place = place if place > 0 else 0
        row = np.uint64(place if place < 2 * half else 2 * half - 1)
        low = rest * rest + rates[row]
        high = (rest - one) * (rest - one) + rates[row + np.uint64(1)]
        best = below + one if high < low else below
        least = high if high < low else low
        symbols[i] = np.int32(best if least <= z * z + of_zero else np.float32(0))
    return symbols
