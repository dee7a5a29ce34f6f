from __future__ import annotations

import io
import struct
import zlib

import pytest

from plisse.bitstream import container
from plisse.bitstream.container import (
    ASSET,
    MODEL,
    TENSORS,
    Section,
    located,
    pack,
    read_prefix,
    read_sections,
    unpack,
)
from plisse.errors import FormatError, InputError

SECTIONS = [
    Section(MODEL, "", b"{}"),
    Section(TENSORS, "0", bytes(range(200))),
    Section(TENSORS, "7", b""),
    Section(ASSET, "vocab.txt", b"hello"),
    Section(ASSET, "ämter", b"\x00" * 9),
]
DATA = pack(SECTIONS)
END_LENGTH = 10 + 8


def framed(kind: int, name: bytes, payload: bytes) -> bytes:
    start = struct.pack("<BBI", kind, len(name), len(payload)) + name + payload
    return start + struct.pack("<I", zlib.crc32(start))


def with_end(body: bytes, count: int, checks: bytes) -> bytes:
    head = container.MAGIC + b"\x01"
    return head + body + framed(0, b"", struct.pack("<II", count, zlib.crc32(head + checks)))


def test_sections_come_back_with_their_offsets() -> None:
    found = unpack(DATA)
    assert found == SECTIONS
    assert all(DATA[s.offset : s.offset + len(s.payload)] == s.payload for s in found)


def test_length_is_what_the_format_says() -> None:
    assert len(DATA) == 9 + sum(section.length for section in SECTIONS) + END_LENGTH
    assert SECTIONS[1].length == 10 + 1 + 200


def test_bytes_are_what_the_format_says() -> None:
    one = framed(ASSET, b"a", b"xyz")
    assert pack([Section(ASSET, "a", b"xyz")]) == with_end(one, 1, one[-4:])


def test_empty_file_round_trips() -> None:
    assert unpack(pack([])) == []


def test_every_truncation_is_refused_and_its_prefix_is_usable() -> None:
    ends = [s.offset + len(s.payload) + 4 for s in unpack(DATA)]
    for length in range(len(DATA)):
        with pytest.raises(FormatError, match="truncated") as caught:
            unpack(DATA[:length])
        assert caught.value.offset <= length
        assert list(read_prefix(io.BytesIO(DATA[:length]))) == SECTIONS[: sum(end <= length for end in ends)]


def test_sections_are_usable_before_the_rest_arrives() -> None:
    stream = io.BytesIO(DATA[: unpack(DATA)[1].offset + 204])
    sections = read_sections(stream)
    assert [next(sections), next(sections)] == SECTIONS[:2]
    with pytest.raises(FormatError, match="truncated"):
        next(sections)


def test_a_stream_is_not_read_beyond_the_end() -> None:
    stream = io.BytesIO(DATA + b"next")
    assert list(read_sections(stream)) == SECTIONS
    assert stream.read() == b"next"


def test_a_stream_may_come_in_small_pieces() -> None:
    class Trickle(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            return super().read(min(count or 0, 3))

    assert list(read_sections(Trickle(DATA))) == SECTIONS


def test_every_flipped_bit_is_refused() -> None:
    for position in range(len(DATA)):
        for bit in range(8):
            damaged = bytearray(DATA)
            damaged[position] ^= 1 << bit
            with pytest.raises(FormatError):
                unpack(bytes(damaged))


def test_sections_that_changed_places_are_refused() -> None:
    a, b = framed(ASSET, b"a", b"1"), framed(ASSET, b"b", b"2")
    assert unpack(with_end(a + b, 2, a[-4:] + b[-4:])) == [
        Section(ASSET, "a", b"1"),
        Section(ASSET, "b", b"2"),
    ]
    with pytest.raises(FormatError, match="an end after 2 sections"):
        unpack(with_end(b + a, 2, a[-4:] + b[-4:]))


def test_a_missing_section_is_refused() -> None:
    a, b = framed(ASSET, b"a", b"1"), framed(ASSET, b"b", b"2")
    with pytest.raises(FormatError, match="expected 2 sections"):
        unpack(with_end(a, 2, a[-4:] + b[-4:]))


def test_a_section_twice_is_refused() -> None:
    a = framed(ASSET, b"a", b"1")
    with pytest.raises(FormatError, match="twice"):
        unpack(with_end(a + a, 2, 2 * a[-4:]))
    with pytest.raises(InputError):
        pack([Section(ASSET, "a", b"1"), Section(ASSET, "a", b"2")])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(FormatError, match="1 bytes after the end") as caught:
        unpack(DATA + b"\x00")
    assert caught.value.offset == len(DATA)


def test_unknown_kinds_are_refused_or_skipped() -> None:
    critical, ancillary = framed(77, b"", b"?"), framed(200, b"", b"?")
    with pytest.raises(FormatError, match="unknown kind 77"):
        unpack(with_end(critical, 1, critical[-4:]))
    assert unpack(with_end(ancillary, 1, ancillary[-4:])) == []


def test_oversized_lengths_are_refused_without_memory_for_them() -> None:
    long = struct.pack("<BBI", ASSET, 0, container.MAX_PAYLOAD + 1)
    with pytest.raises(FormatError, match="expected at most"):
        unpack(container.MAGIC + b"\x01" + long + b"abc")
    with pytest.raises(FormatError, match="truncated"):
        unpack(container.MAGIC + b"\x01" + struct.pack("<BBI", ASSET, 0, container.MAX_PAYLOAD) + b"abc")


def test_too_many_sections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_SECTIONS", 4)
    with pytest.raises(FormatError, match="one section too many"):
        unpack(DATA)
    with pytest.raises(InputError):
        pack(SECTIONS)


def test_names_must_be_text() -> None:
    bad = framed(ASSET, b"\xff\xfe", b"")
    with pytest.raises(FormatError, match="UTF-8"):
        unpack(with_end(bad, 1, bad[-4:]))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"PK\x03\x04aaaaaaaaaa", "is this a .plisse file"),
        (b"\x89PLISSE\r\n" + DATA[8:], "is this a .plisse file"),
        (container.MAGIC + b"\x03" + DATA[9:], "version 3 .*newer"),
        (container.MAGIC + b"\x00" + DATA[9:], "version 0"),
    ],
)
def test_other_files_and_versions_are_refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        unpack(data)


def test_an_end_section_must_have_its_form() -> None:
    with pytest.raises(FormatError, match="end section"):
        unpack(container.MAGIC + b"\x01" + framed(0, b"x", bytes(8)))
    with pytest.raises(FormatError, match="end section"):
        unpack(container.MAGIC + b"\x01" + framed(0, b"", bytes(9)))


@pytest.mark.parametrize(
    "section",
    [Section(0, "", b""), Section(9, "", b""), Section(256, "", b""), Section(ASSET, "n" * 256, b"")],
)
def test_sections_that_the_format_cannot_hold_are_refused(section: Section) -> None:
    with pytest.raises(InputError):
        pack([section])


def test_located_errors_count_from_the_start_of_the_file() -> None:
    with pytest.raises(FormatError) as caught, located(100, "tensor 'x'"):
        raise FormatError("a bad tag", offset=5, expected="a good one", hint="a hint")
    assert caught.value.offset == 105
    assert str(caught.value) == "got tensor 'x': a bad tag at byte 105; expected a good one; try: a hint"
