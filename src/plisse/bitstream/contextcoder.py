"""The two-pass context coder: choose a rule, count symbols per wave and class, then code them.

The table of a class in a wave is learned from what is known when the wave begins: the counts of the class and
of its neighbour classes in earlier waves, and a static table for the whole tensor. So no tables are sent but
that one, and encoder and decoder agree because all of it is integer arithmetic (`learned`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.bitstream.contexts import CLASSES, WAVES, Grid2d, Known, Rule, gather, scatter, tally
from plisse.bitstream.entropy import PartsDecoder, code_length, encode_parts, normalized
from plisse.bitstream.tables import Static, read_static
from plisse.errors import FormatError

MAX_BLOCK = 256
SAMPLE = 1 << 15
"""Rules are compared on about this many symbols of the last wave."""
_PRIORS = (2, 4, 6, 8, 10)
_COUNT_BITS = 14


@dataclass(frozen=True)
class Learning:
    """How tables are learned. prior: the static table weighs as much as 2^prior symbols. mirrored: a quarter
    of each count goes to the token of the other sign."""

    prior: int
    mirrored: bool


def learned(counts: np.ndarray, static: Static, base: np.ndarray, how: Learning) -> np.ndarray:
    """Tables [classes, A] from the counts [classes, A] of earlier waves and the static table [A].

    Weights in units of 2^-14: the class itself counts 1, the classes beside it 1/2, the next ones 1/8.
    """
    own = counts << _COUNT_BITS
    if how.mirrored:
        reach = min(static.left, static.right)
        middle = slice(static.left - reach, static.left + reach + 1)
        own[:, middle] += (own[:, middle][:, ::-1] - own[:, middle]) >> 2
    weights = own.copy()
    for distance, shift in ((1, 1), (2, 3)):
        weights[distance:] += own[:-distance] >> shift
        weights[:-distance] += own[distance:] >> shift
    return normalized(weights + (base << (_COUNT_BITS + how.prior) >> 24))


@dataclass(frozen=True, eq=False)
class Plan:
    """All that it takes to write a tensor with contexts. counts: [waves, classes, A]; symbols: per wave,
    sorted by class."""

    static: Static
    rule: Rule
    how: Learning
    counts: np.ndarray
    symbols: list[np.ndarray]
    bits: float

    def to_bytes(self) -> bytes:
        parts = []
        for tables, counts, symbols in zip(self.tables(self.how), self.counts, self.symbols, strict=True):
            ends = counts.sum(1).cumsum()
            parts += [
                (symbols[end - size : end], table)
                for table, end, size in zip(tables, ends, counts.sum(1), strict=True)
                if size
            ]
        head = _head_bytes(self.static.form, self.rule, self.how) + self.static.to_bytes()
        return head + encode_parts(parts)

    def tables(self, how: Learning) -> list[np.ndarray]:
        before = np.concatenate([np.zeros_like(self.counts[:1]), self.counts.cumsum(0)[:-1]])
        base = self.static.table()
        return [learned(counts, self.static, base, how) for counts in before]

    def tuned(self) -> Plan:
        """With a way of learning that costs few bits: from the middle outwards while that helps."""
        best = self._learning(Learning(_PRIORS[2], False))
        best = min(best, self._learning(Learning(_PRIORS[2], True)), key=_bits)
        for priors in (_PRIORS[1::-1], _PRIORS[3:]):
            for prior in priors:
                other = self._learning(Learning(prior, best.how.mirrored))
                if other.bits >= best.bits:
                    break
                best = other
        return best

    def _learning(self, how: Learning) -> Plan:
        bits = sum(code_length(c, t) for c, t in zip(self.counts, self.tables(how), strict=True))
        return replace(self, how=how, bits=bits)


def _bits(plan: Plan) -> float:
    return plan.bits


def plan(tokens: np.ndarray, shape: tuple[int, ...], static: Static) -> Plan:
    """The best plan that was found for tokens int16 [count] of a tensor.

    Rules are ranked on a sample of the last wave; for small tensors the first three are worked out in full.
    """
    grid = Grid2d.of(shape)
    matrix = np.ascontiguousarray(tokens, np.int16).reshape(grid.rows, grid.columns)
    finalists = _ranked(matrix, grid, static)[: 3 if tokens.size <= 4 * SAMPLE else 1]
    return min((_worked_out(matrix, grid, static, rule).tuned() for rule in finalists), key=_bits)


def decode_contexts(reader: BytesReader, shape: tuple[int, ...]) -> np.ndarray:
    """Read back the tokens, int16 [count], that `Plan.to_bytes` wrote, up to the end of `reader`."""
    static, rule, how = read_head(reader)
    grid = Grid2d.of(shape)
    decoder = PartsDecoder(offset=reader.offset, data=reader.rest())
    tokens = np.zeros((grid.rows, grid.columns), np.int16)
    counts = np.zeros((CLASSES, static.size), np.int64)
    base, known = static.table(), Known(grid, rule.block)
    for wave in range(len(WAVES)):
        classes = known.classes(wave, rule)
        tables = learned(counts, static, base, how)
        sizes = np.bincount(classes, minlength=CLASSES)
        symbols = np.empty(classes.size, np.int32)
        ends = sizes.cumsum()
        for index in np.flatnonzero(sizes):
            piece = decoder.decode(tables[index], int(sizes[index]))
            symbols[ends[index] - sizes[index] : ends[index]] = piece
            counts[index] += np.bincount(piece, minlength=static.size)
        scatter(tokens, symbols, classes, ends - sizes, -static.left, *WAVES[wave])
        known.add(tokens, wave)
    decoder.finish()
    return tokens.reshape(-1)


def read_head(reader: BytesReader) -> tuple[Static, Rule, Learning]:
    """The rule, the way of learning and the static table at the start of a tensor coded with contexts."""
    start = reader.offset
    powers, first, second, third = reader.take(4)
    block = reader.varint(MAX_BLOCK)
    if powers & 3 > 2 or third & 7 > 5:
        raise FormatError(
            f"table form {powers & 3}, width {third & 7}", offset=start, expected="form 0-2, width 0-5"
        )
    trust, shrink = 1 << (powers >> 2 & 7), 1 << (powers >> 5)
    weights = (first & 15, first >> 4, second & 15, second >> 4)
    rule = Rule(*weights, block, trust, third & 7, shrink)
    return read_static(reader, powers & 3), rule, Learning(third >> 4, bool(third & 8))


def _head_bytes(form: int, rule: Rule, how: Learning) -> bytes:
    powers = form | (rule.trust.bit_length() - 1) << 2 | (rule.shrink.bit_length() - 1) << 5
    weights = [rule.row | rule.column << 4, rule.channel | rule.place << 4]
    learning = rule.width | how.mirrored << 3 | how.prior << 4
    return bytes([powers, *weights, learning]) + varint(rule.block)


def candidate_rules(grid: Grid2d) -> list[Rule]:
    """Rules worth trying: for matrices by row, column and runs; for filters by slice, channel and place."""
    if grid.places == 1:
        return [
            Rule(8, 8, shrink=16),
            Rule(8, 0, shrink=16),
            Rule(0, 8, shrink=16),
            Rule(8, 8, block=32, trust=32, shrink=8),
            Rule(8, 8, block=16, trust=8),
        ]
    block = grid.places if grid.places <= MAX_BLOCK else 16
    return [
        Rule(8, 8),
        Rule(8, 0),
        Rule(8, 0, 8, 8),
        Rule(8, 4, 4, 4, block, trust=2),
        Rule(8, 0, 8, 8, block, trust=4),
        Rule(8, 2, 6, 6, block, trust=4),
        Rule(8, 4, 4, 0, block, trust=4),
    ]


def _ranked(matrix: np.ndarray, grid: Grid2d, static: Static) -> list[Rule]:
    row_stride = max(matrix.size // (2 * SAMPLE), 1)
    known: dict[int, Known] = {}

    def estimate(rule: Rule) -> float:
        if rule.block not in known:
            known[rule.block] = Known(grid, rule.block)
            for wave in range(len(WAVES) - 1):
                known[rule.block].add(matrix, wave, row_stride)
        classes = known[rule.block].classes(len(WAVES) - 1, rule, row_stride)
        counts = tally(matrix, classes, -static.left, static.size, *WAVES[-1], row_stride)
        per_class = counts.sum(1)
        bits = (per_class * np.log2(np.maximum(per_class, 1))).sum() - (
            counts * np.log2(np.maximum(counts, 1))
        ).sum()
        parameters = (np.log2(1 + per_class * row_stride * 2) * ((counts > 0).sum(1))).sum() / 2
        return float(bits * row_stride * 2 + parameters)

    scored = sorted(
        ((estimate(rule), i, rule) for i, rule in enumerate(candidate_rules(grid))), key=lambda s: s[:2]
    )
    widths = [replace(rule, width=width) for _, _, rule in scored[:2] for width in (2, 4, 5)]
    scored += [(estimate(rule), 100 + i, rule) for i, rule in enumerate(widths)]
    return [rule for _, _, rule in sorted(scored, key=lambda s: s[:2])]


def _worked_out(matrix: np.ndarray, grid: Grid2d, static: Static, rule: Rule) -> Plan:
    known = Known(grid, rule.block)
    all_counts, all_symbols = [], []
    for wave in range(len(WAVES)):
        classes = known.classes(wave, rule)
        counts = tally(matrix, classes, -static.left, static.size, *WAVES[wave], 1)
        sizes = counts.sum(1)
        all_symbols.append(gather(matrix, classes, sizes.cumsum() - sizes, -static.left, *WAVES[wave]))
        all_counts.append(counts)
        known.add(matrix, wave, 1)
    return Plan(static, rule, Learning(8, False), np.stack(all_counts), all_symbols, float("inf"))
