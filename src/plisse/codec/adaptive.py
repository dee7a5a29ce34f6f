"""Numbers as bits whose probabilities are learned while they are coded, from what both sides have seen.

A number is a string of binary decisions: is it zero, its sign, is it above 1, above 2, ... Every decision has
three contexts. Each context keeps a probability; the three are mixed in the logistic domain with weights that
are learned as well (Mahoney 2005, "Adaptive weighing of context models"), and an arithmetic coder of 32 bits
does the rest. All arithmetic is in integers, so that every machine reads the same numbers. A model lives on
from frame to frame: nothing about it is sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from plisse.errors import FormatError

SLOTS = 24
"""Decisions per context: 0 zero, 1 sign, 2 to 9 above 1, 2, ..., 10 to 23 the length of what is left."""
INPUTS = 3
LIMIT = 120
"""A probability moves by 1 / (n + 1.6), n being how often its context was seen, up to this."""
LONGEST_TAIL = 20
"""Bits of what is left of a large number: magnitudes stay below 2^20 or so."""
DOMAIN = 2047
LOGISTIC = np.array(
    [round(65536 / (1 + math.exp(-d / 256))) for d in range(-DOMAIN - 1, DOMAIN + 1)], np.int64
)
LOGIT = np.array(
    [0] + [max(-DOMAIN, min(DOMAIN, round(256 * math.log(p / (4096 - p))))) for p in range(1, 4096)], np.int64
)
LOGIT[0] = -DOMAIN
RATES = np.array([int(65536 / (n + 1.6)) for n in range(LIMIT + 1)], np.int64)
_TOP = 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Model:
    """What was learned: probabilities of a one, scaled to 2^22, how often each was used, mixing weights."""

    chances: np.ndarray
    counts: np.ndarray
    weights: np.ndarray

    @classmethod
    def fresh(cls, n_contexts: int) -> Model:
        """Of `n_contexts` contexts, nothing learned."""
        size = n_contexts * SLOTS
        weights = np.full((SLOTS, INPUTS), 26000, np.int64)
        return cls(np.full(size, 1 << 21, np.int64), np.zeros(size, np.int64), weights)

    def copy(self) -> Model:
        return Model(self.chances.copy(), self.counts.copy(), self.weights.copy())


@dataclass(frozen=True, eq=False)
class Tape:
    """Coded bytes and where the coder is. state: encoding (1 or 0), low, high, code, place in the bytes."""

    state: np.ndarray
    data: np.ndarray

    @classmethod
    def to_write(cls, n_numbers: int) -> Tape:
        """With room for `n_numbers` numbers of any size."""
        return cls(np.array([1, 0, _TOP, 0, 0], np.int64), np.zeros(16 * n_numbers + 64, np.uint8))

    @classmethod
    def to_read(cls, data: bytes) -> Tape:
        padded = np.frombuffer(data + bytes(8), np.uint8).copy()
        code = int.from_bytes(padded[:4].tobytes(), "big")
        return cls(np.array([0, 0, _TOP, code, 4], np.int64), padded)

    def finished(self) -> bytes:
        """What was written; the last byte is not zero, readers go on with zeros."""
        _, low, high, _, at = (int(x) for x in self.state)
        tail = b""
        for n_bytes in range(1, 5):
            shift = 32 - 8 * n_bytes
            value = (low + (1 << shift) - 1) >> shift << shift if shift else low
            if value <= high:
                tail = value.to_bytes(4, "big")[:n_bytes] if low else b""
                break
        return (self.data[:at].tobytes() + tail).rstrip(b"\0")

    def check_end(self, data: bytes, offset: int) -> None:
        """Raises FormatError where more bytes were left than a reader needs, or far fewer were there."""
        used = int(self.state[4])
        if used < len(data) or used > len(data) + 8:
            raise FormatError(
                f"{len(data)} coded bytes", offset=offset, expected=f"{used - 4} to {used} for these numbers"
            )


@njit(cache=True, nogil=True)
def code_bit(bit, slot, a, b, c, state, data, chances, counts, weights):  # type: ignore[no-untyped-def]
    """One decision in three contexts: written where state[0], else read; the bit either way."""
    ia, ib, ic = a * 24 + slot, b * 24 + slot, c * 24 + slot
    sa, sb, sc = LOGIT[chances[ia] >> 10], LOGIT[chances[ib] >> 10], LOGIT[chances[ic] >> 10]
    dot = (weights[slot, 0] * sa + weights[slot, 1] * sb + weights[slot, 2] * sc) >> 16
    chance = LOGISTIC[min(max(dot, -2047), 2047) + 2048]
    bit = _coded_bit(bit, chance, state, data)
    error = (bit << 16) - chance
    weights[slot, 0] += (sa * error + (1 << 16)) >> 17
    weights[slot, 1] += (sb * error + (1 << 16)) >> 17
    weights[slot, 2] += (sc * error + (1 << 16)) >> 17
    _learn(chances, counts, ia, bit)
    _learn(chances, counts, ib, bit)
    _learn(chances, counts, ic, bit)
    return bit


@njit(cache=True, nogil=True)
def _learn(chances, counts, at, bit):  # type: ignore[no-untyped-def]
    chances[at] += (((bit << 22) - bit - chances[at]) * RATES[counts[at]]) >> 16
    counts[at] = min(counts[at] + 1, 120)


@njit(cache=True, nogil=True)
def _coded_bit(bit, chance, state, data):  # type: ignore[no-untyped-def]
    """The arithmetic coder: a one takes `chance` / 2^16 of what is left between low and high."""
    low, high = state[1], state[2]
    middle = low + ((high - low) >> 16) * chance + ((((high - low) & 0xFFFF) * chance) >> 16)
    if not state[0]:
        bit = 1 if state[3] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) & 0xFF000000 == 0:
        if state[0]:
            data[state[4]] = low >> 24
        else:
            following = np.int64(data[state[4]]) if state[4] < data.size else 0
            state[3] = (state[3] << 8 & 0xFFFFFFFF) | following
        state[4] += 1
        low = low << 8 & 0xFFFFFFFF
        high = (high << 8 & 0xFFFFFFFF) | 255
    state[1], state[2] = low, high
    return bit


@njit(cache=True, nogil=True)
def code_number(value, a, b, c, state, data, chances, counts, weights):  # type: ignore[no-untyped-def]
    """A whole number in three contexts."""
    if code_bit(value != 0, 0, a, b, c, state, data, chances, counts, weights) == 0:
        return 0
    negative = code_bit(value < 0, 1, a, b, c, state, data, chances, counts, weights)
    size = code_size(abs(value), a, b, c, state, data, chances, counts, weights)
    return -size if negative else size


@njit(cache=True, nogil=True)
def code_size(size, a, b, c, state, data, chances, counts, weights):  # type: ignore[no-untyped-def]
    """A magnitude of at least 1: decisions up to 8, then an Exp-Golomb code, whose length is learned."""
    found = 1
    while found <= 8:
        if not code_bit(size > found, found + 1, a, b, c, state, data, chances, counts, weights):
            return found
        found += 1
    rest, n_bits = size - 8, 0  # rest >= 1
    while n_bits < 20:
        slot = min(10 + n_bits, 23)
        if not code_bit(rest >> (n_bits + 1) != 0, slot, a, b, c, state, data, chances, counts, weights):
            break
        n_bits += 1
    found = 1
    for place in range(n_bits - 1, -1, -1):
        found = found << 1 | code_even((rest >> place) & 1, state, data)
    return found + 8


@njit(cache=True, nogil=True)
def code_even(bit, state, data):  # type: ignore[no-untyped-def]
    """A decision that nothing is known of."""
    return _coded_bit(bit, 1 << 15, state, data)
