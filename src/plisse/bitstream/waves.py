"""The order of a tensor's symbols: interleaved waves, each sorted by class.

A tensor is seen as a matrix [O, W]: rows are its first axis, columns the rest, W = I K with K positions of a
filter (K = 1 for a matrix). Position (r, c) has the phase (5 r + c) mod 64, which sorts positions into waves:
phases that are multiples of 4, then the other even ones, then the odd ones, whose direct neighbours are all
known. Each of these groups begins with small waves and doubles, since tables are learned from wave to wave.

A class is a byte: the number of the class, and 128 where the sign of the token is to be turned round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

ROW_STEP = 5
WAVES = (
    *((64, 0), (64, 32), (32, 16), (16, 8), (8, 4)),
    *((32, 2), (32, 18), (16, 10), (8, 6)),
    *((32, 1), (32, 17), (16, 9), (8, 5), (4, 3)),
)
"""(stride, offset): a wave holds the positions with (5 r + c) mod stride = offset."""
TURNED = 128


@dataclass(frozen=True)
class Grid2d:
    """The matrix that a tensor is seen as: [rows, columns], columns = channels * places; the places of a
    filter lie `line` by `line` (its last axis)."""

    rows: int
    columns: int
    places: int
    line: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Grid2d:
        rows = shape[0] if len(shape) > 1 else 1
        places = math.prod(shape[2:])
        return cls(rows, math.prod(shape) // max(rows, 1), places, shape[-1] if len(shape) > 2 else 1)

    def wave_size(self, wave: tuple[int, int]) -> int:
        stride, offset = wave
        first = (offset - ROW_STEP * np.arange(min(self.rows, stride))) % stride
        lengths = np.maximum((self.columns - first + stride - 1) // stride, 0)
        repeats = (self.rows - np.arange(len(first)) + stride - 1) // stride
        return int((lengths * repeats).sum())


@njit(cache=True, nogil=True)
def gather(tokens, classes, starts, low, stride, offset):  # type: ignore[no-untyped-def]
    """Tokens of a wave less `low`, class by class, int32; `starts` says where each class begins."""
    out = np.empty(classes.size, np.int32)
    n = 0
    for r in range(tokens.shape[0]):
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            index = classes[n] & 127
            at = starts[index]
            token = np.int32(tokens[r, c])
            out[at] = (-token if classes[n] >= 128 else token) - low
            starts[index] = at + 1
            n += 1
    return out


@njit(cache=True, nogil=True)
def scatter(tokens, symbols, classes, starts, low, stride, offset):  # type: ignore[no-untyped-def]
    """The inverse of `gather`, into `tokens`."""
    n = 0
    for r in range(tokens.shape[0]):
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            index = classes[n] & 127
            at = starts[index]
            token = symbols[at] + low
            tokens[r, c] = -token if classes[n] >= 128 else token
            starts[index] = at + 1
            n += 1


@njit(cache=True, nogil=True)
def tally(tokens, classes, n_classes, low, size, stride, offset, row_stride):  # type: ignore[no-untyped-def]
    """How often each token occurs in each class of a wave, int64 [n_classes, size]."""
    counts = np.zeros((n_classes, size), np.int64)
    n = 0
    for r in range(0, tokens.shape[0], row_stride):
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            token = np.int32(tokens[r, c])
            counts[classes[n] & 127, (-token if classes[n] >= 128 else token) - low] += 1
            n += 1
    return counts


@njit(cache=True, nogil=True)
def histogram(values, low, size):  # type: ignore[no-untyped-def]
    """How often each of the numbers low, low + 1, ... occurs, int64 [size]."""
    counts = np.zeros(size, np.int64)
    for value in values:
        counts[np.int64(value) - low] += 1
    return counts
