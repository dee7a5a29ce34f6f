"""Classes of positions: how large a token is likely to be, and of which sign.

Each row of a tensor [O, I K] (its first axis), each input channel and each of the K places of a filter has an
offset that the file tells; their sum is the magnitude class of a position. In filters (K > 1) the tokens of
the same slice (row and channel) that come before correct it, and, filters being smooth, the tokens to the
left and above tell a sign: how large their sum is against the class splits each class by strength. All
arithmetic is in integers, and all loops are compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from plisse.bitstream.ans import LOOKUP_BITS, pop, pop_all
from plisse.bitstream.entropy import LOG2
from plisse.bitstream.learning import SPARSE_FROM, count, first_tables, learn, mean_of, stretches
from plisse.core.trellis import NEXT

SCALES, SLICES, SIGNS, PATHS = range(4)
"""What a class looks at: offsets only; the slice too; signs of neighbours too, of symbols or of values on a
trellis path."""
STRENGTHS = (1, 1, 4, 7)
MAX_PLACES = 1024


@njit(cache=True, nogil=True)
def spread_offsets(rows, channels, places):  # type: ignore[no-untyped-def]
    """The magnitude class 12 + row + channel + place of every position, cut to 0 to 23, uint8."""
    width = channels.size * places.size
    columns, out = np.empty(width, np.int16), np.empty(rows.size * width, np.uint8)
    for c in range(channels.size):
        for k in range(places.size):
            columns[c * places.size + k] = 12 + channels[c] + places[k]
    for r in range(rows.size):
        row, first = np.int16(rows[r]), r * width
        for c in range(width):
            out[first + c] = np.uint8(min(max(columns[c] + row, 0), 23))
    return out


@njit(cache=True, nogil=True)
def slice_tables(n_places, line, mean, width):  # type: ignore[no-untyped-def]
    """What looking at a slice takes: 8 mean magnitudes, and the least sum of strength 1, for each class; the
    class of each magnitude in 1/256 of the mean; and for each place what turns a sum of magnitudes into such,
    and whether there are tokens to the left and above."""
    means, least, classes = np.empty(24, np.int64), np.empty(24, np.int64), np.empty(4096, np.uint8)
    places = np.empty((n_places, 3), np.int64)
    for q in range(24):
        m = min(mean_of(mean, q, width), mean << 4)
        means[q], least[q] = 8 * m, m * 181 >> 7
    for x in range(4096):
        classes[x] = min(max((LOG2[x] - 256 + (1 << width >> 1) >> width) + 12, 0), 23)
    for k in range(n_places):
        places[k, 1], places[k, 2] = k % line > 0, k >= line
        places[k, 0] = (np.int64(256) << 24) // (mean * (8 + k + places[k, 1] + places[k, 2]))
    return means, least, classes, places


@njit(cache=True, nogil=True)
def look(kind, left, above, total, place, base, odd, tables):  # type: ignore[no-untyped-def]
    """The class of a position, and -1 where the sign of its token is turned, else 1.

    left, above: those tokens in quarters, 0 where there are none; total: the sum of magnitudes in the slice
    so far; odd: 1 where the state of the trellis is odd. Without branches that depend on tokens.
    """
    means, least, classes, places = tables
    total += min(abs(left) + 1 >> 2, 255) + min(abs(above) + 1 >> 2, 255)
    relative = (means[base] + (total << 8)) * places[place, 0] >> 24
    q = np.int64(classes[np.uint64(min(relative, 4095))])
    if kind == 1:
        return q, 1
    near, bound = left + above, least[np.uint64(q)]
    size = abs(near) << 8
    strength = np.int64(size >= bound) + np.int64(size >= 2 * bound) + np.int64(size >= 4 * bound)
    sign = 1 - 2 * np.int64(near < 0)
    if kind == 2:
        return 4 * q + strength, 1 - 2 * np.int64((near < 0) & (strength > 0))
    return 7 * q + 3 + strength * sign * (1 - 2 * odd), 1


@njit(cache=True, nogil=True)
def following(state, token, i):  # type: ignore[no-untyped-def]
    """The state of the trellis after position i, see plisse.core.trellis."""
    return np.int64(NEXT[np.uint64(state), np.uint64(token & 1)]) if (i + 1) & 255 else 0


@njit(cache=True, nogil=True)
def classify(tokens, base, kind, line, tables):  # type: ignore[no-untyped-def]
    """Classes of all positions, in the place of the magnitude classes `base`, and the tokens as coded."""
    places = tables[3]
    coded, seen = np.empty(tokens.size, np.int32), np.zeros(tokens.size + line, np.int32)
    state: Any = 0
    left: Any = 0
    total: Any = 0
    k, path = 0, 1 if kind == 3 else 0
    for i in range(tokens.size):
        token, odd = np.int64(tokens[i]), state & 1
        above = seen[i] * places[k, 2]
        base[i], turn = look(kind, left * places[k, 1], above, total, k, base[i], odd, tables)
        coded[i] = turn * token
        left = (4 * token + path) * (1 - 2 * odd)
        seen[i + line] = left
        state = following(state, token, i) if kind == 3 else 0
        total += min(abs(token), 255)
        k += 1
        if k == places.shape[0]:
            k, total = 0, 0
    return coded


@njit(cache=True, nogil=True)
def pop_slices(  # type: ignore[no-untyped-def]
    out, centre, low, base, kind, line, tables, seen, state,
    counts, sizes, slots, sums, lookup, begin, end, words, at, coder,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Decode a stretch whose classes depend on its tokens, counting them. seen: tokens in quarters, from
    index `line` on. Returns the state of the trellis and those of the coder."""
    places, size, path = tables[3], counts.shape[1], np.int64(kind == 3)
    step = 4 if begin >= SPARSE_FROM else 1
    k, left = begin % places.shape[0], np.int64(seen[begin + line - 1])
    total: Any = 0
    for i in range(begin - k, begin):
        total += min(abs(seen[i + line]) + 1 >> 2, 255)
    for i in range(begin, end):
        odd = state & 1
        above = seen[i] * places[k, 2]
        index, turn = look(kind, left * places[k, 1], above, total, k, base[i], odd, tables)
        slot = np.uint64(slots[np.uint64(index)])
        first = slot * np.uint64(size + 1)
        place, _, coder = pop(first, sums, lookup, slot, coder)
        if coder <= np.uint64(0xFFFFFFFF) and at < words.size:
            coder = coder << np.uint64(32) | np.uint64(words[at])
            at += 1
        symbol = np.int64(place - first)
        if i & (step - 1) == 0:
            counts[np.uint64(index), np.uint64(symbol)] += step
            sizes[np.uint64(index)] += step
        token = turn * (symbol + low)
        out[i] = token + centre
        left = (4 * token + path) * (1 - 2 * odd)
        seen[i + line] = left
        state = following(state, token, i) if kind == 3 else 0
        total += min(abs(token), 255)
        k += 1
        if k == places.shape[0]:
            k, total = 0, 0
    return state, at, coder


