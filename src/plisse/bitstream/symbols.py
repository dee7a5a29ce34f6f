"""An array of integers to bytes: every plausible coding is written, the shortest is kept.

The first byte holds the coding in its low three bits. CONSTANT: first value and step. RAW: packed bits.
CATEGORICAL, LAPLACE, GAUSS: one static table (see `tables`). CONTEXTS: see `contextcoder`.
"""

from __future__ import annotations

import numpy as np

from plisse.bitstream import contextcoder
from plisse.bitstream.bits import DIRECT, fold, pack, packed_size, unfold, unpack
from plisse.bitstream.bytesreader import BytesReader, signed_varint, sized
from plisse.bitstream.entropy import PartsDecoder, encode_parts
from plisse.bitstream.tables import EXPLICIT, GAUSS, LAPLACE, fit_static, read_static, total_bits
from plisse.bitstream.waves import histogram
from plisse.errors import FormatError

CONSTANT, RAW, CATEGORICAL, LAPLACIAN, GAUSSIAN, CONTEXTS, PLANES = range(7)
NAMES = ("constant", "raw", "categorical", "laplace", "gauss", "contexts", "planes")
WIDTHS = (*range(1, 29), 32, 40, 48, 64)
FORMS = {CATEGORICAL: EXPLICIT, LAPLACIAN: LAPLACE, GAUSSIAN: GAUSS}
MAX_VALUES_PER_BYTE = 1 << 12
"""A coded array has at most this many values per byte; the encoder adds zero bytes where it would be less."""
LARGE = 8
"""Set in the first byte of an entropy coding where extra bits of large values follow."""
FEWEST_FOR_CONTEXTS = 256
_LARGE = 1 << 16


