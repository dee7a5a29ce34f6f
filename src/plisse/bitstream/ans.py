"""The asymmetric numeral system coder (Duda 2009), one table per symbol, compiled.

The stream is the one of constriction's `AnsCoder`: 32-bit words, a 64-bit state, 24-bit precision. A *table*
is A frequencies, all at least 1, that sum to 2^24; here its running sums, A + 1 numbers from 0 to 2^24.
Tables lie one after the other; for each value `slots[classes[i]]` says which one counts.

numba keeps compiled callers even where what they call has changed: after a change here or in `learning`,
remove the .nbi and .nbc files from __pycache__.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from plisse.errors import FormatError

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS
LOOKUP_BITS = 9
"""The first bits of a place in a table that find its symbol, or one not far below."""
_U32, _MASK, _ONE = np.uint64(32), np.uint64(TOTAL - 1), np.uint64(1)
_PRECISION, _FULL = np.uint64(TOTAL_BITS), np.uint64(64 - TOTAL_BITS)
_SHIFT = TOTAL_BITS - LOOKUP_BITS
_BELOW = (1 << _SHIFT) - 1
_SMALL, _REST = np.uint64(0xFFFFFFFF), np.uint64(_SHIFT)


@intrinsic
def upper_half(context, a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of the product of two uint64, which numba has no name for."""

    def generated(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(each, wide) for each in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generated


@njit(cache=True, nogil=True)
def push_all(values, low, classes, slots, sums, inverses, size, begin, end, words, at, state):  # type: ignore[no-untyped-def]
    """Code values[begin:end] - low from the last to the first; words fill `words` downwards from `at`.

    inverses: floor((2^64 - 1) / share) of each share, with which a quotient is at most one too low.
    """
    for i in range(end - 1, begin - 1, -1):
        place = np.uint64(slots[classes[i]] * (size + 1) + values[i] - low)
        start = np.uint64(sums[place])
        share = np.uint64(sums[place + _ONE]) - start
        if state >> _FULL >= share:
            at -= 1
            words[at] = np.uint32(state & _SMALL)
            state >>= _U32
        quotient: Any = upper_half(state, inverses[place])  # type: ignore[call-arg]
        rest = state - quotient * share
        missing = np.uint64(rest >= share)
        state = (quotient + missing << _PRECISION) + (rest - missing * share) + start
    return at, state


@njit(cache=True, nogil=True)
def pop_all(values, low, classes, slots, sums, lookup, size, begin, end, words, at, state):  # type: ignore[no-untyped-def]
    """Undo `push_all`, first to last; words are read upwards from `at`, zeros after the last."""
    for i in range(begin, end):
        slot = np.uint64(slots[classes[i]])
        first = slot * np.uint64(size + 1)
        place, _start, state = pop(first, sums, lookup, slot, state)
        if state <= _SMALL and at < words.size:
            state = state << _U32 | np.uint64(words[at])
            at += 1
        values[i] = np.int64(place - first) + low
    return at, state


@njit(cache=True, nogil=True)
def pop(first, sums, lookup, slot, state):  # type: ignore[no-untyped-def]
    """The place of the next symbol in `sums`, its start, and the state without it."""
    inside = state & _MASK
    place = first + np.uint64(lookup[(slot << np.uint64(LOOKUP_BITS)) + (inside >> _REST)])
    while np.uint64(sums[place + _ONE]) <= inside:
        place += _ONE
    start = np.uint64(sums[place])
    share = np.uint64(sums[place + _ONE]) - start
    return place, start, (state >> _PRECISION) * share + inside - start


@njit(cache=True, nogil=True)
def fill_lookup(sums, slot, size, lookup):  # type: ignore[no-untyped-def]
    """For each of the first places 0, 2^14, 2 · 2^14, ... the symbol that it belongs to."""
    first, at, end = slot * (size + 1), slot << LOOKUP_BITS, slot << LOOKUP_BITS
    for symbol in range(size):
        end = (slot << LOOKUP_BITS) + (np.int64(sums[first + symbol + 1]) + _BELOW >> _SHIFT)
        lookup[at:end] = np.uint16(symbol)
        at = end


@njit(cache=True, nogil=True)
def set_table(weights, size, sums, slot):  # type: ignore[no-untyped-def]
    """Running sums of the table that is proportional to non-negative weights [size], see `normalized`."""
    total, largest = np.int64(0), 0
    for a in range(size):
        total += weights[a]
        if weights[a] > weights[largest]:
            largest = a
    shift = 0
    while total >> shift >= 1 << 31:
        shift += 1
    factor = ((np.int64(TOTAL) - size) << 32) // max(total >> shift, 1)
    first, at = slot * (size + 1), np.int64(0)
    for a in range(size):
        sums[first + a] = at
        at += 1 + ((weights[a] >> shift) * factor >> 32)
    for a in range(largest + 1, size):
        sums[first + a] += TOTAL - at
    sums[first + size] = TOTAL


@njit(cache=True, nogil=True, error_model="numpy")
def set_inverses(sums, slot, size, inverses):  # type: ignore[no-untyped-def]
    """What `push_all` needs of a table."""
    first, most = slot * (size + 1), np.uint64(0xFFFFFFFFFFFFFFFF)
    for a in range(first, first + size):
        inverses[a] = most // np.uint64(sums[a + 1] - sums[a])


def normalized(weights: np.ndarray) -> np.ndarray:
    """The table of non-negative integer weights [A], sum below 2^62, A from 2 to 2^16: int64 [A].

    Weights are shifted right by the least number that brings their sum, shifted as a whole, below 2^31. With
    S this sum, at least 1, and F = floor((2^24 - A) 2^32 / S), a frequency is 1 + floor(weight F / 2^32), and
    the first largest weight gets what is missing.

    >>> normalized(np.array([3, 1, 0])).tolist()
    [12582911, 4194304, 1]
    """
    sums = np.empty(weights.size + 1, np.uint32)
    set_table(weights.astype(np.int64), weights.size, sums, 0)
    return np.diff(sums.astype(np.int64))


def to_bytes(words: np.ndarray, state: int) -> bytes:
    """The words, first pushed first, then the state, little-endian, without zero bytes at the end."""
    state = int(state)
    return (words[::-1].astype("<u4").tobytes() + state.to_bytes(8, "little")).rstrip(b"\0")


def from_bytes(data: bytes) -> tuple[np.ndarray, np.uint64]:
    """Words in the order in which they are read, and the state to begin with."""
    data = data.rstrip(b"\0")
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4")[::-1].astype(np.uint32)
    head = [*words[:2].tolist(), 0, 0]
    state = head[0] << 32 | head[1] if words.size > 1 else head[0]
    return words[2:], np.uint64(state)


def check_empty(words: np.ndarray, at: int, state: int, offset: int) -> None:
    """Nothing is left after the last symbol of an intact stream."""
    if at < words.size or state:
        raise FormatError("coded bytes left over after the last symbol", offset=offset, expected="none")
