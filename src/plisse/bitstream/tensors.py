"""One tensor as bytes and back, exactly. docs/format-tensors.md tells every byte."""

from __future__ import annotations

import math

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, signed_varint, sized, varint
from plisse.bitstream.symbols import NAMES, PLANES, decode_symbols, encode_symbols
from plisse.core.stored import RAW_DTYPES, Grid, Raw, Stored, Trellis, Uniform
from plisse.errors import FormatError, InputError

MAX_VALUES = 2**31 - 1
"""No tensor has more values."""
MAX_DIMENSIONS = 15
_RAW_NAMES = tuple(RAW_DTYPES)
_STEP, _STEP_ZERO, _STEPS, _STEPS_ZERO, _TRELLIS = range(len(_RAW_NAMES), len(_RAW_NAMES) + 5)
_PLANES = {"float32": (16, 7, 8, 1), "float16": (10, 5, 1), "bfloat16": (7, 8, 1)}
"""Widths of the fields of a number from the least significant bit: mantissa, exponent, sign."""
_INT32 = np.iinfo(np.int32)


def encode_tensor(stored: Stored) -> bytes:
    """The record of a tensor: kind and dimensions, grid, symbols in the coding that is shortest when written.

    Raises InputError where symbols, shape and grid do not belong together.

    >>> grid = Uniform(np.array([0.5], np.float32))
    >>> data = encode_tensor(Stored(np.array([[1, 1], [1, 1]]), (2, 2), grid))
    >>> data.hex(), coding_name(data)
    ('270202003f0002', 'constant')
    """
    _check(stored)
    kind, grid = _grid_bytes(stored)
    head = bytes([kind | len(stored.shape) << 4]) + b"".join(map(varint, stored.shape))
    symbols = np.ascontiguousarray(stored.symbols).reshape(-1)
    if not symbols.size:
        return head + grid
    if isinstance(stored.grid, Raw):
        return head + grid + _raw_body(symbols, stored.grid.dtype)
    return head + grid + encode_symbols(symbols.astype(np.int32, copy=False), stored.shape)


def decode_tensor(data: bytes) -> Stored:
    """Read back a record. Symbols come in the shape of the tensor, as int32 (Raw: RAW_DTYPES[dtype]); they
    may be a read-only view where all are the same.

    Takes at most 2^12 values per byte of the record (unless all are the same) and 2^31 - 1 at all.
    Raises FormatError with the offset for bytes that are no record.
    """
    reader = BytesReader(bytes(data))
    kind, shape = _head(reader)
    grid = _read_grid(reader, kind, shape)
    count = math.prod(shape)
    dtype = RAW_DTYPES[grid.dtype] if isinstance(grid, Raw) else np.dtype(np.int32)
    if not count:
        if reader.left:
            raise FormatError(f"{reader.left} bytes too many", offset=reader.offset, expected="the end")
        return Stored(np.zeros(shape, dtype), shape, grid)
    start = reader.offset
    if isinstance(grid, Raw) and grid.dtype in _PLANES:
        values = _read_float_body(reader, grid.dtype, count)
    else:
        values = decode_symbols(reader, count, None if isinstance(grid, Raw) else shape)
    return Stored(_narrowed(values, dtype, start).reshape(shape), shape, grid)


def coding_name(data: bytes) -> str:
    """How the symbols of a record are coded: constant, raw, categorical, laplace, gauss, contexts, planes."""
    reader = BytesReader(bytes(data))
    kind, shape = _head(reader)
    _read_grid(reader, kind, shape)
    if not math.prod(shape):
        return "raw"
    start = reader.offset
    coding = reader.byte() & 7
    if coding > PLANES:
        raise FormatError(f"coding {coding}", offset=start, expected="0 to 6")
    return NAMES[coding]


