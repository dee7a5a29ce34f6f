"""The container: a sequence of checked sections, written and read as docs/format.md says."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from plisse.errors import FormatError, InputError

MAGIC = b"\x89PLISSE\n"
VERSION = 2
OLDEST = 1

END, MODEL, TENSORS, ASSET, ELASTIC, STAGE = 0, 1, 2, 3, 4, 5
KINDS = {
    END: "end",
    MODEL: "model",
    TENSORS: "tensors",
    ASSET: "asset",
    ELASTIC: "elastic",
    STAGE: "stage",
}
SINCE = {ELASTIC: 2, STAGE: 2}
"""The version that a kind of section came with, where that is not 1. A file has the lowest that it needs."""

FIRST_ANCILLARY = 128

MAX_SECTIONS = 1 << 16
MAX_NAME = 255
MAX_PAYLOAD = 1 << 30
CHUNK = 1 << 20

FRAME = struct.Struct("<BBI")
CHECK = struct.Struct("<I")
TOTALS = struct.Struct("<II")


@dataclass(frozen=True)
class Section:
    """A named run of bytes. offset: where its payload starts in the file; no part of equality."""

    kind: int
    name: str
    payload: bytes
    offset: int = field(default=0, compare=False)

    @property
    def length(self) -> int:
        """Bytes of the section in the file, frame and checksum included."""
        return FRAME.size + len(self.name.encode()) + len(self.payload) + CHECK.size


class _TruncatedError(FormatError):
    """The bytes end where more were promised."""


@dataclass
class _Source:
    """A stream, how far it was read, the checksum since the section's start, that over all checksums, and the
    version of the file."""

    stream: BinaryIO
    offset: int = 0
    check: int = 0
    total: int = 0
    version: int = VERSION

    def take(self, count: int, what: str) -> bytes:
        """Exactly `count` bytes; memory grows with what arrives, not with `count`."""
        parts, missing = [], count
        while missing and (part := self.stream.read(min(missing, CHUNK))):
            parts.append(part)
            missing -= len(part)
            self.check = zlib.crc32(part, self.check)
        start, self.offset = self.offset, self.offset + count - missing
        if missing:
            raise _TruncatedError(
                f"a truncated file: {count - missing} of {count} bytes of {what}",
                offset=start,
                expected=f"{missing} more",
                hint="copy or download the file again",
            )
        return parts[0] if len(parts) == 1 else b"".join(parts)


def pack(sections: Iterable[Section]) -> bytes:
    """The bytes of a complete file with these sections; the end section is added.

    Raises InputError for a section that the format cannot hold.

    >>> unpack(pack([Section(ASSET, "a", b"hello")]))[0].payload
    b'hello'
    """
    sections = list(sections)
    version = max((SINCE.get(section.kind, OLDEST) for section in sections), default=OLDEST)
    parts = [MAGIC, bytes([version])]
    total = zlib.crc32(MAGIC + bytes([version]))
    seen: set[tuple[int, str]] = set()
    for section in sections:
        if (section.kind, section.name) in seen or len(seen) >= MAX_SECTIONS or section.kind == END:
            raise InputError(
                f"section {len(seen)}, {KINDS.get(section.kind, section.kind)} {section.name!r}",
                expected=f"at most {MAX_SECTIONS} sections, each kind and name once, the end left to `pack`",
            )
        seen.add((section.kind, section.name))
        parts += _framed(section)
        total = zlib.crc32(parts[-1], total)
    return b"".join([*parts, *_framed(Section(END, "", TOTALS.pack(len(seen), total)))])


def unpack(data: bytes) -> list[Section]:
    """All sections of a complete file, without the end section and unknown ancillary ones.

    Raises FormatError, with the offset, for anything that is no valid file.
    """
    stream = io.BytesIO(data)
    sections = list(read_sections(stream))
    if stream.tell() != len(data):
        raise FormatError(
            f"{len(data) - stream.tell()} bytes after the end section",
            offset=stream.tell(),
            expected="the end of the file",
        )
    return sections


def read_sections(stream: BinaryIO) -> Iterator[Section]:
    """Sections as they arrive, each checked; stops after the end section and reads nothing beyond it.

    Raises FormatError as soon as something is wrong, also where the stream ends without an end section.
    """
    source = _Source(stream)
    _read_start(source)
    seen: set[tuple[int, str]] = set()
    while True:
        start, total = source.offset, source.total
        section = _read_section(source)
        if section.kind == END:
            return _check_end(section, start, len(seen), total)
        if (section.kind, section.name) in seen:
            raise FormatError(f"section {section.name!r} of kind {section.kind} twice", offset=start)
        if len(seen) >= MAX_SECTIONS:
            raise FormatError("one section too many", offset=start, expected=f"at most {MAX_SECTIONS}")
        if SINCE.get(section.kind, OLDEST) > source.version:
            raise FormatError(f"a section of kind {section.kind}", offset=start, expected="a later version")
        seen.add((section.kind, section.name))
        if section.kind in KINDS:
            yield section


def read_prefix(stream: BinaryIO) -> Iterator[Section]:
    """The complete sections of a file of which only the first bytes are there.

    Raises FormatError for damage, but not for truncation. A damaged length can look like truncation.

    >>> data = pack([Section(ASSET, "a", b"1"), Section(ASSET, "b", b"2")])
    >>> [section.name for section in read_prefix(io.BytesIO(data[:-30]))]
    ['a']
    """
    try:
        yield from read_sections(stream)
    except _TruncatedError:
        return


@contextmanager
def located(offset: int, what: str) -> Iterator[None]:
    """Errors of a reader that saw only part of a file, as errors of the file: where and in what."""
    try:
        yield
    except FormatError as error:
        came = error.came.removesuffix(f" at byte {error.offset}")
        raise FormatError(
            f"{what}: {came}", offset=offset + error.offset, expected=error.expected, hint=error.hint
        ) from error


def _framed(section: Section) -> list[bytes]:
    name = section.name.encode(errors="replace")
    known = section.kind in KINDS or FIRST_ANCILLARY <= section.kind < 256
    if not known or len(name) > MAX_NAME or len(section.payload) > MAX_PAYLOAD:
        raise InputError(
            f"a section of kind {section.kind}, {len(name)} bytes of name, {len(section.payload)} of payload",
            expected=f"a known kind, at most {MAX_NAME} and {MAX_PAYLOAD} bytes",
        )
    start = FRAME.pack(section.kind, len(name), len(section.payload)) + name
    check = zlib.crc32(section.payload, zlib.crc32(start))
    return [start, section.payload, CHECK.pack(check)]


def _read_start(source: _Source) -> None:
    magic = source.take(len(MAGIC), "the magic")
    if magic != MAGIC:
        raise FormatError(f"{magic!r}", offset=0, expected=f"{MAGIC!r}", hint="is this a .plisse file?")
    version = source.take(1, "the version")[0]
    if version > VERSION:
        raise FormatError(
            f"a file of version {version}",
            offset=len(MAGIC),
            expected=f"{OLDEST} to {VERSION}",
            hint="install a newer Plissé",
        )
    if version < OLDEST:
        raise FormatError(f"version {version}", offset=len(MAGIC), expected=f"{OLDEST} to {VERSION}")
    source.total, source.version = source.check, version


def _read_section(source: _Source) -> Section:
    """The next section; its checksum is verified before anything in it but the frame is believed."""
    start, source.check = source.offset, 0
    frame = source.take(FRAME.size, "a section's frame")
    kind, name_length, length = FRAME.unpack(frame)
    if kind not in KINDS and kind < FIRST_ANCILLARY:
        raise FormatError(f"a section of unknown kind {kind}", offset=start, expected=f"one of {KINDS}")
    if length > MAX_PAYLOAD:
        raise FormatError(f"a payload of {length} bytes", offset=start + 2, expected=f"at most {MAX_PAYLOAD}")
    name = source.take(name_length, "a section's name")
    offset = source.offset
    payload = source.take(length, f"a {KINDS.get(kind, 'skipped')} section")
    found = source.check
    check = source.take(CHECK.size, "a section's checksum")
    (expected,) = CHECK.unpack(check)
    if found != expected:
        raise FormatError(
            f"a damaged section with checksum {found:08x}",
            offset=start,
            expected=f"{expected:08x}",
            hint="copy or download the file again",
        )
    source.total = zlib.crc32(check, source.total)
    return Section(kind, _decoded(name, start + FRAME.size), payload, offset)


def _decoded(name: bytes, offset: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"a section name {name!r}", offset=offset, expected="UTF-8") from error


def _check_end(section: Section, start: int, count: int, total: int) -> None:
    if section.name or len(section.payload) != TOTALS.size:
        raise FormatError("an end section with other contents", offset=start, expected="8 bytes, no name")
    found = TOTALS.unpack(section.payload)
    if found != (count, total):
        raise FormatError(
            f"an end after {count} sections with checksum {total:08x}",
            offset=section.offset,
            expected=f"{found[0]} sections, {found[1]:08x}",
        )
