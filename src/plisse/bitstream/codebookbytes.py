"""Grids that are tables: levels, binary codes and codebooks of vectors, as bytes and back."""

from __future__ import annotations

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, signed_varint, sized, varint
from plisse.bitstream.floatbits import decode_floats, encode_floats, from_half_bits, half_bits
from plisse.bitstream.symbols import decode_symbols, encode_symbols
from plisse.bitstream.units import (
    MAX_VALUES,
    check_scale,
    decode_units,
    distinct,
    encode_units,
    from_scale_bits,
    narrowed,
    one_scale,
    read_one_scale,
    scale_bits,
    unit_shape,
)
from plisse.core.stored import Codes, Levels, Stored, Vectors, half_precision, n_blocks
from plisse.errors import FormatError, InputError

MAX_LEVELS, MAX_CODE_BITS = 1 << 12, 8
MAX_CODEBOOKS, MAX_VECTORS, MAX_BLOCK = 16, 1 << 16, 1 << 12
HALVES = ("bfloat16", "float16")
_NO_SCALE, _ONE_SCALE, _SCALES = range(3)
_FINITE = {"bfloat16": 0x7F7F, "float16": 0x7BFF}
"""The bits of the largest finite number."""


def symbol_shape(shape: tuple[int, ...], grid: object) -> tuple[int, ...]:
    """The shape of a tensor's symbols."""
    if not isinstance(grid, Vectors):
        return shape
    return (len(grid.codebooks), n_blocks(shape, grid.codebooks.shape[2]))


def n_symbols(grid: Levels | Codes | Vectors) -> int:
    """Symbols are 0 to this - 1."""
    if isinstance(grid, Levels):
        return grid.levels.size
    return 1 << grid.alphas.shape[-1] if isinstance(grid, Codes) else grid.codebooks.shape[1]


def check_table(grid: Levels | Codes | Vectors) -> None:
    """Raise InputError where the table of such a grid is out of bounds or not of 16-bit numbers."""
    bounds: tuple[int, ...]
    if isinstance(grid, Levels):
        table, sides, bounds = grid.levels, grid.levels.shape, (MAX_LEVELS,)
    elif isinstance(grid, Codes):
        table, sides, bounds = grid.alphas, grid.alphas.shape[-1:], (MAX_CODE_BITS,)
    else:
        table, sides, bounds = grid.codebooks, grid.codebooks.shape, (MAX_CODEBOOKS, MAX_VECTORS, MAX_BLOCK)
    if len(sides) != len(bounds) or not all(1 <= n <= most for n, most in zip(sides, bounds, strict=True)):
        raise InputError(f"a table of {table.shape} numbers", expected=f"1 to {bounds} of them")
    if not np.isfinite(table).all() or (not isinstance(grid, Codes) and half_precision(table) is None):
        raise InputError("a table that 16-bit numbers cannot hold", expected="float16 or bfloat16 numbers")


def check_fits(stored: Stored) -> None:
    """Raise InputError where such a grid does not fit the shape of the tensor or its symbols."""
    grid, symbols = stored.grid, stored.symbols
    assert isinstance(grid, (Levels, Codes, Vectors))
    if isinstance(grid, Levels) and grid.scale is not None:
        check_scale(grid.scale, stored.shape, grid.group)
    if isinstance(grid, Codes):
        check_scale(grid.alphas[..., 0], stored.shape, grid.group)
    if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < n_symbols(grid):
        raise InputError("symbols without a value", expected=f"0 to {n_symbols(grid) - 1}")


def levels_bytes(grid: Levels) -> bytes:
    """Number of levels, head, first level and differences of the ordered bits, scales."""
    kind = HALVES.index(half_precision(grid.levels) or "")
    ordered = _ordered(half_bits(grid.levels, HALVES[kind]))
    data = signed_varint(int(ordered[0]))
    if ordered.size > 1:
        data += sized(encode_symbols(np.diff(ordered).astype(np.int32)))
    if grid.scale is None:
        return varint(ordered.size) + bytes([kind | _NO_SCALE << 1]) + data
    if grid.scale.shape == (1,):
        return varint(ordered.size) + bytes([kind | _ONE_SCALE << 1]) + data + one_scale(grid.scale)
    bits = scale_bits(grid.scale)
    shift = _spare_bits(bits)
    head = varint(ordered.size) + bytes([kind | _SCALES << 1 | shift << 3])
    return head + data + varint(grid.group if bits.ndim == 2 else 0) + encode_units(bits >> shift)


def read_levels(reader: BytesReader, shape: tuple[int, ...]) -> Levels:
    """Read back `levels_bytes`."""
    count = _count(reader, MAX_LEVELS, "levels")
    start, head = reader.offset, reader.byte()
    half, scales, shift = HALVES[head & 1], head >> 1 & 3, head >> 3
    if scales > _SCALES or shift > 15 or (shift and scales != _SCALES):
        raise FormatError(f"levels with head {head:#04x}", offset=start, expected="a known form of scales")
    ordered = np.full(count, reader.signed(17), np.int64)
    if count > 1:
        steps = decode_symbols(reader.part(), count - 1)
        if int(distinct(steps).min()) < -(1 << 17) or int(distinct(steps).max()) > 1 << 17:
            raise FormatError("a step between levels too large", offset=start, expected="at most 17 bits")
        ordered[1:] += np.cumsum(steps)
    if int(np.abs(ordered).max()) > _FINITE[half]:
        raise FormatError("a level that is not finite", offset=start, expected=f"finite {half} numbers")
    levels = from_half_bits(_unordered(ordered), half)
    if scales == _NO_SCALE:
        return Levels(levels)
    if scales == _ONE_SCALE:
        return Levels(levels, read_one_scale(reader))
    group = reader.varint(MAX_VALUES)
    start = reader.offset
    bits = decode_units(reader, unit_shape(shape, group), np.dtype(np.uint16))
    if bits.size and int(bits.reshape(-1).max() if bits.strides[0] else bits.flat[0]) << shift > 0xFFFF:
        raise FormatError("a scale too large", offset=start, expected="16 bits")
    return Levels(levels, from_scale_bits(_shifted(bits, shift)), group)


