"""Numbers of which a tensor has one per channel or group: scales, zero points."""

from __future__ import annotations

import math

import numpy as np

from plisse.bitstream.bytesreader import BytesReader, sized
from plisse.bitstream.symbols import decode_symbols, encode_symbols
from plisse.errors import FormatError, InputError

MAX_VALUES = 2**31 - 1
"""No tensor has more values."""


def unit_shape(shape: tuple[int, ...], group: int) -> tuple[int, ...]:
    """The shape of one number per channel, (C,), or per group, (C, G)."""
    channels = shape[0] if shape else 1
    return (channels, -(-math.prod(shape[1:]) // group)) if group else (channels,)


def encode_units(numbers: np.ndarray) -> bytes:
    """An array of integers with its length in bytes before it; nothing where it has no entries."""
    return sized(encode_symbols(numbers.astype(np.int32).reshape(-1))) if numbers.size else b""


def decode_units(reader: BytesReader, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    """Read back an array of `encode_units`; a view of one number where all are alike."""
    count = math.prod(shape)
    if count > MAX_VALUES:
        raise FormatError(f"{count} numbers", offset=reader.offset, expected=f"at most {MAX_VALUES}")
    if not count:
        return np.zeros(shape, dtype)
    part = reader.part()
    start = part.offset
    return narrowed(decode_symbols(part, count), dtype, start).reshape(shape)


def check_scale(scale: np.ndarray, shape: tuple[int, ...], group: int) -> None:
    """Raise InputError where scales are not one per tensor, channel or group."""
    allowed: set[tuple[int, ...]] = {(1,)} if scale.ndim == 1 else set()
    allowed.add(unit_shape(shape, group if scale.ndim == 2 else 0))
    if scale.shape not in allowed:
        raise InputError(f"scales {scale.shape} for shape {shape}", expected="(1,), (C,) or (C, G)")


def one_scale(scale: np.ndarray) -> bytes:
    """A single scale, 2 bytes."""
    return scale_bits(scale).astype("<u2").tobytes()


def read_one_scale(reader: BytesReader) -> np.ndarray:
    """Read back `one_scale`, float32 [1]."""
    return from_scale_bits(np.frombuffer(reader.take(2), "<u2"))


def scale_bits(scale: np.ndarray) -> np.ndarray:
    """The upper 16 bits of float32. Raises InputError where the lower ones are not zero."""
    bits = np.ascontiguousarray(scale, np.float32).view(np.uint32)
    if (bits & 0xFFFF).any():
        raise InputError(
            "a scale that bfloat16 cannot hold", expected="plisse.core.stored.to_bfloat16(scale)"
        )
    return (bits >> 16).astype(np.uint16)


def from_scale_bits(bits: np.ndarray) -> np.ndarray:
    """Float32 scales from their upper 16 bits, uint16; a view of one number stays one."""
    one = bits if any(bits.strides) or not bits.size else bits.reshape(-1)[:1]
    values = (one.astype(np.uint32) << 16).view(np.float32)
    return values if one is bits else np.broadcast_to(values, bits.size).reshape(bits.shape)


def narrowed(values: np.ndarray, dtype: np.dtype[np.generic], offset: int) -> np.ndarray:
    """Values as a smaller integer type; FormatError where they do not fit."""
    if values.dtype == dtype:
        return values
    different = distinct(values)
    kept = different.astype(dtype)
    if not np.array_equal(kept, different):
        raise FormatError("values too large", offset=offset, expected=f"{dtype} values")
    return kept if kept.size == values.size else np.broadcast_to(kept, values.shape)


def distinct(values: np.ndarray) -> np.ndarray:
    """The one value of an array that repeats it without taking memory, else the array."""
    return values if values.strides[0] else values[:1]
