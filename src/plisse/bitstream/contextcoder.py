"""The two-pass context coder: choose a rule, count symbols per wave and class, then code them.

The table of a class in a wave is learned from what is known when the wave begins: the counts of the class and
of its neighbour classes in earlier waves, and a static table for the whole tensor. So no tables are sent but
that one, and encoder and decoder agree because all of it is integer arithmetic (`learned`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.bitstream.contexts import SCALES, Known, Rule
from plisse.bitstream.entropy import PartsDecoder, code_length, encode_parts, normalized
from plisse.bitstream.tables import EXPLICIT, GAUSS, LAPLACE, Static, fit_static, read_static
from plisse.bitstream.waves import WAVES, Grid2d, gather, histogram, scatter, tally
from plisse.errors import FormatError

MAX_BLOCK = 256
SAMPLE = 1 << 14
"""Rules are compared on about this many symbols of the last wave."""
_PRIORS = (2, 4, 6, 8, 10)
_COUNT_BITS = 14
_SIGNS_MUST_SAVE = 0.003
"""Looking at signs takes time, so it is only done where it saves this share of a tensor."""
_SPARSE = 4
"""Ways of learning are compared on every fourth wave."""


@dataclass(frozen=True)
class Learning:
    """How tables are learned. prior: the static table weighs as much as 2^prior symbols. mirrored: a quarter
    of each count goes to the token of the other sign."""

    prior: int
    mirrored: bool


def learned(counts: np.ndarray, static: Static, base: np.ndarray, how: Learning) -> np.ndarray:
    """Tables [classes, A] from the counts [classes, A] of earlier waves and the static table [A].

    Weights in units of 2^-14: the class itself counts 1, those of the next magnitudes 1/2, of the second next
    1/8, and those of the next strengths of the sign 1/4.
    """
    own = counts.reshape(SCALES, -1, static.size) << _COUNT_BITS  # [scales, strengths, A]
    if how.mirrored:
        reach = min(static.left, static.right)
        middle = own[:, 0, static.left - reach : static.left + reach + 1]
        middle += (middle[:, ::-1] - middle) >> 2
    weights = own.copy()
    for distance, shift in ((1, 1), (2, 3)):
        weights[distance:] += own[:-distance] >> shift
        weights[:-distance] += own[distance:] >> shift
    weights[:, 1:] += own[:, :-1] >> 2
    weights[:, :-1] += own[:, 1:] >> 2
    weights += base << (_COUNT_BITS + how.prior) >> 24
    return normalized(weights).reshape(counts.shape)


@dataclass(frozen=True, eq=False)
class Plan:
    """All that it takes to write a tensor with contexts. counts: [waves, classes, A]; symbols: per wave,
    sorted by class; before: counts summed over earlier waves; tables: [classes, A] per wave;
    bits: without the head."""

    static: Static
    rule: Rule
    how: Learning
    counts: np.ndarray
    before: np.ndarray
    symbols: list[np.ndarray]
    tables: list[np.ndarray] = field(default_factory=list)
    bits: float = float("inf")

    def to_bytes(self) -> bytes:
        parts = []
        for tables, counts, symbols in zip(self.tables, self.counts, self.symbols, strict=True):
            ends = counts.sum(1).cumsum()
            parts += [
                (symbols[end - size : end], table)
                for table, end, size in zip(tables, ends, counts.sum(1), strict=True)
                if size
            ]
        head = _head_bytes(self.static.form, self.rule, self.how) + self.static.to_bytes()
        return head + encode_parts(parts)

    def _tables(self, how: Learning, every: int = 1) -> list[np.ndarray]:
        base = self.static.table()
        return [learned(counts, self.static, base, how) for counts in self.before[::-every][::-1]]

    def tuned(self) -> Plan:
        """With a way of learning that costs few bits: from the middle outwards while that helps."""
        best = Learning(_PRIORS[2], False)
        bits = self._bits(best, _SPARSE)
        for priors, mirrored in ((_PRIORS[2:3], True), (_PRIORS[1::-1], None), (_PRIORS[3:], None)):
            for prior in priors:
                other = Learning(prior, best.mirrored if mirrored is None else mirrored)
                if (other_bits := self._bits(other, _SPARSE)) >= bits:
                    break
                best, bits = other, other_bits
        tables = self._tables(best)
        bits = sum(map(code_length, self.counts, tables))
        return replace(self, how=best, tables=tables, bits=bits)

    def _bits(self, how: Learning, every: int) -> float:
        return sum(map(code_length, self.counts[::-every][::-1], self._tables(how, every)))


def plan(tokens: np.ndarray, shape: tuple[int, ...], counts: np.ndarray, left: int) -> Plan:
    """The best plan that was found for tokens int16 [count] of a tensor, of which counts [A] are -left, ...

    Rules are ranked on a sample of the last wave; for small tensors the first two are worked out in full.
    """
    grid = Grid2d.of(shape)
    matrix = np.ascontiguousarray(tokens, np.int16).reshape(grid.rows, grid.columns)
    plain, even = _prior(counts, left), _prior(*_both_signs(counts, left))

    def static(rule: Rule) -> Static:
        return even if rule.sign else plain

    finalists = _ranked(matrix, grid, static)[: 2 if tokens.size <= 8 * SAMPLE else 1]
    plans = [_worked_out(matrix, grid, static(rule), rule).tuned() for rule in finalists]
    return min(plans, key=lambda plan: plan.bits)


def _prior(counts: np.ndarray, left: int) -> Static:
    """The static table to begin with: it codes the first waves, a small part of all symbols."""
    fits = fit_static(counts, left, (EXPLICIT, LAPLACE, GAUSS))
    return min(fits, key=lambda fit: 8 * fit.n_bytes() + code_length(counts, fit.table()) / 16)


def _both_signs(counts: np.ndarray, left: int) -> tuple[np.ndarray, int]:
    """Counts when each token is as likely as the one of the other sign, and the new left end."""
    reach = max(left, len(counts) - 1 - left)
    wide = np.zeros(2 * reach + 1, np.int64)
    wide[reach - left : reach - left + len(counts)] = counts
    return wide + wide[::-1], reach


def decode_contexts(reader: BytesReader, shape: tuple[int, ...]) -> np.ndarray:
    """Read back the tokens, int16 [count], that `Plan.to_bytes` wrote, up to the end of `reader`."""
    static, rule, how = read_head(reader)
    grid = Grid2d.of(shape)
    decoder = PartsDecoder(offset=reader.offset, data=reader.rest())
    tokens = np.zeros((grid.rows, grid.columns), np.int16)
    counts = np.zeros((rule.classes, static.size), np.int64)
    base, known = static.table(), Known(grid, rule.block, tokens)
    for wave in WAVES:
        classes = known.classes(wave, rule)
        tables = learned(counts, static, base, how)
        sizes = histogram(classes, 0, 256).reshape(2, -1).sum(0)[: rule.classes]
        symbols = np.empty(classes.size, np.int32)
        ends = sizes.cumsum()
        for index in np.flatnonzero(sizes):
            piece = decoder.decode(tables[index], int(sizes[index]))
            symbols[ends[index] - sizes[index] : ends[index]] = piece
            counts[index] += histogram(piece, 0, static.size)
        scatter(tokens, symbols, classes, ends - sizes, -static.left, *wave)
        known.add(tokens, wave)
    decoder.finish()
    return tokens.reshape(-1)


def read_head(reader: BytesReader) -> tuple[Static, Rule, Learning]:
    """The rule, the way of learning and the static table at the start of a tensor coded with contexts."""
    start = reader.offset
    powers, first, second, third = reader.take(4)
    sign, block = (packed := reader.varint(4 * MAX_BLOCK + 3)) & 3, packed >> 2
    if powers & 3 > 2 or third & 7 > 5:
        raise FormatError(
            f"table form {powers & 3}, width {third & 7}", offset=start, expected="form 0-2, width 0-5"
        )
    trust, shrink = 1 << (powers >> 2 & 7), 1 << (powers >> 5)
    weights = (first & 15, first >> 4, second & 15, second >> 4)
    rule = Rule(*weights, block, trust, third & 7, shrink, sign)
    return read_static(reader, powers & 3), rule, Learning(third >> 4, bool(third & 8))


def _head_bytes(form: int, rule: Rule, how: Learning) -> bytes:
    powers = form | (rule.trust.bit_length() - 1) << 2 | (rule.shrink.bit_length() - 1) << 5
    weights = [rule.row | rule.column << 4, rule.channel | rule.place << 4]
    learning = rule.width | how.mirrored << 3 | how.prior << 4
    return bytes([powers, *weights, learning]) + varint(rule.sign | rule.block << 2)


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


def _ranked(matrix: np.ndarray, grid: Grid2d, static: Callable[[Rule], Static]) -> list[Rule]:
    """Rules by what the last wave would cost: first which neighbours, then signs, then widths."""
    row_stride = max(matrix.size // (4 * SAMPLE), 1)
    known: dict[int, Known] = {}
    bits: dict[Rule, float] = {}

    def consider(rules: list[Rule]) -> list[Rule]:
        for rule in rules:
            if rule.block not in known:
                known[rule.block] = Known(grid, rule.block)
                for wave in ((2, 0), (4, 1)):  # all but the last
                    known[rule.block].add(matrix, wave, row_stride)
            classes = known[rule.block].classes(WAVES[-1], rule, row_stride)
            low, size = -static(rule).left, static(rule).size
            counts = tally(matrix, classes, rule.classes, low, size, *WAVES[-1], row_stride)
            bits[rule] = _estimate(counts, 4 * row_stride) * (1 + _SIGNS_MUST_SAVE * bool(rule.sign))
        return sorted(bits, key=lambda rule: bits[rule])

    best = consider(candidate_rules(grid))
    best = consider([replace(rule, sign=sign) for rule in best[:2] for sign in (1, 2, 3)])
    return consider([replace(rule, width=width) for rule in best[:2] for width in (2, 4, 5)])


def _estimate(counts: np.ndarray, times: int) -> float:
    """Bits for symbols with these counts [classes, A] and `times` as many, with what learning costs."""
    sizes = counts.sum(1)
    entropy = (sizes * np.log2(np.maximum(sizes, 1))).sum() - (counts * np.log2(np.maximum(counts, 1))).sum()
    parameters = (np.log2(1 + sizes * times) * (counts > 0).sum(1)).sum() / 2
    return float(entropy * times + parameters)


def _worked_out(matrix: np.ndarray, grid: Grid2d, static: Static, rule: Rule) -> Plan:
    known = Known(grid, rule.block)
    all_counts, all_symbols = [], []
    for wave in WAVES:
        classes = known.classes(wave, rule)
        counts = tally(matrix, classes, rule.classes, -static.left, static.size, *wave, 1)
        sizes = counts.sum(1)
        all_symbols.append(gather(matrix, classes, sizes.cumsum() - sizes, -static.left, *wave))
        all_counts.append(counts)
        known.add(matrix, wave, 1)
    stacked = np.stack(all_counts)
    before = stacked.cumsum(0) - stacked
    return Plan(static, rule, Learning(8, False), stacked, before, all_symbols)
