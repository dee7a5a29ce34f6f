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

HALF_TABLE = 1 << 10  # symbols with a rate of their own on each side; further ones cost as much as the last
LIMIT = 1 << 30
ROUNDS = 3
CHUNK, FEWEST_CHUNKS, MOST_CHUNKS = 256, 16, 64


def rate_aware_round(values: np.ndarray, scale: float | np.ndarray, rate_weight: float) -> np.ndarray:
    """Symbols k that minimise (value/scale - k)² + rate_weight · bits(k).

    values: finite floats, any shape; scale: > 0, broadcasts against values; rate_weight: 0 is plain rounding,
    near 0.1 the trade is optimal at middle and high rate. Returns int32 of the shape of values.

    Raises WeightsError for values that are not finite, InputError for a scale that is not positive.

    >>> rate_aware_round(np.array([0.1, 0.6, 0.2, -0.1, 2.2]), 1.0, 0.2)
    array([0, 0, 0, 0, 2], dtype=int32)
    """
    if np.size(scale) == 1:
        check_scale(scale)
        flat, step = (
            np.ascontiguousarray(values, np.float32).reshape(-1),
            np.float32(np.asarray(scale).item()),
        )
    else:
        flat, step = in_steps(values, scale, LIMIT).reshape(-1), np.float32(1)
    rates = np.zeros(2 * HALF_TABLE + 1, np.float32)
    if rate_weight > 0 and flat.size:
        rates = _estimated_rates(chunks_of(flat), step, np.float32(rate_weight))
    symbols = np.empty(flat.size, np.int32)
    if not _round_all(flat, step, rates, symbols):
        raise WeightsError("a NaN or infinity to quantize", expected="finite values")
    return symbols.reshape(np.shape(values))


def check_scale(scale: float | np.ndarray) -> None:
    """Raises InputError unless all scales are positive and finite."""
    if not (np.isfinite(scale).all() and np.greater(scale, 0).all()):
        raise InputError("a scale that is not positive and finite", expected="positive numbers")


def in_steps(values: np.ndarray, scale: float | np.ndarray, limit: int) -> np.ndarray:
    """values / scale in float32, cut to -limit ... limit; raises as `rate_aware_round` does."""
    check_scale(scale)
    if not np.isfinite(values).all():
        raise WeightsError("a NaN or infinity to quantize", expected="finite values")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scaled = np.ascontiguousarray(values, np.float32) / np.asarray(scale, np.float32)
    return np.clip(scaled, np.float32(-limit), np.float32(limit), out=scaled)


@njit(cache=True, nogil=True)
def code_lengths(counts):  # type: ignore[no-untyped-def]
    """Bits of an ideal order-0 code for each symbol; one that was never seen counts as a quarter.

    >>> code_lengths(np.array([2.0, 1.0, 1.0]))
    array([1., 2., 2.])
    """
    bits, total = np.empty(counts.size), np.log2(max(float(counts.sum()), 1.0))
    for i in range(counts.size):
        bits[i] = total - np.log2(float(counts[i])) if counts[i] > 0.25 else total + 2
    return bits


def chunks_of(flat: np.ndarray) -> np.ndarray:
    """Evenly spread chunks of a long array, to estimate rates from; a short one whole."""
    count = min(max(flat.size >> 13, FEWEST_CHUNKS), MOST_CHUNKS)
    if flat.size <= CHUNK * count:
        return flat
    starts = np.linspace(0, flat.size - CHUNK, count).astype(np.int64)
    return flat[starts[:, None] + np.arange(CHUNK)].reshape(-1)


@njit(cache=True, nogil=True)
def histogram(values, scale, shift, half):  # type: ignore[no-untyped-def]
    """How many values have floor(value / scale + shift) = k, for k = -half ... half; the ends take more."""
    counts = np.zeros(2 * half + 1, np.int64)
    for i in range(values.size):
        place = np.floor(values[i] / scale + shift) + half
        place = place if place > 0.0 else 0.0
        counts[np.uint64(place if place < 2.0 * half else 2.0 * half)] += 1
    return counts


@njit(cache=True, nogil=True)
def _estimated_rates(sample, scale, rate_weight):  # type: ignore[no-untyped-def]
    """rate_weight · bits of the symbols -HALF_TABLE ... HALF_TABLE, after repeated rounding of a sample."""
    counts, symbols = histogram(sample, scale, 0.5, HALF_TABLE), np.empty(sample.size, np.int32)
    for _ in range(ROUNDS):
        rates = (rate_weight * code_lengths(counts)).astype(np.float32)
        _round_all(sample, scale, rates, symbols)
        counts = histogram(symbols, 1.0, 0.0, HALF_TABLE)
    return (rate_weight * code_lengths(counts)).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _round_all(values, scale, rates, symbols):  # type: ignore[no-untyped-def]
    """Symbols of flat float32 values; False where one is not finite. rates: -HALF_TABLE ... HALF_TABLE.

    Between `low` and `high` zero is certain to be the best of zero and its neighbours. Where this is so for
    most values, it is looked at first.
    """
    half, one = rates.size // 2, np.float32(1)
    high = scale * np.float32(0.9999) * min((one + rates[half + 1] - rates[half]) / 2, one)
    low = -scale * np.float32(0.9999) * min((one + rates[half - 1] - rates[half]) / 2, one)
    finite = True
    if _mostly_between(values, low, high):
        for i in range(values.size):
            symbols[i] = 0
            if not low < values[i] < high:
                finite &= abs(values[i]) < np.inf
                symbols[i] = _round_one(values[i] / scale, rates, half)
    else:
        for i in range(values.size):
            finite &= abs(values[i]) < np.inf
            symbols[i] = _round_one(values[i] / scale, rates, half)
    return finite


@njit(cache=True, nogil=True)
def _mostly_between(values, low, high):  # type: ignore[no-untyped-def]
    """Whether this holds for 5 in 6 of about a thousand values."""
    step, inside, looked_at = max(values.size >> 10, 1), 0, 0
    for i in range(0, values.size, step):
        inside += low < values[i] < high
        looked_at += 1
    return 6 * inside > 5 * looked_at


@njit(cache=True, nogil=True)
def _round_one(z, rates, half):  # type: ignore[no-untyped-def]
    one, limit = np.float32(1), np.float32(LIMIT)
    z = z if z < limit else limit
    z = z if z > -limit else -limit
    below = np.floor(z)
    rest = z - below
    place = np.int64(below) + half
    place = place if place > 0 else 0
    row = np.uint64(place if place < 2 * half else 2 * half - 1)
    down = rest * rest + rates[row]
    up = (rest - one) * (rest - one) + rates[row + np.uint64(1)]
    best = below + one if up < down else below
    least = up if up < down else down
    return np.int32(best if least <= z * z + rates[half] else np.float32(0))
