"""An array of integers to bytes: codings are estimated, the best are written, the shortest is kept.

The first byte holds the coding in its low three bits. CONSTANT: first value and step. RAW: packed bits.
CATEGORICAL, LAPLACE, GAUSS: one static table (see `tables`). CONTEXTS: see `contextcoder`.
"""

from __future__ import annotations

import numpy as np

from plisse.bitstream import ans, contextcoder
from plisse.bitstream.bits import DIRECT, fold, pack, packed_size, unfold, unpack
from plisse.bitstream.bytesreader import BytesReader, signed_varint, sized
from plisse.bitstream.contextcoder import View
from plisse.bitstream.entropy import entropy_bits, histogram
from plisse.bitstream.tables import EXPLICIT, GAUSS, LAPLACE, Static, fitted, read_static
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
FEWEST_FOR_FITS = 64
"""Shorter arrays are not tried with categorical and Gaussian tables."""
SAMPLED = 7
"""Of large matrices, every so many values are counted before contexts are tried."""
_SMALL_SPAN = 1 << 16
_LARGE = 1 << 17


def encode_symbols(values: np.ndarray, shape: tuple[int, ...] | None = None, path: bool = False) -> bytes:
    """Bytes of an integer array [n], n >= 1, in its order.

    shape: of the tensor, to try contexts as well. path: the integers are symbols of a trellis (core.trellis).
    """
    low, high = int(values.min()), int(values.max())
    if (constant := _constant(values, low, high)) is not None:
        return constant
    raw_size = _raw_size(values.size, low, high)
    if high - low >= 1 << 32 or raw_size <= 8:
        return _raw(values, low, high)
    coded = _coded(values, low, high, shape, path, raw_size)
    return _raw(values, low, high) if coded is None or raw_size <= len(coded) else coded


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


def _coded(
    values: np.ndarray, low: int, high: int, shape: tuple[int, ...] | None, path: bool, limit: int
) -> bytes | None:
    """The array in the best entropy coding; None where that is no shorter than `limit` bytes."""
    matrix = shape is not None and len(shape) > 1 and values.size >= FEWEST_FOR_CONTEXTS
    tokens, counts, left, centre, extra = _tokens(values, low, high, matrix)
    head = signed_varint(centre) + (b"" if extra is None else sized(extra))
    large = 0 if extra is None else LARGE
    written, order0 = None, entropy_bits(counts) * tokens.size / counts.sum()
    if shape is not None and matrix:
        view = View.of(shape)
        how, saved = contextcoder.chosen(tokens, view, counts, left, path)
        if saved > 0:
            body = contextcoder.encode(tokens, view, how)
            written = _filled(bytes([CONTEXTS | large]) + head + body, values.size)
            if 8 * len(body) <= order0:
                return written
    if counts.sum() < tokens.size:
        counts = histogram(tokens, -left, counts.size, 1)
    static, bits, coding = _best_static(counts, left)
    if bits / 8 >= min(limit, len(written or b"") or limit) - len(head):
        return written
    body = static.to_bytes() + _statically(tokens, static)
    return _filled(bytes([coding | large]) + head + body, values.size)


def _tokens(
    values: np.ndarray, low: int, high: int, matrix: bool
) -> tuple[np.ndarray, np.ndarray, int, int, bytes | None]:
    """Tokens int32 [n], how often each from the least to the largest occurs (in a large matrix, in a sample),
    minus the least, the centre, and the extra bits of large values, if any."""
    if high - low < _SMALL_SPAN:
        if values.dtype != np.int32:
            values, low, high, shift = (values - low).astype(np.int32), 0, high - low, low
        else:
            shift = 0
        step = SAMPLED if matrix and values.size > _LARGE else 1
        counts = histogram(values, low, high - low + 1, step)
        centre = _centre(counts, low if not shift else low + shift) - shift
        if max(high - centre, centre - low) < DIRECT:
            tokens = values - np.int32(centre) if centre else values
            return tokens, counts, centre - low, centre + shift, None
        centre += shift
    else:
        centre, shift = int(np.median(values[:: max(values.size >> 14, 1)])), 0
        if low <= 0 <= high and abs(centre) < (high - low) >> 6:
            centre = 0
    folded, extra = fold(values.astype(np.int64) + (shift - centre))
    tokens = folded.astype(np.int32)
    left, right = -int(tokens.min()), int(tokens.max())
    return tokens, histogram(tokens, -left, left + right + 1, 1), left, centre, extra