def _head(reader: BytesReader) -> tuple[int, tuple[int, ...]]:
    start = reader.offset
    kind, dimensions = (first := reader.byte()) & 15, first >> 4
    if kind > _TRELLIS:
        raise FormatError(f"tensor kind {kind}", offset=start, expected=f"0 to {_TRELLIS}")
    shape = tuple(reader.varint(MAX_VALUES) for _ in range(dimensions))
    if math.prod(max(side, 1) for side in shape) > MAX_VALUES:
        raise FormatError(f"shape {shape}", offset=start, expected=f"at most {MAX_VALUES} values")
    return kind, shape


def _check(stored: Stored) -> None:
    shape, grid = tuple(stored.shape), stored.grid
    if math.prod(shape) != stored.symbols.size or math.prod(max(side, 1) for side in shape) > MAX_VALUES:
        raise InputError(
            f"{stored.symbols.size} symbols for shape {shape}",
            expected=f"as many as values, up to {MAX_VALUES}",
        )
    if len(shape) > MAX_DIMENSIONS:
        raise InputError(f"{len(shape)} dimensions", expected=f"at most {MAX_DIMENSIONS}")
    if not np.issubdtype(stored.symbols.dtype, np.integer):
        raise InputError(f"symbols of type {stored.symbols.dtype}", expected="integers")
    if isinstance(grid, Raw):
        if grid.dtype not in RAW_DTYPES or stored.symbols.dtype.itemsize != RAW_DTYPES[grid.dtype].itemsize:
            raise InputError(
                f"{stored.symbols.dtype} symbols for raw {grid.dtype}",
                expected="plisse.core.stored.raw(values)",
            )
        return
    if stored.symbols.size and not (
        _INT32.min <= stored.symbols.min() and stored.symbols.max() <= _INT32.max
    ):
        raise InputError("symbols beyond 32 bits", expected="-2^31 to 2^31 - 1")
    if isinstance(grid, Uniform):
        allowed: set[tuple[int, ...]] = {(1,)} if grid.scale.ndim == 1 else set()
        allowed.add(_units(shape, grid.group if grid.scale.ndim == 2 else 0))
        zero = grid.zero_point
        if grid.scale.shape not in allowed or (zero is not None and zero.shape != grid.scale.shape):
            raise InputError(f"scales {grid.scale.shape} for shape {shape}", expected="(1,), (C,) or (C, G)")


