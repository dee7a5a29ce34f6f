"""The encoder's choice of offsets: how much larger than the mean each row, channel and place is, in classes.

A unit with n tokens of magnitudes that sum to s costs about s log2(1 + 1/m) + n log2(1 + m) bits in a class
of mean magnitude m. Each takes the class where this plus the bits of the offset itself is least.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from plisse.bitstream.contexts import following

SAMPLE = 256
"""Widths are compared on about this many rows, channels and places."""


@njit(cache=True, nogil=True)
def magnitude_sums(values, centre, n_rows, n_channels, n_places):  # type: ignore[no-untyped-def]
    """Sums of min(|value - centre|, 255) by row, channel and place."""
    width = n_channels * n_places
    rows, columns = np.empty(n_rows, np.int64), np.zeros(width, np.int64)
    sizes = np.empty(width, np.int32)
    for r in range(n_rows):
        total = np.int64(0)
        first = r * width
        for c in range(width):
            sizes[c] = min(abs(values[first + c] - centre), 255)
        for c in range(width):
            total += sizes[c]
            columns[c] += sizes[c]
        rows[r] = total
    if n_places == 1:
        return rows, columns, np.full(1, rows.sum())
    channels, places = np.zeros(n_channels, np.int64), np.zeros(n_places, np.int64)
    for c in range(n_channels):
        for k in range(n_places):
            channels[c] += columns[c * n_places + k]
            places[k] += columns[c * n_places + k]
    return rows, channels, places


@njit(cache=True, nogil=True)
def offsets_of(sums, count, width, rounds):  # type: ignore[no-untyped-def]
    """Offsets -12 to 11 of units with these sums of magnitudes over `count` tokens each; bits that they save,
    less their own."""
    n = sums.size
    mean = max(float(sums.sum()) / (n * count), 1e-3)
    per_sum, per_token = np.empty(24), np.empty(24)
    for q in range(24):
        m = mean * 2.0 ** ((q - 12) * 2.0**width / 32)
        per_sum[q], per_token[q] = np.log2(1 + 1 / m), count * np.log2(1 + m)
    side = np.abs(np.arange(24) - 12.0) + 1
    out, saved = np.zeros(n, np.int32), 0.0
    if n == 1:
        return out, 0.0
    for _ in range(rounds):
        shares, saved = np.zeros(24), 0.0
        for u in range(n):
            s = float(sums[u])
            near = 12 + round(np.log2(max(s, 0.5) / (count * mean)) * 32 / 2.0**width)
            best, least = 12, s * per_sum[12] + per_token[12] + side[12]
            zero = least - side[12]
            for q in range(max(min(near - 2, 23), 0), min(max(near + 3, 1), 24)):
                bits = s * per_sum[q] + per_token[q] + side[q]
                if bits < least:
                    best, least = q, bits
            out[u] = best - 12
            shares[best] += 1
            saved += zero - least + side[best]
        for q in range(24):
            side[q] = np.log2(n / max(shares[q], 0.25))
        saved -= (shares * side).sum() + 4.0 * (shares > 0).sum() + 24
    if saved <= 0:
        out[:] = 0
        return out, 0.0
    return out, saved


@njit(cache=True, nogil=True)
def choose(sums, counts):  # type: ignore[no-untyped-def]
    """The width of classes and the offsets of rows, channels and places that save most, and how many bits."""
    best, chosen = -1.0, 4
    for width in (4, 3, 5):
        saved = 0.0
        for unit in range(3):
            step = 1 + sums[unit].size // SAMPLE
            saved += step * offsets_of(sums[unit][::step].copy(), counts[unit], width, 1)[1]
        if saved > best:
            best, chosen = saved, width
    rows, saved = offsets_of(sums[0], counts[0], chosen, 2)
    channels, more = offsets_of(sums[1], counts[1], chosen, 2)
    places, most = offsets_of(sums[2], counts[2], chosen, 2)
    return chosen, (rows, channels, places), saved + more + most


@njit(cache=True, nogil=True)
def smoothness(values, centre, n_places, line, paths):  # type: ignore[no-untyped-def]
    """Of values in a slice with a neighbour to the left or above, how many there are, and how many more agree
    with it in sign than not. paths: of the values that symbols on a trellis path stand for."""
    agree, pairs, state, k = 0, 0, 0, 0
    signs = np.zeros(values.size, np.int8)
    for i in range(values.size):
        token = values[i] - centre
        sign = (token > 0) - (token < 0)
        if paths:
            sign = 1 if token >= 0 else -1
            sign = -sign if state & 1 else sign
            state = following(state, token, i)
        signs[i] = sign
        near = 0
        if k % line:
            near += signs[i - 1]
        if k >= line:
            near += signs[i - line]
        if near * sign:
            pairs += 1
            agree += 1 if near * sign > 0 else -1
        k = k + 1 if k + 1 < n_places else 0
    return pairs, agree
