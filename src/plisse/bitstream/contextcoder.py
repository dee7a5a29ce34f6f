"""A tensor coded with contexts: what the head tells of them, and both directions.

`contexts` says which class a position has, `learning` which table a class; `ans` codes, `offsets` chooses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from plisse.bitstream import ans, contexts, learning
from plisse.bitstream.bytesreader import BytesReader, sized, varint
from plisse.bitstream.contexts import MAX_PLACES, PATHS, SCALES, SIGNS, SLICES, STRENGTHS
from plisse.bitstream.learning import MIDDLE
from plisse.bitstream.offsets import choose, magnitude_sums, smoothness
from plisse.bitstream.tables import LARGEST_TOKEN
from plisse.errors import FormatError

LARGEST_MEAN = 255 << 8
LARGEST_OFFSET = 48
OFFSET_TABLE = (256, 3, 8, 3)
"""Mean, width, zero weight and prior with which offsets are coded, all in the middle class."""
SMOOTH_SAMPLE = 1 << 12


@dataclass(frozen=True)
class View:
    """A tensor as rows (its first axis), channels, and the places of a filter, the last axis line by line."""

    rows: int
    channels: int
    places: int
    line: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> View:
        places = math.prod(shape[2:])
        return cls(shape[0], shape[1], places, shape[-1] if len(shape) > 2 else 1)


@dataclass(frozen=True, eq=False)
class Contexts:
    """kind: SCALES, SLICES, SIGNS or PATHS; width: classes are 2^width / 32 octaves wide; tokens lie between
    -left and right; mean: of their magnitudes, in 1/256; zero: weight of the token 0 in quarters of that of a
    magnitude next to it; prior: the first table counts as 2^prior tokens; offsets: of rows, channels, places.
    """

    kind: int
    width: int
    left: int
    right: int
    mean: int
    zero: int
    prior: int
    offsets: tuple[np.ndarray, np.ndarray, np.ndarray]

    def head(self) -> bytes:
        """All this as bytes."""
        packed = bytes([self.kind | self.width << 2 | self.prior << 5, self.zero])
        numbers = varint(self.mean) + varint(self.left) + varint(self.right)
        return packed + numbers + _offset_bytes(np.concatenate(self.offsets))


def chosen(
    tokens: np.ndarray, view: View, counts: np.ndarray, left: int, path: bool
) -> tuple[Contexts, float]:
    """Contexts that suit tokens int32 [n] with these counts (of -left, ...), and bits that they may save.

    path: the tokens are symbols of a trellis.
    """
    sums = magnitude_sums(tokens, 0, view.rows, view.channels, view.places)
    units = (view.rows, view.channels, view.places)
    width, offsets, saved = choose(sums, tuple(tokens.size // max(unit, 1) for unit in units))
    share, mean = counts[left] / counts.sum(), float(sums[0].sum()) / tokens.size
    zero = min(max(round(8 * mean * share / max(1 - share, 1e-9)), 1), 255)
    mean = min(max(round(256 * mean), 1), LARGEST_MEAN)
    kind, right = SCALES, counts.size - 1 - left
    if 1 < view.places <= MAX_PLACES:
        kind, width = _slice_kind(tokens, view, path), 4 if saved < 0 else width
        saved += 0.01 * tokens.size
        if kind == SIGNS:
            left = right = max(left, right)
    prior = 4 if mean < 128 else 5 if mean < 2048 else 6
    return Contexts(kind, width, left, right, mean, zero, prior, offsets), saved


def _slice_kind(tokens: np.ndarray, view: View, path: bool) -> int:
    """Whether neighbours tell signs."""
    pairs, agree = smoothness(tokens[:SMOOTH_SAMPLE], 0, view.places, view.line, path)
    if agree * abs(agree) * tokens.size < 100 * pairs * min(tokens.size, SMOOTH_SAMPLE):
        return SLICES
    return PATHS if path else SIGNS


def encode(tokens: np.ndarray, view: View, how: Contexts) -> bytes:
    """Head and coded tokens int32 [n]."""
    classes = contexts.spread_offsets(*how.offsets)
    if how.kind != SCALES:
        tables = contexts.slice_tables(view.places, view.line, how.mean, how.width)
        tokens = contexts.classify(tokens, classes, how.kind, view.line, tables)
    stack = np.empty(tokens.size + 2, np.uint32)  # no token takes more than a word
    at, state = learning.encode(
        tokens,
        how.left,
        how.right,
        classes,
        STRENGTHS[how.kind],
        how.mean,
        how.width,
        how.zero,
        how.prior,
        stack,
    )
    return how.head() + ans.to_bytes(stack[at:], state)


def read_head(reader: BytesReader, view: View) -> Contexts:
    """Parse `Contexts.head`."""
    start = reader.offset
    packed, zero = reader.take(2)
    kind, width = packed & 3, packed >> 2 & 7
    if not 1 <= width <= 5 or not zero or (kind != SCALES and not 1 < view.places <= MAX_PLACES):
        raise FormatError(
            f"contexts {packed:#04x}, {zero}", offset=start, expected="width 1-5, a zero weight, slices"
        )
    mean, left, right = (
        reader.varint(LARGEST_MEAN),
        reader.varint(LARGEST_TOKEN),
        reader.varint(LARGEST_TOKEN),
    )
    if not mean or not left + right or (kind == SIGNS and left != right):
        raise FormatError(
            f"mean {mean}, tokens -{left} to {right}", offset=start, expected="a mean, two tokens or more"
        )
    offsets = _read_offsets(reader, view.rows + view.channels + view.places)
    ends = view.rows, view.rows + view.channels
    parts = offsets[: ends[0]], offsets[ends[0] : ends[1]], offsets[ends[1] :]
    return Contexts(kind, width, left, right, mean, zero, packed >> 5, parts)


def _offset_bytes(offsets: np.ndarray) -> bytes:
    """Their range, and unless all are zero, the learned code of them all, sized."""
    low, high = max(-int(offsets.min()), 0), max(int(offsets.max()), 0)
    if not low + high:
        return bytes(2)
    classes, stack = np.full(offsets.size, MIDDLE, np.uint8), np.empty(offsets.size + 2, np.uint32)
    at, state = learning.encode(offsets, low, high, classes, 1, *OFFSET_TABLE, stack)
    return bytes([low, high]) + sized(ans.to_bytes(stack[at:], state))


def _read_offsets(reader: BytesReader, count: int) -> np.ndarray:
    low, high = reader.varint(LARGEST_OFFSET), reader.varint(LARGEST_OFFSET)
    if not low + high:
        return np.zeros(count, np.int32)
    part = reader.part()
    start = part.offset
    words, state = ans.from_bytes(part.rest())
    classes, tables = np.full(count, MIDDLE, np.uint8), contexts.slice_tables(1, 1, 1, 3)
    out, at, state = contexts.decode(classes, 0, low, high, SCALES, 1, *OFFSET_TABLE, 1, tables, words, state)
    ans.check_empty(words, at, state, start)
    return out


def decode(reader: BytesReader, view: View, how: Contexts, centre: int) -> np.ndarray:
    """Tokens plus centre, int32 [n], up to the end of `reader`."""
    start = reader.offset
    words, state = ans.from_bytes(reader.rest())
    classes = contexts.spread_offsets(*how.offsets)
    tables = contexts.slice_tables(view.places if how.kind else 1, view.line, how.mean, how.width)
    out, at, state = contexts.decode(
        classes, centre, how.left, how.right, how.kind, STRENGTHS[how.kind], how.mean, how.width, how.zero,
        how.prior, view.line, tables, words, state,
    )  # fmt: skip
    ans.check_empty(words, at, state, start)
    return out
