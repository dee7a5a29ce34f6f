"""The bits of floating-point numbers as arrays of integers, whole or field by field: whichever is shorter."""

from __future__ import annotations

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, sized
from plisse.bitstream.symbols import PLANES, decode_symbols, encode_symbols
from plisse.bitstream.units import distinct
from plisse.errors import FormatError

FIELDS = {"float32": (16, 7, 8, 1), "float16": (10, 5, 1), "bfloat16": (7, 8, 1)}
"""Widths of the fields of a number from the least significant bit: mantissa, exponent, sign."""


def encode_floats(bits: np.ndarray, dtype: str) -> bytes:
    """Signed integers [n], n >= 1, that are the bits of `dtype` numbers, to bytes."""
    numbers = bits.view(f"u{bits.itemsize}").astype(np.int64)
    planes, shift = [], 0
    for width in FIELDS[dtype]:
        planes.append(encode_symbols(((numbers >> shift) & ((1 << width) - 1)).astype(np.int32)))
        shift += width
    split = bytes([PLANES]) + b"".join(map(sized, planes[:-1])) + planes[-1]
    return min(encode_symbols(numbers), split, key=len)


def decode_floats(reader: BytesReader, dtype: str, count: int) -> np.ndarray:
    """The bits of floats as signed integers, int64 [count]; a view of one number where all are alike."""
    widths, start = FIELDS[dtype], reader.offset
    if reader.left and reader.data[start] == PLANES:
        reader.byte()
        fields = [decode_symbols(reader.part(), count) for _ in widths[:-1]] + [decode_symbols(reader, count)]
    else:
        widths, fields = (sum(widths),), [decode_symbols(reader, count)]
    bits, shift = np.zeros(1, np.int64), 0
    for width, field in zip(widths, map(distinct, fields), strict=True):
        if int(field.min()) < 0 or int(field.max()) >> width:
            raise FormatError("a field too large", offset=start, expected=f"{width} bits")
        bits = bits + (field.astype(np.int64) << shift)
        shift += width
    return np.broadcast_to(bits - (bits >> shift - 1 << shift), (count,))


def half_bits(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """The bits, int16, of float32 numbers that "float16" or "bfloat16" holds exactly."""
    if dtype == "bfloat16":
        return (
            (np.ascontiguousarray(numbers, np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
        )
    return np.ascontiguousarray(numbers, np.float16).view(np.int16)


def from_half_bits(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 numbers from int16 bits, of any shape."""
    if dtype == "bfloat16":
        return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32)