def _units(shape: tuple[int, ...], group: int) -> tuple[int, ...]:
    """The shape of scales: (C,), or (C, G) for groups."""
    channels = shape[0] if shape else 1
    return (channels, -(-math.prod(shape[1:]) // group)) if group else (channels,)


def _grid_bytes(stored: Stored) -> tuple[int, bytes]:
    grid = stored.grid
    if isinstance(grid, Raw):
        return _RAW_NAMES.index(grid.dtype), b""
    if isinstance(grid, Trellis):
        return _TRELLIS, _bfloat16_bits(np.array([grid.scale])).astype("<u2").tobytes()
    bits, zero = _bfloat16_bits(grid.scale), grid.zero_point
    if grid.scale.shape == (1,):
        tail = b"" if zero is None else signed_varint(int(zero[0]))
        return (_STEP if zero is None else _STEP_ZERO), bits.astype("<u2").tobytes() + tail
    data = varint(grid.group if grid.scale.ndim == 2 else 0)
    for numbers in (bits, zero):
        if numbers is not None and numbers.size:
            data += sized(encode_symbols(numbers.astype(np.int32).reshape(-1)))
    return (_STEPS if zero is None else _STEPS_ZERO), data


def _read_grid(reader: BytesReader, kind: int, shape: tuple[int, ...]) -> Grid:
    if kind < len(_RAW_NAMES):
        return Raw(_RAW_NAMES[kind])
    if kind == _TRELLIS:
        return Trellis(float(_from_bfloat16(np.frombuffer(reader.take(2), "<u2"))[0]))
    if kind in (_STEP, _STEP_ZERO):
        scale = _from_bfloat16(np.frombuffer(reader.take(2), "<u2"))
        return Uniform(scale, np.array([reader.signed(32)], np.int32) if kind == _STEP_ZERO else None)
    group = reader.varint(MAX_VALUES)
    units = _units(shape, group)
    scale = _from_bfloat16(_numbers(reader, units, np.dtype(np.uint16)))
    zero = _numbers(reader, units, np.dtype(np.int32)) if kind == _STEPS_ZERO else None
    return Uniform(scale, zero, group)


def _numbers(reader: BytesReader, units: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    count = math.prod(units)
    if count > MAX_VALUES:
        raise FormatError(f"{count} scales", offset=reader.offset, expected=f"at most {MAX_VALUES}")
    if not count:
        return np.zeros(units, dtype)
    part = reader.part()
    start = part.offset
    return _narrowed(decode_symbols(part, count), dtype, start).reshape(units)


def _narrowed(values: np.ndarray, dtype: np.dtype[np.generic], offset: int) -> np.ndarray:
    """Values as a smaller integer type; FormatError where they do not fit."""
    if values.dtype == dtype:
        return values
    distinct = _distinct(values)
    kept = distinct.astype(dtype)
    if not np.array_equal(kept, distinct):
        raise FormatError("values too large", offset=offset, expected=f"{dtype} values")
    return kept if kept.size == values.size else np.broadcast_to(kept, values.shape)


def _bfloat16_bits(scale: np.ndarray) -> np.ndarray:
    """The upper 16 bits of float32. Raises InputError where the lower ones are not zero."""
    bits = np.ascontiguousarray(scale, np.float32).view(np.uint32)
    if (bits & 0xFFFF).any():
        raise InputError(
            "a scale that bfloat16 cannot hold", expected="plisse.core.stored.to_bfloat16(scale)"
        )
    return (bits >> 16).astype(np.uint16)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    distinct = bits if any(bits.strides) or not bits.size else bits.reshape(-1)[:1]
    values = (distinct.astype(np.uint32) << 16).view(np.float32)
    return values if distinct is bits else np.broadcast_to(values, bits.size).reshape(bits.shape)


def _raw_body(symbols: np.ndarray, dtype: str) -> bytes:
    """Integers as they are; floats as plain numbers or field by field, whichever is shorter."""
    if dtype not in _PLANES:
        return encode_symbols(symbols.view(RAW_DTYPES[dtype]))
    bits = symbols.view(f"u{symbols.itemsize}").astype(np.int64)
    planes, shift = [], 0
    for width in _PLANES[dtype]:
        planes.append(encode_symbols(((bits >> shift) & ((1 << width) - 1)).astype(np.int32)))
        shift += width
    split = bytes([PLANES]) + b"".join(map(sized, planes[:-1])) + planes[-1]
    return min(encode_symbols(bits), split, key=len)


def _read_float_body(reader: BytesReader, dtype: str, count: int) -> np.ndarray:
    """The bits of floats as signed integers, int64 [count]."""
    widths, start = _PLANES[dtype], reader.offset
    if reader.left and reader.data[start] == PLANES:
        reader.byte()
        fields = [decode_symbols(reader.part(), count) for _ in widths[:-1]] + [decode_symbols(reader, count)]
    else:
        widths, fields = (sum(widths),), [decode_symbols(reader, count)]
    bits, shift = np.zeros(1, np.int64), 0
    for width, field in zip(widths, map(_distinct, fields), strict=True):
        if int(field.min()) < 0 or int(field.max()) >> width:
            raise FormatError("a field too large", offset=start, expected=f"{width} bits")
        bits = bits + (field.astype(np.int64) << shift)
        shift += width
    return np.broadcast_to(bits - (bits >> shift - 1 << shift), (count,))


def _distinct(values: np.ndarray) -> np.ndarray:
    """The one value of an array that repeats it without taking memory, else the array."""
    return values if values.strides[0] else values[:1]
