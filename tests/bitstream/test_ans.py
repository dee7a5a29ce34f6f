"""The compiled coder writes and reads the stream of constriction's AnsCoder, one table per symbol."""

from __future__ import annotations

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plisse.bitstream import ans
from plisse.bitstream.entropy import code_length
from plisse.errors import FormatError

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def tables(seed: int, count: int, size: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([ans.normalized(random.integers(0, 1000, size) ** 3) for _ in range(count)])


def running(found: np.ndarray) -> np.ndarray:
    sums = np.zeros((found.shape[0], found.shape[1] + 1), np.uint32)
    sums[:, 1:] = found.cumsum(1)
    return sums.reshape(-1)


def pushed(symbols: np.ndarray, classes: np.ndarray, found: np.ndarray) -> bytes:
    words, slots = np.empty(symbols.size + 2, np.uint32), np.arange(len(found))
    sums, inverses = running(found), np.empty(found.size + len(found), np.uint64)
    for slot in slots:
        ans.set_inverses(sums, slot, found.shape[1], inverses)
    at, state = ans.push_all(
        symbols, 0, classes, slots, sums, inverses, found.shape[1], 0, symbols.size, words, words.size,
        np.uint64(0),
    )  # fmt: skip
    return ans.to_bytes(words[at:], state)


def popped(data: bytes, classes: np.ndarray, found: np.ndarray) -> np.ndarray:
    words, state = ans.from_bytes(data)
    size, slots, out = found.shape[1], np.arange(len(found)), np.full(classes.size, -1, np.int32)
    lookup = np.zeros(len(found) << ans.LOOKUP_BITS, np.uint16)
    for slot in slots:
        ans.fill_lookup(running(found), slot, size, lookup)
    at, state = ans.pop_all(
        out, 0, classes, slots, running(found), lookup, size, 0, out.size, words, 0, state
    )
    ans.check_empty(words, at, state, 7)
    return out


def reference(table: np.ndarray) -> constriction.stream.model.Categorical:
    """constriction gives entry i the frequency 1 + w_i (2^24 - n) / sum(w): with w_i = frequency_i - 1 the
    factor is one, and all sums are integers below 2^53, so that nothing is rounded."""
    return constriction.stream.model.Categorical((table - 1).astype(np.float64), perfect=False)


@QUICK
@given(st.integers(2, 600), st.integers(1, 5), st.integers(0, 400), st.integers(0, 99))
def test_the_stream_is_the_one_of_constriction_both_ways(size: int, many: int, n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    found = tables(seed, many, size)
    classes = random.integers(0, many, n).astype(np.uint8)
    symbols = random.integers(0, size, n).astype(np.int32)
    coder = constriction.stream.stack.AnsCoder()
    for symbol, which in zip(symbols[::-1], classes[::-1], strict=True):
        coder.encode_reverse(np.array([symbol], np.int32), reference(found[which]))
    theirs = np.array(coder.get_compressed(), np.uint32).astype("<u4").tobytes().rstrip(b"\0")
    ours = pushed(symbols, classes, found)
    assert ours == theirs
    assert np.array_equal(popped(theirs, classes, found), symbols)
    words = np.frombuffer(ours + bytes(-len(ours) % 4), "<u4").astype(np.uint32)
    reader = constriction.stream.stack.AnsCoder(words)
    for symbol, which in zip(symbols, classes, strict=True):
        assert reader.decode(reference(found[which]), 1)[0] == symbol
    assert reader.is_empty()


def test_long_runs_of_one_table_match_constriction() -> None:
    for size in (2, 31, 511, 2047):
        found = tables(size, 1, size)
        random = np.random.default_rng(1)
        symbols = random.choice(size, 20000, p=found[0] / ans.TOTAL).astype(np.int32)
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, reference(found[0]))
        theirs = np.array(coder.get_compressed(), np.uint32).astype("<u4").tobytes().rstrip(b"\0")
        classes = np.zeros(symbols.size, np.uint8)
        assert pushed(symbols, classes, found) == theirs
        assert np.array_equal(popped(theirs, classes, found), symbols)
        bits = code_length(np.bincount(symbols, minlength=size), found[0])
        assert abs(8 * len(theirs) - bits) < 64


def test_rare_symbols_are_coded_by_the_exact_frequency() -> None:
    table = np.array([[1, ans.TOTAL - 3, 2]])
    for symbol, bits in ((0, 24), (2, 23)):
        data = pushed(np.array([symbol] * 1000 + [2], np.int32), np.zeros(1001, np.uint8), table)
        assert abs(8 * len(data) - 1000 * bits) < 64


@QUICK
@given(st.binary(max_size=60), st.integers(2, 2047), st.integers(0, 500))
def test_any_bytes_decode_to_symbols_or_are_refused(data: bytes, size: int, n: int) -> None:
    found, classes = tables(size, 2, size), (np.arange(n) % 2).astype(np.uint8)
    try:
        out = popped(data, classes, found)
    except FormatError:
        return
    assert ((out >= 0) & (out < size)).all()


def test_left_over_bytes_are_refused() -> None:
    table = np.array([[1 << 23, 1 << 23]])
    data = pushed(np.ones(99, np.int32), np.zeros(99, np.uint8), table)
    with pytest.raises(FormatError, match="byte 7"):
        popped(data + b"\1", np.zeros(99, np.uint8), table)


@QUICK
@given(st.lists(st.integers(0, 2**45), min_size=2, max_size=300))
def test_tables_sum_to_the_total_and_have_no_zero(weights: list[int]) -> None:
    table = ans.normalized(np.array(weights, np.int64))
    assert table.sum() == ans.TOTAL
    assert table.min() >= 1
    exact = np.array(weights) / max(sum(weights), 1) * (ans.TOTAL - len(weights)) + 1
    others = np.arange(len(weights)) != np.argmax(weights)
    assert np.abs(table - exact)[others].max(initial=0) <= 2
