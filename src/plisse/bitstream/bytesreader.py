"""Numbers as bytes: little-endian base-128 varints, and a cursor that never reads past the end."""

from __future__ import annotations

from plisse.errors import FormatError

_LONGEST = 10


def varint(number: int) -> bytes:
    """7 bits per byte, least significant first; the top bit says that more follow. 0 <= number < 2^64.

    >>> varint(5).hex(), varint(300).hex()
    ('05', 'ac02')
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def signed_varint(number: int) -> bytes:
    """Zigzag: 0, -1, 1, -2, ... become 0, 1, 2, 3, ... and then a varint. -2^63 <= number < 2^63."""
    return varint(2 * number if number >= 0 else -2 * number - 1)


class BytesReader:
    """A cursor over bytes. `offset` counts from the start of the data, also in a `part`."""

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self.data, self.offset = data, start
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        return self.end - self.offset

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises FormatError where fewer are left."""
        if count > self.left:
            raise FormatError(f"{self.left} bytes left", offset=self.offset, expected=f"{count} bytes")
        piece = self.data[self.offset : self.offset + count]
        self.offset += count
        return piece

    def rest(self) -> bytes:
        return self.take(self.left)

    def part(self) -> BytesReader:
        """A cursor over the next n bytes, n being read as a varint first; this one moves past them."""
        count = self.varint()
        start = self.offset
        self.take(count)
        return BytesReader(self.data, start, self.offset)

    def varint(self, top: int = 2**64 - 1) -> int:
        """A varint in its shortest form, at most `top`."""
        start, number = self.offset, 0
        for index in range(_LONGEST):
            byte = self.byte()
            number |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if number > top or (byte == 0 and index):
                    raise FormatError(f"number {number}", offset=start, expected=f"at most {top}, no padding")
                return number
        raise FormatError("a number without end", offset=start, expected=f"at most {_LONGEST} bytes")

    def signed(self, bits: int = 64) -> int:
        """A zigzag varint between -2^(bits-1) and 2^(bits-1) - 1."""
        number = self.varint(2**bits - 1)
        return -(number + 1 >> 1) if number & 1 else number >> 1


def sized(data: bytes) -> bytes:
    """Data with its length as a varint before it."""
    return varint(len(data)) + data