def encode_symbols(values: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """Bytes of an integer array [n], n >= 1, in its order. shape: of the tensor, to try contexts as well."""
    low, high = int(values.min()), int(values.max())
    if (constant := _constant(values, low, high)) is not None:
        return constant
    raw_size = _raw_size(values.size, low, high)
    written: list[bytes] = []
    if high - low < 1 << 32:
        written = _coded(values, low, high, shape, raw_size)
    if not written or raw_size <= min(map(len, written)):
        written.append(_raw(values, low, high))
    return min(written, key=len)


def decode_symbols(reader: BytesReader, count: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read back `count` >= 1 integers, int64 or int32 [count], up to the end of `reader`.

    Raises FormatError for malformed bytes. A constant array takes no memory (a read-only
    view of one number); others have at most 2^12 values per byte.
    """
    start = reader.offset
    coding, extra = (head := reader.byte()) & 7, head >> 3
    if coding > CONTEXTS or (extra and coding != RAW and (extra > 1 or coding == CONSTANT)):
        raise FormatError(f"coding {head:#04x}", offset=start, expected="a coding from 0 to 5")
    if coding == CONSTANT:
        values = _decode_constant(reader, count)
    elif coding == RAW:
        low = reader.signed()
        values = unpack(reader, count, WIDTHS[extra]) + low
    else:
        values = _decode_coded(reader, head, count, shape)
    if reader.left:
        raise FormatError(f"{reader.left} bytes too many", offset=reader.offset, expected="the end")
    return values


def _constant(values: np.ndarray, low: int, high: int) -> bytes | None:
    """First value and, unless it is zero, the step of an arithmetic progression."""
    first = int(values[0])
    if low == high:
        return bytes([CONSTANT]) + signed_varint(first)
    step = int(values[1]) - first
    last = first + step * (values.size - 1)
    if {first, last} != {low, high} or not abs(step) < 2**31:
        return None
    if not np.array_equal(values, first + step * np.arange(values.size, dtype=np.int64)):
        return None
    return bytes([CONSTANT]) + signed_varint(first) + signed_varint(step)


def _decode_constant(reader: BytesReader, count: int) -> np.ndarray:
    first, start = reader.signed(), reader.offset
    if not reader.left:
        return np.broadcast_to(np.int64(first), (count,))
    step = reader.signed(32)
    if not step or count > 1 << 24 or not -(2**63) <= first + step * (count - 1) < 2**63:
        raise FormatError(
            f"step {step} of {count} values", offset=start, expected="64-bit values, at most 2^24"
        )
    return first + step * np.arange(count, dtype=np.int64)


def _raw_layout(low: int, high: int) -> tuple[int, int]:
    """Index in WIDTHS and the number that is subtracted: none where that saves nothing."""
    width = next(i for i, width in enumerate(WIDTHS) if high - low < 1 << width)
    if low > 0 and high < 1 << WIDTHS[width]:
        low = 0
    return width, low


def _raw_size(count: int, low: int, high: int) -> int:
    width, low = _raw_layout(low, high)
    return 1 + len(signed_varint(low)) + packed_size(count, WIDTHS[width])


def _raw(values: np.ndarray, low: int, high: int) -> bytes:
    width, low = _raw_layout(low, high)
    head = bytes([RAW | width << 3]) + signed_varint(low)
    return head + pack(values.astype(np.int64) - low, WIDTHS[width])


def _coded(values: np.ndarray, low: int, high: int, shape: tuple[int, ...] | None, limit: int) -> list[bytes]:
    """The array in the entropy codings that may be the shortest and below `limit` bytes."""
    centre = _centre(values, low, high)
    small = max(high - centre, centre - low) < DIRECT
    shifted = values - values.dtype.type(centre) if centre and small else values
    tokens, extra = fold(shifted if small else values.astype(np.int64) - centre)
    left, right = -int(tokens.min()), int(tokens.max())
    counts = histogram(tokens, -left, left + right + 1)
    statics = fit_static(counts, left, tuple(FORMS.values()))
    large = max(left, right) >= DIRECT
    head = signed_varint(centre) + (sized(extra) if large else b"")
    sizes = {code: total_bits(s, counts) / 8 + len(head) for code, s in zip(FORMS, statics, strict=True)}
    written: list[bytes] = []
    if shape is not None and len(shape) > 1 and values.size >= FEWEST_FOR_CONTEXTS:
        best = contextcoder.plan(tokens, shape, counts, left)
        sizes[CONTEXTS] = best.bits / 8 + len(head) + 8 + best.static.n_bytes()
    slack = 4 + (0.01 * min(sizes.values()))
    for code in sorted(sizes, key=lambda code: sizes[code]):
        if sizes[code] > min(*sizes.values(), limit) + slack or (written and values.size > _LARGE):
            continue
        if code == CONTEXTS:
            body = best.to_bytes()
        else:
            static = statics[list(FORMS).index(code)]
            body = static.to_bytes() + encode_parts([(tokens.astype(np.int32) + left, static.table())])
        data = bytes([code | LARGE * large]) + head + body
        written.append(data + bytes(max(-(-values.size // MAX_VALUES_PER_BYTE) - len(data), 0)))
    return written


def _decode_coded(reader: BytesReader, head: int, count: int, shape: tuple[int, ...] | None) -> np.ndarray:
    start, coding = reader.offset, head & 7
    if count > MAX_VALUES_PER_BYTE * (reader.left + 1):
        raise FormatError(
            f"{count} values in {reader.left} bytes", offset=start, expected="2^12 per byte at most"
        )
    centre = reader.signed(34)
    extra = reader.part() if head & LARGE else None
    if coding == CONTEXTS:
        if shape is None or len(shape) < 2:
            raise FormatError("contexts without a matrix", offset=start - 1, expected="another coding")
        tokens = contextcoder.decode_contexts(reader, shape)
    else:
        static = read_static(reader, FORMS[coding])
        decoder = PartsDecoder(offset=reader.offset, data=reader.rest())
        tokens = decoder.decode(static.table(), count)
        tokens -= np.int32(static.left)
        decoder.finish()
    if extra is None:
        return tokens.astype(np.int32) + centre if abs(centre) < 2**30 else tokens.astype(np.int64) + centre
    values = unfold(tokens, extra) + centre
    if extra.left:
        raise FormatError(f"{extra.left} extra bytes too many", offset=extra.offset, expected="none")
    return values


def _centre(values: np.ndarray, low: int, high: int) -> int:
    """Where magnitudes count from: zero where that is about as frequent as any value, else the median."""
    sample = np.sort(values[:: max(values.size >> 14, 1)])
    _, counts = np.unique(sample, return_counts=True)
    if low <= 0 <= high and 4 * np.count_nonzero(sample == 0) >= 3 * counts.max():
        return 0
    return int(sample[sample.size // 2])
