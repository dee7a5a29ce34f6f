"""A clip as a stream of bytes: a header, one chunk per frame, an end. docs/format-video.md tells every byte.

Every chunk says where it ends and has a checksum, so that frames can be decoded as they arrive, and a stream
that breaks off still gives what is whole.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from plisse.bitstream.bytesreader import BytesReader, sized, varint
from plisse.codec.pictures import Planes
from plisse.data.frames import MATRICES, Colour
from plisse.errors import FormatError, InputError

MAGIC = b"\x89PLVID\r\n"
VERSION = 1
END, KEY, STEP = 0, 1, 2
TIMED = 0x40
"""Set in the first byte of a chunk that tells its time."""
SCHEMES = ("siren", "fourier", "conv", "warp", "whole")
MATRIX_NAMES = tuple(MATRICES)
LONGEST_HEADER, LONGEST_CHUNK = 1 << 10, 1 << 26
MOST_PIXELS, LONGEST_SIDE, SHORTEST_SIDE = 1 << 25, 1 << 14, 16
CRF_PARTS = 4
CHECK = struct.Struct("<I")
FRAME_CHECK = struct.Struct("<HB")


@dataclass(frozen=True)
class Header:
    """What all frames share. numbers: of the scheme (width and depth of a network)."""

    height: int
    width: int
    rate: Fraction
    colour: Colour
    scheme: str
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sides = (self.height, self.width)
        if min(sides) < SHORTEST_SIDE or max(sides) > LONGEST_SIDE or self.height * self.width > MOST_PIXELS:
            raise InputError(
                f"frames of {self.width} x {self.height} pixels",
                expected=f"{SHORTEST_SIDE} to {LONGEST_SIDE} a side, at most {MOST_PIXELS} pixels",
            )
        if not 0 < self.rate < 1 << 16 or max(self.rate.numerator, self.rate.denominator) >= 1 << 31:
            raise InputError(f"{self.rate} frames per second", expected="above 0, below 2^16")

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True)
class Chunk:
    """A frame as coded. time: seconds, None where it is index / rate. check: of the decoded planes. offset:
    of the chunk in the file; payload_offset: of what the scheme wrote. length: bytes of the whole chunk."""

    key: bool
    payload: bytes
    crf: float
    check: int
    time: Fraction | None = None
    offset: int = 0
    payload_offset: int = 0
    length: int = 0


@dataclass(frozen=True)
class End:
    """n_frames: before it. complete: false after an interruption."""

    n_frames: int
    complete: bool
    offset: int = 0


def frame_check(planes: Planes) -> int:
    """The lower half of the CRC-32 of luma and chroma."""
    check = 0
    for plane in planes:
        check = zlib.crc32(plane.contiguous().numpy().tobytes(), check)
    return check & 0xFFFF


def header_bytes(header: Header) -> bytes:
    """Magic, version, header, checksum."""
    colour = MATRIX_NAMES.index(header.colour.matrix) | (header.colour.full << 4)
    numbers = (header.height, header.width, header.rate.numerator, header.rate.denominator)
    body = b"".join(map(varint, numbers)) + bytes([colour, SCHEMES.index(header.scheme)])
    body += bytes([len(header.numbers)]) + b"".join(map(varint, header.numbers))
    start = MAGIC + bytes([VERSION]) + sized(body)
    return start + CHECK.pack(zlib.crc32(start))


def chunk_bytes(key: bool, payload: bytes, crf: float, planes: Planes, time: Fraction | None = None) -> bytes:
    """A frame: kind, length, body, checksum."""
    told = b"" if time is None else varint(time.numerator) + varint(time.denominator)
    body = FRAME_CHECK.pack(frame_check(planes), round(crf * CRF_PARTS)) + told + payload
    return _checked(bytes([(KEY if key else STEP) | (TIMED if time is not None else 0)]) + sized(body))


def end_bytes(n_frames: int, complete: bool) -> bytes:
    return _checked(bytes([END]) + sized(varint(n_frames) + bytes([complete])))


def _checked(data: bytes) -> bytes:
    return data + CHECK.pack(zlib.crc32(data))


class _TruncatedError(FormatError):
    """The bytes end where more were promised."""


@dataclass
class _Source:
    """A stream and how far it was read; `taken` is what came since the last checksum."""

    stream: BinaryIO
    offset: int = 0
    taken: bytes = b""

    def take(self, count: int) -> bytes:
        parts, missing = [], count
        while missing and (part := self.stream.read(min(missing, 1 << 20))):
            parts.append(part)
            missing -= len(part)
        start, self.offset = self.offset, self.offset + count - missing
        data = b"".join(parts)
        self.taken += data
        if missing:
            raise _TruncatedError(
                "a stream that breaks off", offset=start, expected=f"{missing} more bytes",
                hint="copy or download the file again",
            )  # fmt: skip
        return data

    def varint(self, top: int) -> int:
        start, data = self.offset, self.take(1)
        while data[-1] & 0x80 and len(data) < 10:
            data += self.take(1)
        try:
            return BytesReader(data).varint(top)
        except FormatError as error:
            raise FormatError(error.came, offset=start, expected=error.expected) from error

    def check(self, what: str) -> None:
        """The checksum of everything taken since the last one."""
        found, start = zlib.crc32(self.taken), self.offset - len(self.taken)
        (expected,) = CHECK.unpack(self.take(CHECK.size))
        self.taken = b""
        if found != expected:
            raise FormatError(
                f"a damaged {what} with checksum {found:08x}", offset=start, expected=f"{expected:08x}",
                hint="copy or download the file again",
            )  # fmt: skip


class ClipReader:
    """Header and chunks of a stream, as they arrive. Reads nothing beyond the end chunk.

    Raises FormatError at the first byte that is wrong. Where the stream breaks off after the header,
    iteration ends with a warning. `end` is the end chunk once it was read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._source = _Source(stream)
        self.header = self._read_header()
        self.end: End | None = None
        self.truncated = False

    def __iter__(self) -> Iterator[Chunk]:
        n_frames = 0
        while True:
            try:
                item = self._read_chunk(n_frames)
            except _TruncatedError as error:
                self.truncated = True
                text = f"the stream breaks off at byte {error.offset}: {n_frames} whole frames"
                warnings.warn(text, stacklevel=2)
                return
            if isinstance(item, End):
                self.end = item
                return
            if not n_frames and not item.key:
                raise FormatError("a step before any key frame", offset=item.offset, expected="a key frame")
            n_frames += 1
            yield item

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._source.offset

    def _read_header(self) -> Header:
        source = self._source
        magic = source.take(len(MAGIC))
        if magic != MAGIC:
            raise FormatError("a file that is no clip", offset=0, expected=r"\x89PLVID to begin with")
        version = source.take(1)[0]
        if version != VERSION:
            raise FormatError(f"a clip of version {version}", offset=len(MAGIC), expected=f"{VERSION}")
        length = source.varint(LONGEST_HEADER)
        start = source.offset
        body = source.take(length)
        source.check("header")
        return _parsed_header(BytesReader(body), start)

    def _read_chunk(self, n_frames: int) -> Chunk | End:
        source = self._source
        start = source.offset
        first = source.take(1)[0]
        kind, timed = first & ~TIMED, bool(first & TIMED)
        if kind not in (END, KEY, STEP) or (kind == END and timed):
            raise FormatError(
                f"a chunk of kind {first}", offset=start, expected="an end, a key frame, a step"
            )
        length = source.varint(LONGEST_CHUNK)
        body_offset = source.offset
        body = source.take(length)
        source.check("chunk")
        if kind == END:
            return _parsed_end(BytesReader(body), start, body_offset, n_frames)
        return _parsed_frame(kind == KEY, timed, body, start, body_offset, source.offset - start)


