"""Coding of latents in contexts: coefficients of blocks and vectors of motion.

A block of coefficients, by diagonals from low to high, is the number of them up to the last that is not
zero, then these from the last to the first. Contexts are: neighbours of higher frequency in the block; the
frequency; the same coefficient in the blocks to the left, above, and in the frame before. While coding, the
encoder chooses symbols by squared error + lambda bits, with the bits that the model of this moment asks for
(as H.264 encoders' trellis).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from plisse.codec.adaptive import LOGISTIC, LOGIT, code_bit, code_even, code_number, code_size
from plisse.codec.motion import median_of

COSTS = np.array([12.5] + [-math.log2(p / 4096) for p in range(1, 4096)] + [0.0002], np.float64)
"""Bits of a decision of so many 4096ths. For choosing only."""
CLASSES = 6
"""Small luma blocks, large ones, chroma; in key frames and in steps."""
PER_CLASS = 200
MOTION = CLASSES * PER_CLASS
N_CONTEXTS = MOTION + 48
LAST_ROOM = 66
LARGEST = 1 << 20


@njit(cache=True, nogil=True)
def _price(bit, slot, a, b, c, chances, weights):  # type: ignore[no-untyped-def]
    """Bits of a decision as things are."""
    dot = (
        weights[slot, 0] * LOGIT[chances[a * 24 + slot] >> 10]
        + weights[slot, 1] * LOGIT[chances[b * 24 + slot] >> 10]
        + weights[slot, 2] * LOGIT[chances[c * 24 + slot] >> 10]
    ) >> 16
    one = LOGISTIC[min(max(dot, -2047), 2047) + 2048] >> 4
    return COSTS[one] if bit else COSTS[4096 - one]


@njit(cache=True, nogil=True)
def _size_price(size, a, b, c, chances, weights):  # type: ignore[no-untyped-def]
    """Bits of a magnitude of 1 or more, and of its sign."""
    bits, found = 1.0, 1
    while found <= 8:
        more = size > found
        bits += _price(more, found + 1, a, b, c, chances, weights)
        if not more:
            return bits
        found += 1
    return bits + 2 * np.log2(size - 7.5)


@njit(cache=True, nogil=True)
def _bucket(n):  # type: ignore[no-untyped-def]
    """0 for 0, else the number of bits."""
    bits = 0
    while n:
        n >>= 1
        bits += 1
    return bits


@njit(cache=True, nogil=True)
def _last_contexts(lasts, past, row, column, first):  # type: ignore[no-untyped-def]
    left = _bucket(lasts[row, column - 1]) if column else 0
    above = _bucket(lasts[row - 1, column]) if row else 0
    before = _bucket(past[row, column])
    return first + left + above, first + 20 + before, first + 30 + 5 * min(left, 4) + min(above, 4)


@njit(cache=True, nogil=True)
def _code_last(last, a, b, c, state, data, chances, counts, weights):  # type: ignore[no-untyped-def]
    bits, told = 0, _bucket(last)
    while bits < 9 and code_bit(told > bits, bits, a, b, c, state, data, chances, counts, weights):
        bits += 1
    found = min(bits, 1)
    for place in range(bits - 2, -1, -1):
        bit = (last >> place) & 1
        if place == bits - 2:
            bit = code_bit(bit, 8 + bits, a, b, c, state, data, chances, counts, weights)
        elif place == bits - 3:
            bit = code_bit(bit, min(15 + bits, 23), a, b, c, state, data, chances, counts, weights)
        else:
            bit = code_even(bit, state, data)
        found = found << 1 | bit
    return found


@njit(cache=True, nogil=True)
def _last_price(last, a, b, c, chances, weights):  # type: ignore[no-untyped-def]
    told, bits, price = _bucket(last), 0, 0.0
    while bits < 9:
        price += _price(told > bits, bits, a, b, c, chances, weights)
        if told <= bits:
            break
        bits += 1
    return price + max(told - 1, 0) * 0.9


@njit(cache=True, nogil=True)
def _contexts(r, row, column, i, n, order, place_of, last, past, first):  # type: ignore[no-untyped-def]
    """The three contexts of coefficient i (by diagonals) of a block."""
    u, v = order[i] // n, order[i] % n
    near = 0
    if u + 1 < n:
        near += 2 * min(abs(r[row, column, place_of[order[i] + n]]), 4)
    if v + 1 < n:
        near += 2 * min(abs(r[row, column, place_of[order[i] + 1]]), 4)
    if u + 1 < n and v + 1 < n:
        near += min(abs(r[row, column, place_of[order[i] + n + 1]]), 4)
    if u + 2 < n:
        near += min(abs(r[row, column, place_of[order[i] + 2 * n]]), 4)
    if v + 2 < n:
        near += min(abs(r[row, column, place_of[order[i] + 2]]), 4)
    diagonal = u + v
    zone = diagonal if diagonal < 3 else (3 if diagonal < 5 else (4 if diagonal < 8 else 5))
    about = 0
    if column:
        about += min(abs(r[row, column - 1, i]), 3)
    if row:
        about += min(abs(r[row - 1, column, i]), 3)
    earlier = min(abs(past[row, column, i]), 2)
    ahead = last - 1 - i
    spread = 0 if ahead == 0 else (1 if ahead < 3 else (2 if ahead < 8 else 3))
    a = first + 55 + 8 * zone + min((near + 1) >> 1, 7)
    b = first + 103 + min(i, 36)
    c = first + 140 + 12 * min((about + 1) >> 1, 3) + 4 * earlier + spread
    return a, b, c


@njit(cache=True, nogil=True)
def _predicted(q, row, column):  # type: ignore[no-untyped-def]
    """Of the mean of a block of a key frame: left or above, or left + above - both, whichever is in the
    middle."""
    if row == 0:
        return q[row, column - 1, 0] if column else 0
    above = q[row - 1, column, 0]
    if column == 0:
        return above
    left, corner = q[row, column - 1, 0], q[row - 1, column - 1, 0]
    return max(min(left, above), min(max(left, above), left + above - corner))


@njit(cache=True, nogil=True)
def _choose(  # type: ignore[no-untyped-def]
    real, r, row, column, n, order, place_of, lasts, past, past_lasts, first, weight, chances, weights
):
    """Fill r[row, column] for real coefficients [n n] in units of the step, and return how many count."""
    la, lb, lc = _last_contexts(lasts, past_lasts, row, column, first)
    size, top = n * n, 0
    for i in range(size):
        r[row, column, i] = 0
        if abs(real[i]) >= 0.6:
            top = i + 1
    dropped = 0.0  # the energy of what counts no more, above i
    for i in range(top, size):
        dropped += real[i] * real[i]
    chain, last = np.inf, 0
    for i in range(top - 1, -1, -1):
        x = abs(real[i])
        high = int(x + 0.5)
        value, extra = 0, np.inf
        if last:
            a, b, c = _contexts(r, row, column, i, n, order, place_of, last, past, first)
            extra = x * x + weight * _price(0, 0, a, b, c, chances, weights)
            for option in range(max(high - 1, 1), high + 1):
                bits = _price(1, 0, a, b, c, chances, weights) + _size_price(
                    option, a, b, c, chances, weights
                )
                now = (x - option) ** 2 + weight * bits
                if now < extra:
                    extra, value = now, option
            chain += extra
        if high:
            a, b, c = _contexts(r, row, column, i, n, order, place_of, i + 1, past, first)
            for option in range(max(high - 1, 1), high + 1):
                bits = _size_price(option, a, b, c, chances, weights) + _last_price(
                    i + 1, la, lb, lc, chances, weights
                )
                now = dropped + (x - option) ** 2 + weight * bits
                if now < chain:
                    chain, last, value = now, i + 1, option
                    for k in range(i + 1, top):
                        r[row, column, k] = 0
        if last:
            r[row, column, i] = value if real[i] >= 0 else -value
        dropped += x * x
    if chain < dropped + weight * _last_price(0, la, lb, lc, chances, weights):
        return last
    for i in range(size):
        r[row, column, i] = 0
    return 0


@njit(cache=True, nogil=True)
def code_blocks(  # type: ignore[no-untyped-def]
    real,
    q,
    lasts,
    past,
    past_lasts,
    order,
    place_of,
    key,
    first,
    weight,
    state,
    data,
    chances,
    counts,
    weights,
):
    """Code q [R, C, n n], all blocks of a plane; when writing, q is first chosen for `real` coefficients.

    lasts [R, C] is filled with how many coefficients of each block count; past and past_lasts: of the frame
    before.
    """
    rows, columns, size = q.shape
    n = int(np.sqrt(size) + 0.5)
    r, shifted = np.zeros_like(q), np.zeros(size, np.float64)
    for row in range(rows):
        for column in range(columns):
            mean = _predicted(q, row, column) if key else 0
            last = 0
            if state[0]:
                shifted[:] = real[row, column]
                shifted[0] -= mean
                last = _choose(
                    shifted,
                    r,
                    row,
                    column,
                    n,
                    order,
                    place_of,
                    lasts,
                    past,
                    past_lasts,
                    first,
                    weight,
                    chances,
                    weights,
                )
            a, b, c = _last_contexts(lasts, past_lasts, row, column, first)
            last = min(_code_last(last, a, b, c, state, data, chances, counts, weights), size)
            lasts[row, column] = last
            for i in range(last - 1, -1, -1):
                a, b, c = _contexts(r, row, column, i, n, order, place_of, last, past, first)
                value = r[row, column, i]
                if i < last - 1 and not code_bit(
                    value != 0, 0, a, b, c, state, data, chances, counts, weights
                ):
                    continue
                negative = code_even(value < 0, state, data)
                found = code_size(abs(value), a, b, c, state, data, chances, counts, weights)
                r[row, column, i] = -found if negative else found
            q[row, column] = r[row, column]
            q[row, column, 0] += mean


@njit(cache=True, nogil=True)
def code_vectors(vectors, split, past, first, state, data, chances, counts, weights):  # type: ignore[no-untyped-def]
    """Code motion [2R, 2C, 2] and split [R, C]. Differences to the median; contexts: those of the
    neighbours, and whether the frame before moved as predicted there."""
    off = np.zeros(vectors.shape[:2], np.int64)
    for row in range(split.shape[0]):
        for column in range(split.shape[1]):
            left = split[row, column - 1] if column else 0
            above = split[row - 1, column] if row else 0
            at = first + left + above
            cut = code_bit(split[row, column], 0, at, at, first + 3, state, data, chances, counts, weights)
            split[row, column] = cut
            for k in range(4 if cut else 1):
                i, j = 2 * row + (k >> 1), 2 * column + (k & 1)
                sizes = 0
                for axis in range(2):
                    guess = median_of(vectors, i, j, axis)
                    around = (off[i, j - 1] if j else 0) + (off[i - 1, j] if i else 0)
                    a = first + 4 + 6 * axis + min(_bucket(around), 5)
                    b = first + 16 + 5 * axis + min(_bucket(abs(past[i, j, axis] - guess)), 4)
                    c = first + 26 + 8 * axis + 4 * cut + min(_bucket(sizes), 3)
                    d = code_number(
                        vectors[i, j, axis] - guess, a, b, c, state, data, chances, counts, weights
                    )
                    vectors[i, j, axis] = min(max(guess + d, -32768), 32767)
                    sizes += abs(d)
                off[i, j] = sizes
            if not cut:
                for k in range(1, 4):
                    i, j = 2 * row + (k >> 1), 2 * column + (k & 1)
                    vectors[i, j, 0], vectors[i, j, 1] = (
                        vectors[2 * row, 2 * column, 0],
                        vectors[2 * row, 2 * column, 1],
                    )
                    off[i, j] = off[2 * row, 2 * column]
