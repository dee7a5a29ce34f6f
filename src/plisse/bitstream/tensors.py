"""One tensor as bytes and back, exactly. docs/format-tensors.md tells every byte."""

from __future__ import annotations

import math

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.bitstream.codebookbytes import check_table, n_symbols, symbol_shape
from plisse.bitstream.floatbits import FIELDS, decode_floats, encode_floats
from plisse.bitstream.gridbytes import HIGHEST_KIND, check_grid, grid_bytes, read_grid
from plisse.bitstream.symbols import NAMES, PLANES, decode_symbols, encode_symbols
from plisse.bitstream.units import MAX_VALUES, distinct, narrowed
from plisse.core.stored import RAW_DTYPES, Codes, Levels, Raw, Stored, Trellis, Vectors
from plisse.errors import FormatError, InputError

MAX_DIMENSIONS = 15
_INT32 = np.iinfo(np.int32)


def encode_tensor(stored: Stored) -> bytes:
    """The record of a tensor: kind and dimensions, grid, symbols in the coding that is shortest when written.

    Raises InputError where symbols, shape and grid do not belong together.

    >>> from plisse.core.stored import Uniform
    >>> grid = Uniform(np.array([0.5], np.float32))
    >>> data = encode_tensor(Stored(np.array([[1, 1], [1, 1]]), (2, 2), grid))
    >>> data.hex(), coding_name(data)
    ('270202003f0002', 'constant')
    """
    _check(stored)
    kind, grid = grid_bytes(stored)
    head = bytes([kind | len(stored.shape) << 4]) + b"".join(map(varint, stored.shape))
    symbols = np.ascontiguousarray(stored.symbols).reshape(-1)
    if not symbols.size:
        return head + grid
    if isinstance(stored.grid, Raw):
        return head + grid + _raw_body(symbols, stored.grid.dtype)
    shape = None if isinstance(stored.grid, Vectors) else stored.shape
    path = isinstance(stored.grid, Trellis)
    return head + grid + encode_symbols(symbols.astype(np.int32, copy=False), shape, path)


def _raw_body(symbols: np.ndarray, dtype: str) -> bytes:
    if dtype in FIELDS:
        return encode_floats(symbols, dtype)
    return encode_symbols(symbols.view(RAW_DTYPES[dtype]))


def decode_tensor(data: bytes) -> Stored:
    """Read back a record. Symbols come in the shape of the tensor (Vectors: [M, blocks]), as int32 (Raw:
    RAW_DTYPES[dtype]); they may be a read-only view where all are the same.

    Takes at most 2^12 values per byte of the record (unless all are the same) and 2^31 - 1 at all.
    Raises FormatError with the offset for bytes that are no record.
    """
    reader = BytesReader(bytes(data))
    kind, shape = _head(reader)
    grid = read_grid(reader, kind, shape)
    dtype = RAW_DTYPES[grid.dtype] if isinstance(grid, Raw) else np.dtype(np.int32)
    sides = symbol_shape(shape, grid)
    count = math.prod(sides)
    if not count:
        if reader.left:
            raise FormatError(f"{reader.left} bytes too many", offset=reader.offset, expected="the end")
        return Stored(np.zeros(sides, dtype), shape, grid)
    start = reader.offset
    if isinstance(grid, Raw) and grid.dtype in FIELDS:
        values = decode_floats(reader, grid.dtype, count)
    else:
        values = decode_symbols(reader, count, None if isinstance(grid, (Raw, Vectors)) else shape)
    if isinstance(grid, (Levels, Codes, Vectors)):
        _check_within(values, n_symbols(grid), start)
    return Stored(narrowed(values, dtype, start).reshape(sides), shape, grid)


def _check_within(values: np.ndarray, n: int, offset: int) -> None:
    if int((found := distinct(values)).min()) < 0 or int(found.max()) >= n:
        raise FormatError("a symbol without a value", offset=offset, expected=f"0 to {n - 1}")


def coding_name(data: bytes) -> str:
    """How the symbols of a record are coded: constant, raw, categorical, laplace, gauss, contexts, planes."""
    reader = BytesReader(bytes(data))
    kind, shape = _head(reader)
    read_grid(reader, kind, shape)
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
    if kind > HIGHEST_KIND:
        raise FormatError(f"tensor kind {kind}", offset=start, expected=f"0 to {HIGHEST_KIND}")
    shape = tuple(reader.varint(MAX_VALUES) for _ in range(dimensions))
    if math.prod(max(side, 1) for side in shape) > MAX_VALUES:
        raise FormatError(f"shape {shape}", offset=start, expected=f"at most {MAX_VALUES} values")
    return kind, shape


def _check(stored: Stored) -> None:
    shape, grid = tuple(stored.shape), stored.grid
    if isinstance(grid, (Levels, Codes, Vectors)):
        check_table(grid)
    if (
        math.prod(symbol_shape(shape, grid)) != stored.symbols.size
        or math.prod(max(side, 1) for side in shape) > MAX_VALUES
    ):
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
    if (
        stored.symbols.size
        and stored.symbols.dtype != np.int32
        and not (_INT32.min <= stored.symbols.min() and stored.symbols.max() <= _INT32.max)
    ):
        raise InputError("symbols beyond 32 bits", expected="-2^31 to 2^31 - 1")
    check_grid(stored)