def codes_bytes(grid: Codes) -> bytes:
    """Number of bits, form of units, and for each bit the alphas of all units."""
    bits = scale_bits(grid.alphas)
    count = varint(bits.shape[-1])
    if bits.shape[:-1] == (1,):
        return count + bytes([0]) + bits.astype("<u2").tobytes()
    group = varint(grid.group if bits.ndim == 3 else 0)
    return count + bytes([1]) + group + b"".join(encode_units(bits[..., i]) for i in range(bits.shape[-1]))


def read_codes(reader: BytesReader, shape: tuple[int, ...]) -> Codes:
    """Read back `codes_bytes`."""
    count = _count(reader, MAX_CODE_BITS, "bits")
    start, many = reader.offset, reader.byte()
    if many > 1:
        raise FormatError(f"codes with head {many}", offset=start, expected="0 or 1")
    if not many:
        return Codes(from_scale_bits(np.frombuffer(reader.take(2 * count), "<u2")).reshape(1, count))
    group = reader.varint(MAX_VALUES)
    units = unit_shape(shape, group)
    read = [from_scale_bits(decode_units(reader, units, np.dtype(np.uint16))) for _ in range(count)]
    return Codes(_stacked(read), group)


def vectors_bytes(grid: Vectors) -> bytes:
    """Codebooks, vectors and values of each, type, and the bits of all numbers."""
    half = half_precision(grid.codebooks) or ""
    head = b"".join(map(varint, grid.codebooks.shape)) + bytes([HALVES.index(half)])
    return head + sized(encode_floats(half_bits(grid.codebooks, half).reshape(-1), half))


def read_vectors(reader: BytesReader, shape: tuple[int, ...]) -> Vectors:
    """Read back `vectors_bytes`."""
    start = reader.offset
    bounds = (MAX_CODEBOOKS, "codebooks"), (MAX_VECTORS, "vectors"), (MAX_BLOCK, "values per vector")
    m, k, d = (_count(reader, most, what) for most, what in bounds)
    if m * k * d > MAX_VALUES or m * n_blocks(shape, d) > MAX_VALUES:
        raise FormatError(
            f"codebooks of {m}, {k}, {d}", offset=start, expected=f"at most {MAX_VALUES} numbers"
        )
    kind = reader.byte()
    if kind >= len(HALVES):
        raise FormatError(f"numbers of type {kind}", offset=reader.offset - 1, expected="0 or 1")
    part = reader.part()
    bits = decode_floats(part, HALVES[kind], m * k * d)
    if int((distinct(bits) & 0x7FFF).max()) > _FINITE[HALVES[kind]]:
        raise FormatError("a codebook with NaN or infinity", offset=start, expected="finite numbers")
    one = narrowed(distinct(bits), np.dtype(np.int16), start)
    numbers = from_half_bits(one, HALVES[kind])
    return Vectors(np.broadcast_to(numbers, bits.shape).reshape(m, k, d))


def _count(reader: BytesReader, most: int, what: str) -> int:
    start = reader.offset
    if not 1 <= (count := reader.varint()) <= most:
        raise FormatError(f"{count} {what}", offset=start, expected=f"1 to {most}")
    return count


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Bits of 16-bit floats as integers in the order of the numbers; both zeros are 0."""
    wide = bits.astype(np.int64)
    return np.where(wide < 0, -(wide & 0x7FFF), wide)


def _unordered(ordered: np.ndarray) -> np.ndarray:
    wide = np.where(ordered < 0, 0x8000 - ordered, ordered)
    return wide.astype(np.uint16).view(np.int16)


def _spare_bits(bits: np.ndarray) -> int:
    """How many of the lowest bits are zero in all numbers, at most 15: 7 where all are powers of two."""
    union = int(np.bitwise_or.reduce(bits, axis=None)) if bits.size else 0
    return min((union & -union).bit_length() - 1, 15) if union else 0


def _shifted(bits: np.ndarray, shift: int) -> np.ndarray:
    if not shift or not bits.size:
        return bits
    one = bits if any(bits.strides) else bits.reshape(-1)[:1]
    moved = (one << np.uint16(shift)).astype(np.uint16)
    return moved if one is bits else np.broadcast_to(moved, bits.size).reshape(bits.shape)


def _stacked(columns: list[np.ndarray]) -> np.ndarray:
    """Arrays of one shape along a new last axis; where each repeats one number, without taking memory."""
    if any(any(column.strides) for column in columns) or not columns[0].size:
        return np.stack(columns, axis=-1)
    numbers = np.array([column.flat[0] for column in columns], np.float32)
    return np.broadcast_to(numbers, (*columns[0].shape, len(columns)))
