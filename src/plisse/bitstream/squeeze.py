"""General bytes, squeezed by LZMA, with a bound on what comes out."""

from __future__ import annotations

import lzma
from typing import Any

from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.errors import FormatError

PLAIN, PACKED = 0, 1
LONGEST = (1 << 32) - 1
MIN_DICTIONARY = 1 << 12
MAX_DICTIONARY = 1 << 23


def squeezed(data: bytes) -> bytes:
    """`data` as it is or as LZMA, whichever is shorter, behind a byte that says which and the length."""
    packed = lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(len(data)))
    way, body = (PACKED, packed) if len(packed) < len(data) else (PLAIN, data)
    return bytes([way]) + varint(len(data)) + body


def expanded(data: bytes, limit: int) -> bytes:
    """The inverse of `squeezed`; never makes more than `limit` bytes.

    Raises FormatError, with the offset in `data`, for anything that `squeezed` would not write.

    >>> expanded(squeezed(b"a" * 1000), limit=1000) == b"a" * 1000
    True
    """
    reader = BytesReader(data)
    way, length = _start(reader, limit)
    if way == PACKED:
        return _expand(reader.rest(), length, reader.offset)
    if reader.left != length:
        raise FormatError(f"{reader.left} bytes", offset=reader.offset, expected=f"{length}")
    return reader.rest()


def expanded_length(data: bytes, limit: int) -> int:
    """The length that squeezed bytes state, without expanding them; FormatError above `limit`."""
    return _start(BytesReader(data), limit)[1]


def _start(reader: BytesReader, limit: int) -> tuple[int, int]:
    way, length = reader.byte(), reader.varint(LONGEST)
    if way not in (PLAIN, PACKED):
        raise FormatError(f"way {way} of squeezing", offset=0, expected="0 (plain) or 1 (LZMA)")
    if length > limit:
        raise FormatError(f"{length} bytes when expanded", offset=1, expected=f"at most {limit}")
    return way, length


def _expand(body: bytes, length: int, offset: int) -> bytes:
    """An LZMA stream that ends, with its marker, after exactly `length` bytes."""
    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(length))
        result = decoder.decompress(body, max_length=length + 1)
    except lzma.LZMAError as error:
        raise FormatError(f"a damaged LZMA stream ({error})", offset=offset) from error
    if len(result) != length or not decoder.eof or decoder.unused_data:
        raise FormatError(
            f"an LZMA stream of {len(result)} bytes or more", offset=offset, expected=f"exactly {length}"
        )
    return result


def _filters(length: int) -> list[dict[str, Any]]:
    dictionary = min(max(length, MIN_DICTIONARY), MAX_DICTIONARY)
    preset = 9 | lzma.PRESET_EXTREME
    return [{"id": lzma.FILTER_LZMA1, "preset": preset, "dict_size": dictionary, "lc": 3, "lp": 0, "pb": 0}]
