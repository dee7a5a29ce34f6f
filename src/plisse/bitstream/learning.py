"""Tables that are learned while a tensor is coded, one per class, compiled.

A class is a magnitude (0 to 23) times a strength (0 to strengths - 1). Its first table is two-sided geometric
with the mean magnitude of the class. Coding stops at positions 64, 96, 144, ... (each half again as far),
where each class that was seen half again as often as at its last table gets a new one: from its own counts,
those of the neighbouring classes, and the first table. Only integers are used, so that a reader learns the
same tables.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from plisse.bitstream.ans import fill_lookup, push_all, set_inverses, set_table
from plisse.bitstream.entropy import EXP2

MAGNITUDES = 24
MIDDLE = 12
SPARSE_FROM = 1 << 16
"""Stretches that begin here or later count every fourth value, four times."""
LENT = 1024
"""A class counts for its neighbours as if it had been seen less often than this."""


@njit(cache=True, nogil=True)
def mean_of(mean, magnitude, width):  # type: ignore[no-untyped-def]
    """Mean magnitude of a class in units of 1/256: 2^width / 32 octaves per class around `mean`."""
    steps = (magnitude - 12) << width
    return max(mean * EXP2[steps & 31] >> (16 - (steps >> 5)), 1) if steps < 512 else mean << 16


@njit(cache=True, nogil=True)
def first_tables(left, right, mean, width, zero, sums, lookup, inverses):  # type: ignore[no-untyped-def]
    """Weights [24, A] that sum to about 2^16 each, and their tables in the slots 0 to 23."""
    size = left + right + 1
    weights = np.empty((24, size), np.int64)
    for q in range(24):
        m = mean_of(mean, q, width)
        ratio = (m << 30) // (m + 256)
        row = weights[q]
        row[left] = zero << 28
        weight, total = np.int64(1) << 30, zero << 28
        for a in range(1, max(left, right) + 1):
            weight = weight * ratio >> 30
            if a <= left:
                row[left - a] = weight
                total += weight
            if a <= right:
                row[left + a] = weight
                total += weight
        factor = (np.int64(1) << 52) // total  # at most 2^24
        for a in range(size):
            row[a] = row[a] * factor >> 36
        set_table(row, size, sums, q)
        if lookup.size:
            fill_lookup(sums, q, size, lookup)
        else:
            set_inverses(sums, q, size, inverses)
    return weights


@njit(cache=True, nogil=True)
def _learned(k, counts, seen, strengths, base, prior, weights):  # type: ignore[no-untyped-def]
    """Weights of class k: its counts, 1/2 of the next magnitudes', 1/8 of the second next, 1/4 of the next
    strengths' (of each less than LENT times this share), and the first table as 2^prior tokens."""
    q, s, size = k // strengths, k % strengths, weights.size
    for a in range(size):
        weights[a] = (base[q, a] << prior) + (counts[k, a] << 16)
    for step, share in ((1, 1), (2, 3)):
        if q >= step:
            _lend(k - step * strengths, share, counts, seen, weights)
        if q + step < 24:
            _lend(k + step * strengths, share, counts, seen, weights)
    if s > 0:
        _lend(k - 1, 2, counts, seen, weights)
    if s + 1 < strengths:
        _lend(k + 1, 2, counts, seen, weights)


@njit(cache=True, nogil=True)
def _lend(k, share, counts, seen, weights):  # type: ignore[no-untyped-def]
    """Add the counts of class k, shifted right by `share` and by what leaves less than LENT tokens of it."""
    shift = share
    while seen[k] << share >> shift >= LENT:
        shift += 1
    if seen[k]:
        for a in range(weights.size):
            weights[a] += counts[k, a] << 16 >> shift


@njit(cache=True, nogil=True)
def learn(counts, seen, last, slots, strengths, base, prior, sums, free, lookup, inverses):  # type: ignore[no-untyped-def]
    """New tables where they are due. Each goes to the slot `free` and the next ones, or where there is a
    lookup, to the slot 24 + class. Returns the next free slot."""
    size = base.shape[1]
    weights = np.empty(size, np.int64)
    for k in range(seen.size):
        if 2 * seen[k] >= 3 * last[k] + 8:
            _learned(k, counts, seen, strengths, base, prior, weights)
            slots[k] = 24 + k if lookup.size else free
            set_table(weights, size, sums, slots[k])
            if lookup.size:
                fill_lookup(sums, slots[k], size, lookup)
            else:
                set_inverses(sums, slots[k], size, inverses)
            last[k] = seen[k]
            free += 1
    return free


@njit(cache=True, nogil=True)
def count(values, low, classes, begin, end, counts, seen):  # type: ignore[no-untyped-def]
    """Take in what a stretch holds."""
    step = 4 if begin >= SPARSE_FROM else 1
    for i in range(-(-begin // step) * step, end, step):
        k = np.uint64(classes[i])
        counts[k, np.uint64(values[i] - low)] += step
        seen[k] += step


@njit(cache=True, nogil=True)
def stretches(count):  # type: ignore[no-untyped-def]
    """Where stretches begin, and the end of the last: 0, 64, 96, 144, ..., count."""
    ends, end = [0], 64
    while end < count:
        ends.append(end)
        end += end // 2
    ends.append(count)
    return np.array(ends)


@njit(cache=True, nogil=True)
def encode(values, left, right, classes, strengths, mean, width, zero, prior, words):  # type: ignore[no-untyped-def]
    """Code int32 values from -left to right, each with the table of its class. Words fill `words` from its
    end downwards; returns where they begin, and the state."""
    size, n_classes, ends = left + right + 1, 24 * strengths, stretches(values.size)
    none = np.empty(0, np.uint16)
    sums = np.empty((24 + ends.size * n_classes) * (size + 1), np.uint32)
    inverses = np.empty(sums.size, np.uint64)
    slots = np.empty((ends.size - 1, n_classes), np.int64)
    slots[0] = np.arange(n_classes) // strengths
    counts, free = np.zeros((n_classes, size), np.int64), 24
    seen, last = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    base = first_tables(left, right, mean, width, zero, sums, none, inverses)
    for j in range(1, ends.size - 1):
        count(values, -left, classes, ends[j - 1], ends[j], counts, seen)
        slots[j] = slots[j - 1]
        free = learn(counts, seen, last, slots[j], strengths, base, prior, sums, free, none, inverses)
    at, state = words.size, np.uint64(0)
    for j in range(ends.size - 2, -1, -1):
        at, state = push_all(
            values, -left, classes, slots[j], sums, inverses, size, ends[j], ends[j + 1], words, at, state
        )
    return at, state
