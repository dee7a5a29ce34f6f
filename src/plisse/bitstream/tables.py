"""Static probability tables that a few bytes describe: explicit, two-sided geometric, and discrete Gaussian.

All are defined by integer recurrences (see `weights`), so that a reader anywhere gets the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.bitstream.entropy import EXP2, LOG_UNIT, TOTAL_BITS, code_length, normalized
from plisse.errors import FormatError

EXPLICIT, LAPLACE, GAUSS = 0, 1, 2
DECAY_BITS = 30
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

    def to_bytes(self) -> bytes:
        head = varint(self.left) + varint(self.right)
        if self.form != EXPLICIT:
            return head + bytes([self.decay]) + self.zero.to_bytes(2, "little")
        residuals = _residuals(self.steps, self.fineness)
        rice = min(range(8), key=lambda k: _rice_bits(residuals, k))
        return head + bytes([self.fineness | rice << 4]) + _rice(residuals.tolist(), rice)

    def n_bytes(self) -> int:
        """The length of `to_bytes()`."""
        head = len(varint(self.left)) + len(varint(self.right)) + 1
        if self.form != EXPLICIT:
            return head + 2
        residuals = _residuals(self.steps, self.fineness)
        return head + -(-min(_rice_bits(residuals, k) for k in range(8)) // 8)


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
    right = len(counts) - 1 - left
    best = []
    for form in forms:
        fits = (
            _explicit_fits(counts, left) if form == EXPLICIT else _parametric_fits(counts, left, right, form)
        )
        best.append(min(fits, key=lambda fit: total_bits(fit, counts)))
    return best


def total_bits(static: Static, counts: np.ndarray) -> float:
    return 8 * static.n_bytes() + code_length(counts, static.table())


@lru_cache(maxsize=64)
def _table(static: Static) -> np.ndarray:
    table = normalized(_explicit(static) if static.form == EXPLICIT else _parametric(static))
    table.setflags(write=False)
    return table


def _parametric(static: Static) -> np.ndarray:
    """Two-sided weights: a side is w[0] = 2^36, w[m] = w[m-1] f[m] >> 30, with f[m] = r for LAPLACE and
    r^(2m-1) for GAUSS, r in units of 2^-30; both sides together are scaled to a sum of at most 2^30."""
    octaves, part = divmod(4 * (static.decay + 1), LOG_UNIT)
    decay = (1 << DECAY_BITS) - (
        int(EXP2[LOG_UNIT - part] if part else EXP2[0] * 2) << DECAY_BITS - 17 >> octaves
    )
    square = decay * decay >> DECAY_BITS
    side, weight, factor = [0], 1 << 36, decay
    for _ in range(max(static.left, static.right)):
        weight = weight * factor >> DECAY_BITS
        if static.form == GAUSS:
            factor = factor * square >> DECAY_BITS
        side.append(weight)
    both = side[static.left : 0 : -1] + side[: static.right + 1]
    total = max(sum(both), 1)
    weights = np.array([((w << 30) // total) * (65536 - static.zero) >> 16 for w in both], np.int64)
    weights[static.left] = static.zero << 14
    return weights


def _explicit(static: Static) -> np.ndarray:
    steps = np.array(static.steps, np.int64)
    octaves, part = np.divmod(steps * (LOG_UNIT >> static.fineness), LOG_UNIT)
    return np.where(steps > 0, EXP2[part] << np.minimum(octaves, TOTAL_BITS) >> 8, 0)


def _parametric_fits(counts: np.ndarray, left: int, right: int, form: int) -> list[Static]:
    tokens = np.arange(-left, right + 1)
    others = max(int(counts.sum() - counts[left]), 1)
    if form == LAPLACE:
        missing = others / max(float((counts * np.abs(tokens)).sum()), others)
    else:
        variance = float((counts * tokens.astype(np.float64) ** 2).sum()) / max(int(counts.sum()), 1)
        missing = -np.expm1(-0.5 / max(variance, 0.05))
    guess = round(-8 * float(np.log2(missing))) - 1
    zero = min(max(round(65536 * float(counts[left]) / max(int(counts.sum()), 1)), 1), 65535)
    decays = {min(max(guess + step, 0), 255) for step in (-4, -2, -1, 0, 1, 2)}
    return [Static(form, left, right, decay, zero) for decay in sorted(decays)]


def _explicit_fits(counts: np.ndarray, left: int) -> list[Static]:
    octaves = np.log2(np.maximum(counts, 1) / counts.max()) + TOTAL_BITS - 4
    fits = []
    for fineness in range(MAX_FINENESS + 1):
        steps = np.where(counts > 0, np.maximum(np.rint(octaves * 2**fineness), 1), 0).astype(int)
        fits.append(
            Static(EXPLICIT, left, len(counts) - 1 - left, fineness=fineness, steps=tuple(steps.tolist()))
        )
    return fits


def _residuals(steps: tuple[int, ...], fineness: int) -> np.ndarray:
    """Zigzag differences, each against the last step that was not zero (at first 16 octaves)."""
    last = np.array((16 << fineness, *steps[:-1]))
    last = last[np.maximum.accumulate(np.where(last > 0, np.arange(last.size), 0))]
    differences = np.array(steps) - last
    return np.where(differences >= 0, 2 * differences, -2 * differences - 1)


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
