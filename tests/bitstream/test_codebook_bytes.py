"""Tensors on grids that are tables, as bytes and back: levels, binary codes, vectors."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plisse.bitstream.codebookbytes import symbol_shape
from plisse.bitstream.tensors import coding_name, decode_tensor, encode_tensor
from plisse.core.stored import (
    Codes,
    Grid,
    Levels,
    Stored,
    Vectors,
    half_precision,
    n_blocks,
    to_bfloat16,
    zero_symbol,
)
from plisse.errors import FormatError, InputError

TESTED = settings(max_examples=120, deadline=None, derandomize=True)
MIB = 1 << 20


def halves(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers rounded to a 16-bit type."""
    if dtype == "float16":
        return numbers.astype(np.float16).astype(np.float32)
    return np.sign(numbers).astype(np.float32) * to_bfloat16(numbers)


@st.composite
def units(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Shape of scales, and values per group."""
    kind = draw(st.sampled_from(["one", "channel", "group"]))
    group = draw(st.integers(1, 40)) if kind == "group" else 0
    channels, width = (shape[0] if shape else 1), int(np.prod(shape[1:]))
    return {"one": (1,), "channel": (channels,), "group": (channels, -(-width // max(group, 1)))}[kind], group


@st.composite
def tensors(draw: st.DrawFn) -> Stored:
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["float16", "bfloat16"]))
    scale_shape, group = draw(units(shape))
    kind = draw(st.sampled_from(["levels", "scaled", "powers", "codes", "vectors"]))
    grid: Grid
    if kind == "codes":
        n = draw(st.integers(1, 8))
        grid, top = Codes(to_bfloat16(random.random((*scale_shape, n)) + 1e-3), group), 1 << n
    elif kind == "vectors":
        m, top, d = draw(st.integers(1, 3)), draw(st.integers(1, 300)), draw(st.integers(1, 11))
        grid = Vectors(halves(random.normal(size=(m, top, d)), dtype))
    else:
        top = draw(st.sampled_from([1, 2, 3, 15, 256, 4096]))
        scale = to_bfloat16(np.exp(random.normal(size=scale_shape)))
        if kind == "powers":
            scale = np.exp2(random.integers(-9, 5, scale_shape)).astype(np.float32)
        levels = halves(np.sort(random.normal(size=top)), dtype)
        grid = Levels(levels) if kind == "levels" else Levels(levels, scale, group)
    symbols = random.integers(0, top, symbol_shape(shape, grid)).astype(np.int32)
    return Stored(symbols, shape, grid)


def slow_values(stored: Stored) -> np.ndarray:
    """The formulas, number by number."""
    grid, shape = stored.grid, stored.shape
    out = np.zeros(shape, np.float32)
    width = int(np.prod(shape[1:]))
    for place, index in enumerate(np.ndindex(*shape)):
        channel, within = (index[0] if index else 0), (place % width if width else 0)
        if isinstance(grid, Vectors):
            block, offset = divmod(place, grid.codebooks.shape[2])
            terms = [book[stored.symbols[m, block], offset] for m, book in enumerate(grid.codebooks)]
        else:
            symbol = int(stored.symbols.reshape(shape)[index])
            table = grid.alphas if isinstance(grid, Codes) else grid.scale
            unit: tuple[int, ...] = ()
            if table is not None:
                depth = table.ndim - isinstance(grid, Codes)
                unit = (channel if len(table) > 1 else 0,) if depth == 1 else (channel, within // grid.group)
            if isinstance(grid, Codes):
                terms = [a if symbol >> i & 1 else -a for i, a in enumerate(grid.alphas[unit])]
            else:
                terms = [grid.levels[symbol] * (np.float32(1) if table is None else table[unit])]
        total = terms[0]
        for term in terms[1:]:
            total = np.float32(total + term)
        out[index] = total
    return out


@TESTED
@given(tensors())
def test_tensors_come_back_and_decode_by_the_formula(stored: Stored) -> None:
    data = encode_tensor(stored)
    back = decode_tensor(data)
    assert back.shape == stored.shape
    assert np.array_equal(back.symbols, stored.symbols)
    for field in dataclasses.fields(stored.grid):
        wanted, found = getattr(stored.grid, field.name), getattr(back.grid, field.name)
        assert np.array_equal(wanted, found) if wanted is not None else found is None
    values = np.asarray(back.values())
    assert values.dtype == np.float32
    assert values.shape == stored.shape
    assert np.array_equal(values, np.asarray(stored.values()))
    assert np.array_equal(values, slow_values(stored))
    assert encode_tensor(back) == data


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def floats_of(exponent: int, mantissa: int) -> np.ndarray:
    """All numbers of a small float, smallest first."""
    steps = [2.0 ** (max(e, 1) - 7) * (m / 2**mantissa + (e > 0)) for e in range(2**exponent)
             for m in range(2**mantissa)]  # fmt: skip
    return np.array(sorted({*steps, *(-s for s in steps)}), np.float32)


def test_tables_of_small_floats_take_few_bytes() -> None:
    symbols = np.random.default_rng(0).integers(0, 255, 20000).astype(np.int32)
    scaled = Stored(symbols, (20000,), Levels(floats_of(4, 3), np.ones(1, np.float32)))
    assert len(encode_tensor(scaled)) <= 20000 + 60


def test_scales_that_are_powers_of_two_take_few_bits() -> None:
    random = np.random.default_rng(0)
    powers = np.exp2(random.integers(-9, -5, (64, 32))).astype(np.float32)
    stored = Stored(np.zeros((64, 1024), np.int32), (64, 1024), Levels(np.ones(1, np.float32), powers, 32))
    assert len(encode_tensor(stored)) <= 2 / 8 * powers.size + 24


def test_binary_weights_take_one_bit() -> None:
    random = np.random.default_rng(0)
    signs = random.integers(0, 2, (16, 144)).astype(np.int32)
    data = encode_tensor(Stored(signs, signs.shape, Levels(np.array([-1, 1], np.float32))))
    assert len(data) <= signs.size / 8 + 16


TWO = np.array([-1.0, 1.0], np.float32)
BAD = {
    "a symbol too high": Stored(np.array([0, 2]), (2,), Levels(TWO)),
    "a symbol below zero": Stored(np.array([0, -1]), (2,), Codes(np.ones((1, 1), np.float32))),
    "no levels": Stored(np.zeros(2, int), (2,), Levels(TWO[:0])),
    "too many levels": Stored(np.zeros(2, int), (2,), Levels(np.zeros(4097, np.float32))),
    "a level of 32 bits": Stored(np.zeros(2, int), (2,), Levels(np.array([0.1], np.float32))),
    "mixed halves": Stored(np.zeros(2, int), (2,), Levels(np.array([1 + 2**-10, 2**60], np.float32))),
    "an infinite level": Stored(np.zeros(2, int), (2,), Levels(np.array([np.inf], np.float32))),
    "scales of another shape": Stored(np.zeros((3, 2), int), (3, 2), Levels(TWO, TWO)),
    "groups of nothing": Stored(np.zeros((3, 2), int), (3, 2), Levels(TWO, np.ones((3, 2), np.float32), 0)),
    "too many bits": Stored(np.zeros(2, int), (2,), Codes(np.ones((1, 9), np.float32))),
    "alphas of another shape": Stored(np.zeros((3, 2), int), (3, 2), Codes(np.ones((2, 2), np.float32))),
    "too few blocks": Stored(np.zeros((1, 2), int), (9,), Vectors(np.ones((1, 2, 4), np.float32))),
    "too many codebooks": Stored(np.zeros((17, 3), int), (9,), Vectors(np.ones((17, 2, 4), np.float32))),
    "flat codebooks": Stored(np.zeros((1, 9), int), (9,), Vectors(np.ones((1, 2), np.float32))),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_belong_together_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        encode_tensor(BAD[name])


def records() -> dict[str, bytes]:
    random = np.random.default_rng(8)
    shape = (16, 8, 3, 3)
    scale = to_bfloat16(np.exp(random.normal(size=(16, 3))))
    found = {}
    for name, grid, top in [
        ("levels", Levels(halves(np.sort(random.normal(size=16)), "float16")), 16),
        ("scaled", Levels(floats_of(4, 3), scale, 24), 255),
        ("codes", Codes(to_bfloat16(random.random((16, 3)) + 0.1)), 8),
        ("vectors", Vectors(halves(random.normal(size=(2, 16, 5)), "float16")), 16),
    ]:
        symbols = random.integers(0, top, symbol_shape(shape, grid)).astype(np.int32)
        found[name] = encode_tensor(Stored(symbols, shape, grid))
    return found


def decodes_or_refuses(data: bytes) -> None:
    offset = 0
    try:
        stored = decode_tensor(data)
        assert coding_name(data)
        if stored.symbols.size < 1 << 20:
            with np.errstate(all="ignore"):
                assert stored.values().shape == stored.shape
    except FormatError as error:
        offset = error.offset
    assert 0 <= offset <= len(data)


@pytest.mark.parametrize("name", records())
def test_damaged_records_are_refused_or_decode_within_bounds(name: str) -> None:
    random, record = np.random.default_rng(9), records()[name]
    tracemalloc.start()
    for cut in range(0, len(record), max(len(record) // 60, 1)):
        decodes_or_refuses(record[:cut])
    for _ in range(250):
        flipped = bytearray(record)
        for _ in range(int(random.integers(1, 4))):
            flipped[min(int(random.exponential(15)), len(record) - 1)] ^= 1 << int(random.integers(8))
        decodes_or_refuses(bytes(flipped))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB


@pytest.mark.parametrize("kind", [12, 13, 14])
def test_garbage_is_refused_or_stays_within_bounds(kind: int) -> None:
    random = np.random.default_rng(kind)
    tracemalloc.start()
    for _ in range(1000):
        head = bytes([kind | 16, int(random.integers(1, 100))])
        body = random.integers(0, 256, int(random.integers(0, 40)), np.uint8)
        body[random.random(body.size) < 0.5] %= 4
        decodes_or_refuses(head + body.tobytes())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB


HOSTILE = {
    "no levels": "1c 02 00",
    "too many levels": "1c 02 8120",
    "an unknown form of scales": "1c 02 01 06 00 0000",
    "a shift without scales": "1c 02 01 08 00 0000",
    "an infinite level": "1c 02 01 00 80fe03 0000",
    "a level beyond 16 bits": "1c 02 02 00 80fc03 03 00 80fc03",
    "a scale beyond 16 bits": "1c 02 01 7c 00 00 03 01 00 ffff 00",
    "a symbol too high": "1c 02 01 00 00 0002",
    "a symbol below zero": "1c 02 01 00 00 0001",
    "nine bits": "1d 02 09 00",
    "another form of codes": "1d 02 01 02 803f 0000",
    "no codebook": "1e 02 00 01 01 00",
    "17 codebooks": "1e 02 11 01 01 00",
    "no vector": "1e 02 01 00 01 00",
    "vectors of nothing": "1e 02 01 01 00 00",
    "vectors too long": "1e 02 01 01 8120 00",
    "codebooks too large": "1e 02 10 808004 8020 00 02 00 00 00 00",
    "another type": "1e 02 01 01 01 02 02 00 00 00 00",
    "a codebook of NaN": "1e 02 01 01 01 00 04 00 80fe03 00 00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grids_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        decode_tensor(bytes.fromhex(HOSTILE[name]))


def test_constant_tables_of_any_size_take_no_memory() -> None:
    tracemalloc.start()
    found = decode_tensor(bytes.fromhex("1e ffffffff07 01 808004 8020 00 02 00 00 00 00"))
    assert isinstance(found.grid, Vectors)
    assert found.grid.codebooks.shape == (1, 65536, 4096)
    codes = decode_tensor(bytes.fromhex("2d ffffffff07 01 02 01 00 040080fe01 040080fe01 0000"))
    assert isinstance(codes.grid, Codes)
    assert codes.grid.alphas.shape == (2**31 - 1, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB


def test_the_symbol_of_zero() -> None:
    symbols = np.zeros((2, 2), np.int32)
    assert zero_symbol(Stored(symbols, (2, 2), Levels(np.array([-1, 0, 1], np.float32)))) == 1
    assert zero_symbol(Stored(symbols, (2, 2), Levels(TWO))) is None
    assert zero_symbol(Stored(symbols, (2, 2), Codes(np.ones((1, 2), np.float32)))) is None
    assert zero_symbol(Stored(symbols, (4,), Vectors(np.zeros((2, 1, 2), np.float32)))) is None


def test_half_precision_names_a_type_that_holds_all() -> None:
    assert half_precision(np.array([1.0, -0.5], np.float32)) == "bfloat16"
    assert half_precision(np.array([1 + 2**-10], np.float32)) == "float16"
    assert half_precision(np.array([2.0**100], np.float32)) == "bfloat16"
    assert half_precision(np.array([1 + 2**-10, 2.0**100], np.float32)) is None
    assert half_precision(np.array([1e6 + 1], np.float32)) is None
    assert n_blocks((3, 5), 4) == 4
