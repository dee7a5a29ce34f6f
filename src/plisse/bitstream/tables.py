"""Static probability tables that a few bytes describe: explicit, two-sided geometric, and discrete Gaussian.

All are defined by integer recurrences (see `weights`), so that a reader anywhere gets the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from plisse.bitstream.ans import TOTAL_BITS, normalized, set_table
from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.bitstream.entropy import EXP2, code_length
from plisse.errors import FormatError

EXPLICIT, LAPLACE, GAUSS = 0, 1, 2
MAX_RICE_ONES = 1023
MAX_FINENESS = 4
LARGEST_TOKEN = 1023


@dataclass(frozen=True)
class Static:
    """A table over the tokens -left .. right.

    form: EXPLICIT, LAPLACE or GAUSS. EXPLICIT: `steps` has one entry per token, 0 for a token that does not
    occur, else its weight is 2^(step / 2^fineness). LAPLACE: weight of a token m is r^|m|; GAUSS: r^(m^2),
    with r = 1 - 2^(-(decay + 1) / 8); in both the token 0 gets the share zero / 65536.
    """

    form: int
    left: int
    right: int
    decay: int = 0
    zero: int = 0
    fineness: int = 0
    steps: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return self.left + self.right + 1

    def table(self) -> np.ndarray:
        """The probability table, int64 [left + right + 1], not to be written to."""
        return _table(self)

    def sums(self) -> np.ndarray:
        """Running sums of the table, uint32 [left + right + 2]."""
        sums = np.zeros(self.size + 1, np.uint32)
        sums[1:] = self.table().cumsum()
        return sums

    def to_bytes(self) -> bytes:
        head = varint(self.left) + varint(self.right)
        if self.form != EXPLICIT:
            return head + bytes([self.decay]) + self.zero.to_bytes(2, "little")
        residuals = _zigzags(np.array(self.steps, np.int64), self.fineness)
        rice = min(range(8), key=lambda k: _rice_bits(residuals, k))
        return head + bytes([self.fineness | rice << 4]) + _rice(residuals.tolist(), rice)


def read_static(reader: BytesReader, form: int) -> Static:
    """Parse what `to_bytes` wrote. Raises FormatError for tables of one entry or of too many."""
    start = reader.offset
    left, right = reader.varint(LARGEST_TOKEN), reader.varint(LARGEST_TOKEN)
    if left + right == 0:
        raise FormatError("a table of one entry", offset=start, expected="two or more")
    if form != EXPLICIT:
        decay = reader.byte()
        return Static(form, left, right, decay, int.from_bytes(reader.take(2), "little"))
    start = reader.offset
    fineness, rice = (packed := reader.byte()) & 15, packed >> 4
    if fineness > MAX_FINENESS or rice > 7:
        raise FormatError(f"table parameters {packed:#04x}", offset=start, expected="fineness 0-4, rice 0-7")
    steps = _undo_residuals(_unrice(reader, left + right + 1, rice), fineness, start)
    return Static(EXPLICIT, left, right, fineness=fineness, steps=steps)


def fit_static(counts: np.ndarray, left: int, forms: tuple[int, ...]) -> list[Static]:
    """For each form, the table with the fewest bits for these counts, itself included.

    counts: int64 [A], of the tokens -left .. A - 1 - left, A >= 2.
    """
    return [fitted(counts, left, form)[0] for form in forms]


def fitted(counts: np.ndarray, left: int, form: int) -> tuple[Static, float]:
    """The best table of a form, and bits for it and the counts."""
    right = len(counts) - 1 - left
    if form == EXPLICIT:
        fineness, steps, bits = _fit_explicit(counts)
        return Static(form, left, right, fineness=fineness, steps=tuple(steps.tolist())), bits
    decay, zero, bits = _fit_parametric(counts, left, form == GAUSS)
    return Static(form, left, right, decay, zero), bits + 40


def total_bits(static: Static, counts: np.ndarray) -> float:
    return 8 * len(static.to_bytes()) + code_length(counts, static.table())


@lru_cache(maxsize=64)
def _table(static: Static) -> np.ndarray:
    if static.form == EXPLICIT:
        weights = _explicit_weights(np.array(static.steps, np.int64), static.fineness)
    else:
        weights = _parametric_weights(
            static.left, static.right, static.decay, static.zero, static.form == GAUSS
        )
    table = normalized(weights)
    table.setflags(write=False)
    return table


@njit(cache=True, nogil=True)
def _parametric_weights(left, right, decay, zero, gauss):  # type: ignore[no-untyped-def]
    """Two-sided weights: a side is w[0] = 2^32, w[m] = w[m-1] f[m] >> 30, with f[m] = r for LAPLACE and
    r^(2m-1) for GAUSS, r in units of 2^-30; both sides together are scaled to a sum of at most 2^30."""
    octaves, part = 4 * (decay + 1) >> 5, 4 * (decay + 1) & 31
    ratio = (1 << 30) - ((EXP2[32 - part] if part else 1 << 17) << 13 >> octaves)
    square = ratio * ratio >> 30
    weights = np.empty(left + right + 1, np.int64)
    weight, total = np.int64(1) << 32, np.int64(0)
    for m in range(1, max(left, right) + 1):
        weight = weight * ratio >> 30
        if gauss:
            ratio = ratio * square >> 30
        if m <= left:
            weights[left - m] = weight
            total += weight
        if m <= right:
            weights[left + m] = weight
            total += weight
    for a in range(left + right + 1):
        weights[a] = (weights[a] << 30) // max(total, 1) * (65536 - zero) >> 16
    weights[left] = zero << 14
    return weights


@njit(cache=True, nogil=True)
def _explicit_weights(steps, fineness):  # type: ignore[no-untyped-def]
    weights = np.zeros(steps.size, np.int64)
    for a in range(steps.size):
        place = steps[a] * (32 >> fineness)
        if steps[a]:
            weights[a] = EXP2[place & 31] << min(place >> 5, 24) >> 8
    return weights


@njit(cache=True, nogil=True)
def _bits(counts, weights, sums):  # type: ignore[no-untyped-def]
    set_table(weights, counts.size, sums, 0)
    bits = 0.0
    for a in range(counts.size):
        if counts[a]:
            bits += counts[a] * (24 - np.log2(sums[a + 1] - sums[a]))
    return bits


@njit(cache=True, nogil=True)
def _fit_parametric(counts, left, gauss):  # type: ignore[no-untyped-def]
    """Decay, share of zero, and bits; decays are tried around the one that the moments tell."""
    right = counts.size - 1 - left
    total = max(counts.sum(), 1)
    moment = 0.0
    for a in range(counts.size):
        moment += counts[a] * float(abs(a - left)) ** (2 if gauss else 1)
    if gauss:
        missing = -np.expm1(-0.5 / max(moment / total, 0.05))
    else:
        others = max(total - counts[left], 1)
        missing = others / max(moment, float(others))
    guess = round(-8 * np.log2(missing)) - 1
    zero = min(max(round(65536 * counts[left] / total), 1), 65535)
    sums = np.empty(counts.size + 1, np.uint32)
    best, least = 0, np.inf
    for step in (-4, -2, -1, 0, 1, 2):
        decay = min(max(guess + step, 0), 255)
        bits = _bits(counts, _parametric_weights(left, right, decay, zero, gauss), sums)
        if bits < least:
            best, least = decay, bits
    return best, zero, least


@njit(cache=True, nogil=True)
def _fit_explicit(counts):  # type: ignore[no-untyped-def]
    """Fineness, steps, and bits with those of the table."""
    size, largest = counts.size, counts.max()
    sums, found, best, least = np.empty(size + 1, np.uint32), np.zeros(size, np.int64), 0, np.inf
    for fineness in range(5):
        steps = np.zeros(size, np.int64)
        for a in range(size):
            if counts[a]:
                octaves = np.log2(counts[a] / largest) + 20
                steps[a] = max(round(octaves * 2**fineness), 1)
        zigzags = _zigzags(steps, fineness)
        table = min([(zigzags >> k).sum() + (1 + k) * size for k in range(8)])
        bits = _bits(counts, _explicit_weights(steps, fineness), sums) + table + 32
        if bits < least:
            found, best, least = steps, fineness, bits
    return best, found, least


@njit(cache=True, nogil=True)
def _zigzags(steps, fineness):  # type: ignore[no-untyped-def]
    """Zigzag differences, each against the last step that was not zero (at first 16 octaves)."""
    out, last = np.empty(steps.size, np.int64), 16 << fineness
    for a in range(steps.size):
        difference = steps[a] - last
        out[a] = 2 * difference if difference >= 0 else -2 * difference - 1
        last = steps[a] if steps[a] else last
    return out


def _undo_residuals(residuals: list[int], fineness: int, offset: int) -> tuple[int, ...]:
    last, out = 16 << fineness, []
    for residual in residuals:
        step = last + (-(residual + 1 >> 1) if residual & 1 else residual >> 1)
        if not 0 <= step <= TOTAL_BITS << fineness:
            raise FormatError(f"table step {step}", offset=offset, expected=f"0 to {TOTAL_BITS << fineness}")
        out.append(step)
        last = step or last
    return tuple(out)


def _rice_bits(values: np.ndarray, k: int) -> int:
    return int((values >> k).sum()) + (1 + k) * values.size


def _rice(values: list[int], k: int) -> bytes:
    """Each value as value >> k ones, a zero, and k low bits, least significant first; bits fill bytes from
    the least significant end; zeros fill the last byte."""
    number, at = 0, 0
    for value in values:
        number |= ((1 << (value >> k)) - 1) << at
        at += (value >> k) + 1
        number |= (value & ((1 << k) - 1)) << at
        at += k
    return number.to_bytes(-(-at // 8), "little")


def _unrice(reader: BytesReader, count: int, k: int) -> list[int]:
    values: list[int] = []
    byte, left = 0, 0

    def bit() -> int:
        nonlocal byte, left
        if not left:
            byte, left = reader.byte(), 8
        left -= 1
        value, byte = byte & 1, byte >> 1
        return value

    for _ in range(count):
        ones = 0
        while bit():
            ones += 1
            if ones > MAX_RICE_ONES:
                raise FormatError("a table step without end", offset=reader.offset)
        values.append(ones << k | sum(bit() << place for place in range(k)))
    return values