def _best_static(counts: np.ndarray, left: int) -> tuple[Static, float, int]:
    """The static table with the fewest bits, these, and its coding."""
    few = counts.sum() < FEWEST_FOR_FITS
    fits = [(*fitted(counts, left, form), code) for code, form in FORMS.items() if form == LAPLACE or not few]
    return min(fits, key=lambda fit: fit[1])


def _statically(tokens: np.ndarray, static: Static) -> bytes:
    sums, inverses = static.sums(), np.empty(static.size + 1, np.uint64)
    ans.set_inverses(sums, 0, static.size, inverses)
    words = np.empty(tokens.size + 2, np.uint32)
    classes, slots = np.zeros(tokens.size, np.uint8), np.zeros(1, np.int64)
    at, state = ans.push_all(
        tokens,
        -static.left,
        classes,
        slots,
        sums,
        inverses,
        static.size,
        0,
        tokens.size,
        words,
        words.size,
        np.uint64(0),
    )
    return ans.to_bytes(words[at:], state)


def _decode_statically(reader: BytesReader, static: Static, count: int, centre: int) -> np.ndarray:
    start = reader.offset
    words, state = ans.from_bytes(reader.rest())
    out, sums = np.empty(count, np.int32), static.sums()
    lookup = np.empty(1 << ans.LOOKUP_BITS, np.uint16)
    ans.fill_lookup(sums, 0, static.size, lookup)
    classes, slots = np.zeros(count, np.uint8), np.zeros(1, np.int64)
    low = centre - static.left
    at, state = ans.pop_all(out, low, classes, slots, sums, lookup, static.size, 0, count, words, 0, state)
    ans.check_empty(words, at, state, start)
    return out


def _filled(data: bytes, count: int) -> bytes:
    """With zero bytes at the end, so that there are at most 2^12 values per byte."""
    return data + bytes(max(-(-count // MAX_VALUES_PER_BYTE) - len(data), 0))


def _decode_coded(reader: BytesReader, head: int, count: int, shape: tuple[int, ...] | None) -> np.ndarray:
    start, coding = reader.offset, head & 7
    if count > MAX_VALUES_PER_BYTE * (reader.left + 1):
        raise FormatError(
            f"{count} values in {reader.left} bytes", offset=start, expected="2^12 per byte at most"
        )
    centre = reader.signed(34)
    extra = reader.part() if head & LARGE else None
    offset = centre if extra is None and abs(centre) < 2**30 else 0
    if coding == CONTEXTS:
        if shape is None or len(shape) < 2:
            raise FormatError("contexts without a matrix", offset=start - 1, expected="another coding")
        view = View.of(shape)
        how = contextcoder.read_head(reader, view)
        tokens = contextcoder.decode(reader, view, how, offset)
    else:
        tokens = _decode_statically(reader, read_static(reader, FORMS[coding]), count, offset)
    if extra is None:
        return tokens if offset == centre else tokens.astype(np.int64) + centre
    values = unfold(tokens, extra) + centre
    if extra.left:
        raise FormatError(f"{extra.left} extra bytes too many", offset=extra.offset, expected="none")
    return values


def _centre(counts: np.ndarray, low: int) -> int:
    """Where magnitudes count from: zero where that is about as frequent as any value, else the median."""
    if low <= 0 < low + counts.size and 4 * counts[-low] >= 3 * counts.max():
        return 0
    return low + int(np.searchsorted(counts.cumsum(), (counts.sum() + 1) // 2))