@njit(cache=True, nogil=True)
def decode(  # type: ignore[no-untyped-def]
    classes, centre, left, right, kind, strengths, mean, width, zero, prior, line, tables, words, coder
):  # type: ignore[no-untyped-def]  # fmt: skip
    """All tokens plus centre, and what is left of the words and of the state."""
    size, n_classes, ends = left + right + 1, 24 * strengths, stretches(classes.size)
    sums = np.empty((24 + n_classes) * (size + 1), np.uint32)
    lookup = np.empty((24 + n_classes) << LOOKUP_BITS, np.uint16)
    slots = np.arange(n_classes) // strengths
    counts = np.zeros((n_classes, size), np.int64)
    sizes, last = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    none, at, path = np.empty(0, np.uint64), 0, 0
    base = first_tables(left, right, mean, width, zero, sums, lookup, none)
    out = np.empty(classes.size, np.int32)
    seen = np.zeros(classes.size + line if kind else 0, np.int32)
    for j in range(ends.size - 1):
        if j:
            learn(counts, sizes, last, slots, strengths, base, prior, sums, 0, lookup, none)
        begin, end = ends[j], ends[j + 1]
        if kind:
            path, at, coder = pop_slices(
                out, centre, -left, classes, kind, line, tables, seen, path,
                counts, sizes, slots, sums, lookup, begin, end, words, at, coder,
            )  # fmt: skip
        else:
            at, coder = pop_all(
                out, centre - left, classes, slots, sums, lookup, size, begin, end, words, at, coder
            )
            if end < classes.size:
                count(out, centre - left, classes, begin, end, counts, sizes)
    return out, at, coder
