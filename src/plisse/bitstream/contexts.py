"""Contexts: how large a symbol is likely to be, judged by the neighbours that are coded already.

A tensor is seen as a matrix [O, W]: rows are its first axis, columns the rest, W = I K with K positions of a
filter (K = 1 for a matrix). Position (r, c) has the phase (5 r + c) mod 64, which sorts positions into seven
waves of 1/64, 1/64, 1/32, ... 1/4 and 1/2 of all, so that in the last wave all direct neighbours are known.
For every position of a wave, mean magnitudes over the known symbols of its row, column, input channel and
filter position are multiplied (their logarithms added, with weights) to a prediction; the known symbols of
its block (a run of columns; the kernel slice where K > 1) correct it; and the logarithm of the result,
rounded, is the class of the position. All arithmetic is in integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from plisse.bitstream.entropy import EXP2, LOG2

ROW_STEP = 5
WAVES = ((64, 0), (64, 32), (32, 16), (16, 8), (8, 4), (4, 2), (2, 1))
"""(stride, offset): a wave holds the positions with (5 r + c) mod stride = offset."""
CLASSES = 24
"""Class 12 is the overall mean."""
_FINE = 8
"""Magnitudes count in units of 2^-8 in means."""


@dataclass(frozen=True)
class Rule:
    """How one tensor combines its neighbourhoods.

    row, column, channel, place: weights of log-means in eighths, 0 to 15. shrink: each of these means starts
    with this many values of the overall mean, a power of two from 1 to 128. block: columns in a block, 0 for
    none. trust: the prediction counts as this many known values against those of the block, a power of two
    from 1 to 128. width: classes
    are 2^width / 32 octaves wide.
    """

    row: int = 8
    column: int = 8
    channel: int = 0
    place: int = 0
    block: int = 0
    trust: int = 4
    width: int = 3
    shrink: int = 4


@dataclass(frozen=True)
class Grid2d:
    """The matrix that a tensor is seen as: [rows, columns], columns = channels * places."""

    rows: int
    columns: int
    places: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Grid2d:
        rows = shape[0] if len(shape) > 1 else 1
        return cls(rows, math.prod(shape) // max(rows, 1), math.prod(shape[2:]))

    def wave_size(self, wave: int) -> int:
        stride, offset = WAVES[wave]
        first = (offset - ROW_STEP * np.arange(min(self.rows, stride))) % stride
        lengths = np.maximum((self.columns - first + stride - 1) // stride, 0)
        repeats = (self.rows - np.arange(len(first)) + stride - 1) // stride
        return int((lengths * repeats).sum())


class Known:
    """Sums of magnitudes, and how many there are, over what is coded so far."""

    def __init__(self, grid: Grid2d, block: int) -> None:
        self.grid, self.block = grid, max(block, 1)
        self.rows = np.zeros((2, grid.rows), np.int64)
        self.columns = np.zeros((2, grid.columns), np.int64)
        blocks = -(-grid.columns // self.block) if block else 0
        self.blocks = np.zeros((2, grid.rows if block else 0, blocks), np.uint16)

    def add(self, tokens: np.ndarray, wave: int, row_stride: int = 1) -> None:
        """Take in the tokens [O, W] of a wave; blocks only in every `row_stride`-th row."""
        stride, offset = WAVES[wave]
        _add(tokens, stride, offset, self.rows, self.columns, self.blocks, self.block, row_stride)

    def classes(self, wave: int, rule: Rule, row_stride: int = 1) -> np.ndarray:
        """The class of every position of a wave, row by row, uint8 [wave size]. With a row stride, only
        every so many rows (to compare rules on a sample)."""
        grid = self.grid
        stride, offset = WAVES[wave]
        rows = range(0, grid.rows, row_stride)
        size = grid.wave_size(wave) if row_stride == 1 else len(rows) * (-(-grid.columns // stride))
        out = np.zeros(size, np.uint8)
        total, count = int(self.rows[0].sum()), int(self.rows[1].sum())
        if not count:
            out[:] = CLASSES // 2
            return out
        mean = max((total << _FINE) // count, 1)
        by_channel = self.columns.reshape(2, -1, grid.places).sum(2)
        by_place = self.columns.reshape(2, -1, grid.places).sum(1)
        row_term = rule.row * _log_means(self.rows, mean, rule.shrink)
        column_term = (
            rule.column * _log_means(self.columns, mean, rule.shrink)
            + np.repeat(rule.channel * _log_means(by_channel, mean, rule.shrink), grid.places)
            + np.tile(rule.place * _log_means(by_place, mean, rule.shrink), by_channel.shape[1])
        )
        n = _classes(
            out, row_term, column_term, self.blocks, grid.columns, self.block, mean, rule.trust, rule.width,
            stride, offset, row_stride, LOG2, EXP2,
        )  # fmt: skip
        return out[:n]


def _log_means(sums: np.ndarray, mean: int, shrink: int) -> np.ndarray:
    """32 log2 of (sum, count) means, shrunk towards and relative to the overall mean, int32."""
    shrunk = (sums[0] << _FINE) + shrink * mean
    logs = _logs(shrunk, LOG2) - _logs(sums[1] + shrink, LOG2) - _logs(np.array([mean]), LOG2)
    return logs.astype(np.int32)


@njit(cache=True, nogil=True, inline="always")
def _log2(x, table):  # type: ignore[no-untyped-def]
    shift = 0
    while x >= 4096:
        x >>= 4
        shift += 4 * 32
    return table[x] + shift


@njit(cache=True, nogil=True)
def _logs(values, table):  # type: ignore[no-untyped-def]
    out = np.empty(values.shape, np.int64)
    for i in range(values.size):
        out[i] = _log2(values[i], table)
    return out


@njit(cache=True, nogil=True)
def _add(tokens, stride, offset, rows, columns, blocks, block, row_stride):  # type: ignore[no-untyped-def]
    for r in range(tokens.shape[0]):
        blocked = blocks.shape[1] > 0 and r % row_stride == 0
        row_sum = 0
        n = 0
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            size = min(abs(tokens[r, c]), 255)
            row_sum += size
            n += 1
            columns[0, c] += size
            columns[1, c] += 1
            if blocked:
                b = c // block
                blocks[0, r, b] += size
                blocks[1, r, b] += 1
        rows[0, r] += row_sum
        rows[1, r] += n


@njit(cache=True, nogil=True)
def _classes(  # type: ignore[no-untyped-def]
    out, row_term, column_term, blocks, width, block, mean, trust, step, stride, offset, row_stride,
    log_table, exp_table,
):  # type: ignore[no-untyped-def]  # fmt: skip
    blocked = blocks.shape[1] > 0
    log_mean = _log2(mean, log_table)
    half = (1 << step) >> 1
    n = 0
    for r in range(0, row_term.shape[0], row_stride):
        for c in range((offset - 5 * r) % stride, width, stride):
            log = (row_term[r] + column_term[c]) >> 3
            log = min(max(log, -384), 384)
            if blocked:
                b = c // block
                known = np.int64(blocks[1, r, b])
                if known > 0:
                    expected = mean * exp_table[log & 31] << 12 >> (16 + 12 - (log >> 5))
                    blend = trust * expected + (np.int64(blocks[0, r, b]) << 8) + 1
                    log = _log2(blend, log_table) - _log2(trust + known, log_table) - log_mean
            index = ((log + half) >> step) + 12
            out[n] = min(max(index, 0), 23)
            n += 1
    return n


@njit(cache=True, nogil=True)
def gather(tokens, classes, starts, low, stride, offset):  # type: ignore[no-untyped-def]
    """Tokens of a wave less `low`, class by class, int32; `starts` says where each class begins."""
    out = np.empty(classes.size, np.int32)
    n = 0
    for r in range(tokens.shape[0]):
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            at = starts[classes[n]]
            out[at] = tokens[r, c] - low
            starts[classes[n]] = at + 1
            n += 1
    return out


@njit(cache=True, nogil=True)
def scatter(tokens, symbols, classes, starts, low, stride, offset):  # type: ignore[no-untyped-def]
    """The inverse of `gather`, into `tokens`."""
    n = 0
    for r in range(tokens.shape[0]):
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            at = starts[classes[n]]
            tokens[r, c] = symbols[at] + low
            starts[classes[n]] = at + 1
            n += 1


@njit(cache=True, nogil=True)
def tally(tokens, classes, low, size, stride, offset, row_stride):  # type: ignore[no-untyped-def]
    """How often each token occurs in each class of a wave, int64 [CLASSES, size]."""
    counts = np.zeros((24, size), np.int64)
    n = 0
    for r in range(0, tokens.shape[0], row_stride):
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            counts[classes[n], tokens[r, c] - low] += 1
            n += 1
    return counts
