"""Tensors sections: how the records of a network's tensors stand in a file, and how to find them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.bitstream.container import TENSORS, Section, located
from plisse.errors import FormatError

GROUP = 1 << 14
LONGEST = (1 << 32) - 1


@dataclass(frozen=True)
class Entry:
    """A tensor as it stands in a file.

    record: empty where the tensor has the values of an earlier one, that at position `same_as`. offset: of
    the record in the file. length: bytes of the record and the number before it.
    """

    record: bytes
    same_as: int
    offset: int
    length: int


def tensor_sections(records: Iterable[tuple[str, bytes]]) -> Iterator[Section]:
    """Sections of 16 KiB or more, named by the position of their first tensor.

    records: the type of a tensor in the network, and its record. What came before is written as its position.
    """
    seen: dict[tuple[str, bytes], int] = {}
    first, payload = 0, bytearray()
    for position, (kind, record) in enumerate(records):
        if len(payload) >= GROUP:
            yield Section(TENSORS, str(first), bytes(payload))
            first, payload = position, bytearray()
        same = seen.setdefault((kind, record), position)
        payload += varint(2 * len(record)) + record if same == position else varint(2 * same + 1)
    if payload:
        yield Section(TENSORS, str(first), bytes(payload))


def read_entries(sections: Iterable[Section], count: int) -> list[Entry]:
    """The entries of exactly `count` tensors, without decoding a record. Raises FormatError otherwise.

    >>> sections = tensor_sections([("float32", b"one"), ("float32", b"two"), ("float32", b"one")])
    >>> [entry.same_as for entry in read_entries(sections, 3)]
    [-1, -1, 0]
    """
    entries: list[Entry] = []
    offset = 0
    for section in sections:
        offset = section.offset
        if section.name != str(len(entries)):
            raise FormatError(f"tensors from {section.name!r}", offset=offset, expected=f"{len(entries)}")
        with located(offset, "tensors section"):
            _read_section(section, entries, count)
    if len(entries) != count:
        raise FormatError(f"{len(entries)} tensors", offset=offset, expected=f"{count}, as the head says")
    return entries


def record_shape(record: bytes) -> tuple[int, ...]:
    """The shape that a record states (docs/format-tensors.md), without decoding it."""
    reader = BytesReader(record)
    return tuple(reader.varint(LONGEST) for _ in range(reader.byte() >> 4))


def _read_section(section: Section, entries: list[Entry], limit: int) -> None:
    reader = BytesReader(section.payload)
    while reader.left:
        start = reader.offset
        count, repeats = divmod(reader.varint(LONGEST), 2)
        known = count < len(entries) and entries[count].same_as < 0
        if len(entries) >= limit or not (known if repeats else count):
            raise FormatError(
                f"entry {len(entries)}, {'the same as' if repeats else 'of bytes:'} {count}",
                offset=start,
                expected=f"a record, or a tensor before it that has one; {limit} tensors in all",
            )
        offset = section.offset + reader.offset
        record = b"" if repeats else reader.take(count)
        entries.append(Entry(record, count if repeats else -1, offset, reader.offset - start))
