"""Integers of a fixed width as packed bits, and large integers as a small token with extra bits."""

from __future__ import annotations

import numpy as np

from plisse.bitstream.bytesreader import BytesReader

_CHUNK = 1 << 18
DIRECT = 256
"""Magnitudes below this are their own token."""
_KEPT = 5
"""Of larger magnitudes, the token tells the top bit's place and this many bits after it."""
_LOWEST = 8
_HIGHEST = 31


def packed_size(count: int, width: int) -> int:
    """Bytes that `count` integers of `width` bits take."""
    return -(-count * width // 8)


def pack(values: np.ndarray, width: int) -> bytes:
    """Non-negative integers [n] below 2^width as bits, least significant first, zeros at the very end.

    >>> pack(np.array([1, 2, 3]), 2).hex()
    '39'
    """
    pieces = []
    for start in range(0, len(values), _CHUNK):
        octets: np.ndarray = values[start : start + _CHUNK].astype("<u8").view(np.uint8).reshape(-1, 8)
        octets = octets[:, : -(-width // 8)]
        if width % 8:
            octets = np.packbits(
                np.unpackbits(octets, axis=1, bitorder="little")[:, :width].reshape(-1), bitorder="little"
            )
        pieces.append(octets.tobytes())
    return b"".join(pieces)


def unpack(reader: BytesReader, count: int, width: int) -> np.ndarray:
    """Read back `count` integers, int64 [count] (as unsigned 64-bit numbers that wrap, where width is 64)."""
    data = np.frombuffer(reader.take(packed_size(count, width)), np.uint8)
    out = np.zeros(count, np.int64)
    for start in range(0, count, _CHUNK):
        n = min(_CHUNK, count - start)
        piece = data[start * width // 8 : -(-(start + n) * width // 8)]
        octets = np.zeros((n, 8), np.uint8)
        if width % 8:
            bits = np.unpackbits(piece, bitorder="little")[: n * width].reshape(n, width)
            octets[:, : -(-width // 8)] = np.packbits(bits, axis=1, bitorder="little")
        else:
            octets[:, : width // 8] = piece.reshape(n, -1)
        out[start : start + n] = octets.view("<u8")[:, 0].astype(np.int64)
    return out


def fold(values: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Tokens int16 of integers between -2^32 and 2^32, both excluded, and the bits that tokens leave open.

    A magnitude m below 256 is its own token; a larger one, with its top bit at place e, has the token
    256 + 32 (e - 8) + the 5 bits below the top bit, and e - 5 extra bits. Signs stay. The extra bits are
    packed by e, upwards, each e on its own and in the order of the values.
    """
    if values.size == 0 or max(int(values.max()), -int(values.min())) < DIRECT:
        return values.astype(np.int16), b""
    sizes = np.abs(values.astype(np.int64))
    tokens, pieces = sizes.copy(), []
    for place in range(_LOWEST, _HIGHEST + 1):
        here = np.flatnonzero((sizes >> place) == 1)
        if here.size:
            left_open = place - _KEPT
            tokens[here] = _first_token(place) + ((sizes[here] >> left_open) & 31)
            pieces.append(pack(sizes[here] & ((1 << left_open) - 1), left_open))
    return (np.sign(values) * tokens).astype(np.int16), b"".join(pieces)


def unfold(tokens: np.ndarray, reader: BytesReader) -> np.ndarray:
    """Undo `fold`: int64 values of tokens, with the extra bits from `reader`."""
    sizes = np.abs(tokens.astype(np.int64))
    large = np.flatnonzero(sizes >= DIRECT)
    places = (sizes[large] - DIRECT >> _KEPT) + _LOWEST
    for place in range(_LOWEST, _HIGHEST + 1):
        here = large[places == place]
        if here.size:
            left_open = place - _KEPT
            top = (sizes[here] - _first_token(place) + 32) << left_open
            sizes[here] = top | unpack(reader, here.size, left_open)
    return np.where(tokens < 0, -sizes, sizes)


def _first_token(place: int) -> int:
    return DIRECT + ((place - _LOWEST) << _KEPT)