def _parsed_header(reader: BytesReader, start: int) -> Header:
    try:
        height, width = reader.varint(LONGEST_SIDE), reader.varint(LONGEST_SIDE)
        top = (1 << 31) - 1
        rate = (reader.varint(top), reader.varint(top))
        colour, scheme, count = reader.byte(), reader.byte(), reader.byte()
        numbers = tuple(reader.varint(1 << 16) for _ in range(count))
        if reader.left or not rate[1] or math.gcd(*rate) != 1:
            raise FormatError("a header of another form", offset=reader.offset, expected="its end")
        if scheme >= len(SCHEMES) or colour & 15 >= len(MATRIX_NAMES) or colour >> 5:
            raise FormatError(
                f"scheme {scheme}, colour {colour}", offset=reader.offset, expected="known ones"
            )
        kind = Colour(MATRIX_NAMES[colour & 15], bool(colour >> 4))
        return Header(height, width, Fraction(*rate), kind, SCHEMES[scheme], numbers)
    except FormatError as error:
        raise FormatError(error.came, offset=start + error.offset, expected=error.expected) from error
    except InputError as error:
        raise FormatError(error.came, offset=start, expected=error.expected) from error


def _parsed_end(reader: BytesReader, start: int, offset: int, n_frames: int) -> End:
    try:
        told, complete = reader.varint(), reader.byte()
        if reader.left or complete > 1:
            raise FormatError("an end of another form", offset=reader.offset, expected="2 numbers")
    except FormatError as error:
        raise FormatError(error.came, offset=offset + error.offset, expected=error.expected) from error
    if told != n_frames:
        raise FormatError(f"an end after {n_frames} frames", offset=start, expected=f"{told} frames")
    return End(told, bool(complete), start)


def _parsed_frame(key: bool, timed: bool, body: bytes, start: int, offset: int, length: int) -> Chunk:
    reader = BytesReader(body)
    try:
        check, crf = FRAME_CHECK.unpack(reader.take(FRAME_CHECK.size))
        time = None
        if timed:
            numbers = reader.varint((1 << 62) - 1), reader.varint((1 << 62) - 1)
            if not numbers[1]:
                raise FormatError("a time over zero", offset=reader.offset, expected="a fraction")
            time = Fraction(*numbers)
        if crf > 51 * CRF_PARTS:
            raise FormatError(f"quality number {crf / CRF_PARTS}", offset=2, expected="0 to 51")
    except FormatError as error:
        raise FormatError(error.came, offset=offset + error.offset, expected=error.expected) from error
    at = offset + reader.offset
    return Chunk(key, reader.rest(), crf / CRF_PARTS, check, time, start, at, length)
