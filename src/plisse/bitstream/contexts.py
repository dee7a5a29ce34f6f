"""Contexts: how large a symbol is likely to be, and of which sign, judged by neighbours coded already.

For every position of a wave (see `waves`), mean magnitudes over the known symbols of its row, column, input
channel and filter position are multiplied (their logarithms added, with weights) to a prediction; the known
symbols of its block (a run of columns; the kernel slice where K > 1) correct it; and the logarithm of the
result, rounded, is the class of the position. Filters are smooth, so that a symbol mostly has the sign of
those beside it: how large their sum is against the predicted magnitude splits each class in four, and where
the sum is negative the symbol is coded with its sign turned. All arithmetic is in integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from plisse.bitstream.entropy import EXP2, LOG2
from plisse.bitstream.waves import Grid2d

SCALES = 24
"""Classes of magnitude; the middle one, 12, is the overall mean."""
STRENGTHS = 4
WIDEST_SLICE = 64
_FINE = 8
"""Magnitudes count in units of 2^-8 in means."""


@dataclass(frozen=True)
class Rule:
    """How one tensor combines its neighbourhoods.

    row, column, channel, place: weights of log-means in eighths, 0 to 15. shrink: each of these means starts
    with this many values of the overall mean, a power of two from 1 to 128. block: columns in a block, 0 for
    none. trust: the prediction counts as this many known values against those of the block, a power of two
    from 1 to 128. width: classes are 2^width / 32 octaves wide. sign: 0 to leave signs alone, else the sum
    over direct neighbours counts 4 times and that over more distant ones 0, 2 or 4 times (1, 2, 3).
    """

    row: int = 8
    column: int = 8
    channel: int = 0
    place: int = 0
    block: int = 0
    trust: int = 4
    width: int = 3
    shrink: int = 4
    sign: int = 0

    @property
    def strengths(self) -> int:
        return STRENGTHS if self.sign else 1

    @property
    def classes(self) -> int:
        return SCALES * self.strengths


class Known:
    """What is coded so far: sums of magnitudes and how many there are, and the tokens (0 where not known)."""

    def __init__(self, grid: Grid2d, block: int, tokens: np.ndarray | None = None) -> None:
        self.grid, self.block = grid, max(block, 1)
        self.rows = np.zeros((2, grid.rows), np.int64)
        self.columns = np.zeros((2, grid.columns), np.int64)
        blocks = -(-grid.columns // self.block) if block else 0
        self.blocks = np.zeros((2, grid.rows if block else 0, blocks), np.uint16)
        self.tokens = np.zeros((grid.rows, grid.columns), np.int16) if tokens is None else tokens

    def add(self, tokens: np.ndarray, wave: tuple[int, int], row_stride: int = 1) -> None:
        """Take in the tokens [O, W] of a wave; blocks only in every `row_stride`-th row."""
        _add(tokens, self.tokens, *wave, self.rows, self.columns, self.blocks, self.block, row_stride)

    def classes(self, wave: tuple[int, int], rule: Rule, row_stride: int = 1) -> np.ndarray:
        """The class of every position of a wave, row by row, uint8 [wave size]. With a row stride, only
        every so many rows (to compare rules on a sample)."""
        grid = self.grid
        stride, offset = wave
        rows = range(0, grid.rows, row_stride)
        size = grid.wave_size(wave) if row_stride == 1 else len(rows) * (-(-grid.columns // stride))
        out = np.zeros(size, np.uint8)
        total, count = int(self.rows[0].sum()), int(self.rows[1].sum())
        if not count:
            out[:] = SCALES // 2 * rule.strengths
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
        if rule.sign:
            level = _log2(mean, LOG2)
            _signs(
                out, self.tokens, grid.places, grid.line, rule.sign, rule.width, level,
                stride, offset, row_stride, LOG2,
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
def _add(tokens, known, stride, offset, rows, columns, blocks, block, row_stride):  # type: ignore[no-untyped-def]
    for r in range(tokens.shape[0]):
        blocked = blocks.shape[1] > 0 and r % row_stride == 0
        row_sum = 0
        n = 0
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            known[r, c] = tokens[r, c]
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


@njit(cache=True, nogil=True, inline="always")
def _beside(tokens, r, c, places, line):  # type: ignore[no-untyped-def]
    """Sums over the known direct neighbours, and over those further away: the whole slice, or two steps."""
    near, far = 0, 0
    if places > 1:
        k = c % places
        near += tokens[r, c - 1] if k % line > 0 else 0
        near += tokens[r, c + 1] if k % line + 1 < line else 0
        near += tokens[r, c - line] if k >= line else 0
        near += tokens[r, c + line] if k + line < places else 0
        for i in range(c - k, c - k + (places if places <= 64 else 0)):
            far += tokens[r, i]
    else:
        height, width = tokens.shape
        near += tokens[r, c - 1] if c > 0 else 0
        near += tokens[r, c + 1] if c + 1 < width else 0
        near += tokens[r - 1, c] if r > 0 else 0
        near += tokens[r + 1, c] if r + 1 < height else 0
        far += tokens[r, c - 2] if c > 1 else 0
        far += tokens[r, c + 2] if c + 2 < width else 0
        far += tokens[r - 2, c] if r > 1 else 0
        far += tokens[r + 2, c] if r + 2 < height else 0
    return near, far


@njit(cache=True, nogil=True)
def _signs(out, tokens, places, line, sign, step, level, stride, offset, row_stride, log_table):  # type: ignore[no-untyped-def]
    n = 0
    for r in range(0, tokens.shape[0], row_stride):
        for c in range((offset - 5 * r) % stride, tokens.shape[1], stride):
            near, far = _beside(tokens, r, c, places, line)
            total = 4 * near + 2 * (sign - 1) * far
            strength = 0
            if total != 0:
                log = _log2(abs(total) << 6, log_table) - level - ((np.int64(out[n]) - 12) << step)
                strength = min(max((log + 48) >> 5, 0), 3)
            out[n] = out[n] * 4 + strength + (128 if strength > 0 and total < 0 else 0)
            n += 1
