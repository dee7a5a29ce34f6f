"""Damaged and hostile files: every one is refused with FormatError, or is a valid file of some network.

Half of the mutations leave the checksums as they were (accidents): these must all be refused. The other half
repair the checksums (an attacker would): these may load, but then give a finite network and nothing else.
"""

from __future__ import annotations

import copy
import json
import lzma
import random
import resource
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tinynet
import torch
from tinynet import ORIGIN, TinyNet, build

from plisse.bitstream import modelfile
from plisse.bitstream.bytesreader import varint
from plisse.bitstream.container import ASSET, MODEL, TENSORS, Section, pack, unpack
from plisse.bitstream.entries import read_entries
from plisse.bitstream.head import canonical_json
from plisse.bitstream.squeeze import expanded, squeezed
from plisse.bitstream.tensors import encode_tensor
from plisse.core.stored import Codes, Levels, Stored, Uniform, Vectors, raw
from plisse.errors import FormatError, InputError

MIB = 1 << 20
HOSTILE = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        7,
        255,
        256,
        65536,
        (1 << 20),
        (1 << 20) + 1,
        1 << 31,
        1 << 32,
        1 << 63,
        10**30,
    ),
    *(
        0.5,
        -0.0,
        1e-300,
        1e300,
        "",
        "x",
        "conv1",
        "Linear",
        "InputQuantizer",
        "__class__",
        "a" * 5000,
        "é\x00\n",
    ),
    *([], {}, [[]], [1, 2], [1 << 20] * 2, ["conv1", "Identity", {}], {"out_channels": 1 << 20}, {"bits": 3}),
    *(
        [0] * 1000,
        [[[[[[[[[[1]]]]]]]]]],
        {"device": "meta"},
        {"dtype": 1},
        ["relu", "Linear", {"in_features": 1}],
    ),
)
Sections = list[Section]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    length = min(draw.choice((1, 2, 4, 8, 50)), len(data) - start)
    filling = draw.choice((draw.randbytes(length), bytes(length), b"\xff" * length))
    return data[:start] + filling + data[start + length :]


def splice(data: bytes, draw: random.Random) -> bytes:
    """Some bytes of the file again at another place, in addition to or instead of what was there."""
    start, target = draw.randrange(len(data)), draw.randrange(len(data))
    piece = data[start : start + draw.choice((1, 3, 10, 100, 1000))]
    return data[:target] + piece + data[target + draw.choice((0, len(piece))) :]


def insert(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.randbytes(draw.choice((1, 2, 4, 30))) + data[place:]


def delete(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.choice((1, 2, 4, 30)) :]


def length_field(data: bytes, draw: random.Random) -> bytes:
    """Another length in the frame of a section."""
    section = draw.choice(unpack(data))
    place = section.offset - len(section.name.encode()) - 4
    length = draw.choice(
        (0, len(section.payload) + draw.choice((-1, 1, 4, 14)), 1 << 20, (1 << 30) + 1, (1 << 32) - 1)
    )
    return data[:place] + max(length, 0).to_bytes(4, "little") + data[place + 4 :]


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(cut, flip, overwrite, splice, insert, delete, length_field),
)


def any_payload(sections: Sections, draw: random.Random) -> Sections:
    """Damage inside one section."""
    index = draw.randrange(len(sections))
    old = sections[index]
    payload = draw.choice(BYTES[:-1])(old.payload, draw) if old.payload else draw.randbytes(5)
    return [*sections[:index], Section(old.kind, old.name, payload), *sections[index + 1 :]]


def order(sections: Sections, draw: random.Random) -> Sections:
    """Sections left out, in another order, renamed, of another kind."""
    index = draw.randrange(len(sections))
    old = sections[index]
    renamed = Section(
        draw.choice((MODEL, TENSORS, ASSET, 200)), draw.choice(("", "0", "7", "x")), old.payload
    )
    return draw.choice(
        (
            [*sections[:index], *sections[index + 1 :]],
            draw.sample(sections, len(sections)),
            [*sections[:index], renamed, *sections[index + 1 :]],
            [*sections, renamed],
        )
    )


def head_value(sections: Sections, draw: random.Random) -> Sections:
    """Other values, keys and items in the head, in valid form."""
    data = json.loads(expanded(sections[0].payload, MIB))
    for _ in range(draw.choice((1, 1, 2, 3))):
        holder = draw.choice(list(holders(data)))
        if isinstance(holder, dict):
            change_object(holder, draw)
        else:
            change_list(holder, draw)
    return [Section(MODEL, "", squeezed(canonical_json(data))), *sections[1:]]


def hostile(draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(HOSTILE))


def holders(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from holders(item)


def change_object(holder: dict[str, Any], draw: random.Random) -> None:
    key = draw.choice([*holder, "in_features", "out_channels", "kernel_size", "stride", "x"])
    if draw.random() < 0.15:
        holder.pop(key, None)
    else:
        holder[key] = hostile(draw)


def change_list(holder: list[Any], draw: random.Random) -> None:
    index = draw.randrange(len(holder) + 1)
    if draw.random() < 0.3 or index == len(holder):
        holder.insert(index, draw.choice((hostile(draw), *copy.deepcopy(holder))))
    elif draw.random() < 0.2:
        holder.pop(index)
    else:
        holder[index] = hostile(draw)


def head_text(sections: Sections, draw: random.Random) -> Sections:
    """Other JSON text, mostly no longer JSON."""
    text = expanded(sections[0].payload, MIB)
    nested = b'{"a":' * draw.choice((20, 40, 5000)) + b"1"
    text = draw.choice(
        (draw.choice(BYTES[:-1])(text, draw), text.replace(b'"notes":{', b'"notes":' + nested))
    )
    return [Section(MODEL, "", squeezed(text)), *sections[1:]]


def records(sections: Sections, draw: random.Random) -> Sections:
    """Records damaged, exchanged, or made for tensors of other shapes and types."""
    entries = read_entries([s for s in sections if s.kind == TENSORS], 22)
    items = [
        varint(2 * entry.same_as + 1) if entry.same_as >= 0 else framed(entry.record) for entry in entries
    ]
    index = draw.choice([i for i, entry in enumerate(entries) if entry.record])
    old = entries[index].record
    items[index] = draw.choice(
        (
            framed(draw.choice(BYTES[:-1])(old, draw)),
            framed(flip(old, draw)),
            framed(flip(old, draw)),
            framed(overwrite(old[:8], draw) + old[8:]),
            framed(draw.choice(foreign())),
            draw.choice(items),
            varint(2 * draw.randrange(30) + 1),
        )
    )
    return [sections[0], Section(TENSORS, "0", b"".join(items)), *sections[2:]]


def framed(record: bytes) -> bytes:
    return varint(2 * len(record)) + record


def tables() -> list[Stored]:
    """Tensors of the network's shapes on grids that are tables."""
    symbols = np.arange(36, dtype=np.int32).reshape(6, 6) % 4
    levels = np.array([-2.0, 0.0, 1.0, 2.0**100], np.float32)
    scale = np.exp2(np.arange(-9, 9)).astype(np.float32).reshape(6, 3)
    alphas = np.exp2(np.arange(-6, 6)).astype(np.float32).reshape(6, 2)
    books = np.arange(32, dtype=np.float32).reshape(2, 4, 4) / 8
    return [
        Stored(symbols, (6, 6), Levels(levels, scale, 2)),
        Stored(symbols[0], (6,), Levels(levels)),
        Stored(symbols, (6, 6), Codes(alphas)),
        Stored(symbols[:3].reshape(2, 9), (6, 6), Vectors(books)),
    ]


FOREIGN: list[bytes] = []


def foreign() -> list[bytes]:
    """Valid records of tensors that the network does not have."""
    if not FOREIGN:
        large = Uniform(np.array([2.0**127], np.float32))
        zeros = encode_tensor(Stored(np.zeros((2, 2), np.int32), (2, 2), large))
        FOREIGN.append(zeros[:1] + varint(1 << 20) + varint(64) + zeros[3:])
        FOREIGN.append(encode_tensor(Stored(np.full(6, 2**20), (6,), large)))
        FOREIGN.append(encode_tensor(raw(np.full(6, np.nan, np.float32))))
        FOREIGN.append(encode_tensor(raw(np.arange(6), "int64")))
        FOREIGN.append(encode_tensor(raw(np.zeros((0, 5), np.float32))))
        FOREIGN.extend(encode_tensor(stored) for stored in tables())
    return FOREIGN


SECTIONS: tuple[Callable[[Sections, random.Random], Sections], ...] = (
    *(
        any_payload,
        any_payload,
        order,
        head_value,
        head_value,
        head_value,
        head_text,
        records,
        records,
        records,
    ),
)


@contextmanager
def at_most_a_minute() -> Iterator[None]:
    """A hang becomes an error."""

    def expired(*args: Any) -> None:
        raise TimeoutError("one file took more than a minute")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(data: bytes) -> str:
    """What reading `data` in every way leads to; anything but these outcomes is a failure."""
    found = loading(data)
    for read in (modelfile.summary, modelfile.assets):
        try:
            read(data)
        except FormatError:
            assert found != "loaded" or read is modelfile.assets
    return found


def loading(data: bytes) -> str:
    model, failed = None, None
    try:
        model = modelfile.loads(data, build)
    except (FormatError, InputError) as error:
        failed = error
    if isinstance(failed, FormatError):
        assert 0 <= failed.offset <= len(data)
        return "refused"
    if failed is not None:
        assert "tinynet of 3 classes" in str(failed)
        return "refused by build"
    assert isinstance(model, TinyNet)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    return "loaded"


def fuzz(count: int, seed: int) -> dict[str, int]:
    """Outcomes of `count` mutations, half of them with repaired checksums."""
    data, draw = tinynet.tiny_file(), random.Random(seed)
    sections = unpack(data)
    counts = dict.fromkeys(("refused", "refused by build", "loaded", "unchanged"), 0)
    for index in range(count):
        repaired = index % 2 == 1
        mutate: Any = SECTIONS[index // 2 % len(SECTIONS)] if repaired else BYTES[index // 2 % len(BYTES)]
        try:
            changed = pack(mutate(sections, draw)) if repaired else mutate(data, draw)
        except InputError:  # the same section twice: the container test has it
            changed = data[:-1]
        with at_most_a_minute():
            try:
                found = "unchanged" if changed == data else outcome(changed)
            except BaseException as error:
                raise AssertionError(
                    f"seed {seed}, mutation {index} ({mutate.__name__}): {error!r}"
                ) from error
        assert repaired or found in ("refused", "unchanged"), f"seed {seed}, mutation {index} was not noticed"
        counts[found] += 1
    return counts


def test_a_thousand_mutations() -> None:
    counts = fuzz(1000, seed=1)
    assert counts["refused"] > 800
    assert counts["loaded"] > 10
    assert counts["refused by build"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_ten_thousand_mutations(seed: int) -> None:
    assert fuzz(1000, seed)["refused"] > 800


def with_edit(*edit: Any) -> bytes:
    """The file with one edit only."""
    first, *rest = unpack(tinynet.tiny_file())
    data = json.loads(expanded(first.payload, MIB))
    return pack([Section(MODEL, "", squeezed(canonical_json({**data, "edits": [list(edit)]}))), *rest])


def bombs() -> dict[str, bytes]:
    """Small files that ask for a lot of memory."""
    first, tensors, *_ = unpack(tinynet.tiny_file())
    empty = squeezed(b"")
    return {
        "a wide layer": with_edit("head", "Linear", {"in_features": 1 << 14, "out_features": 1 << 14}),
        "a wide convolution": with_edit(
            "conv1", "Conv2d", {"out_channels": 1 << 20, "kernel_size": [99, 99]}
        ),
        "a head of many lists": pack(
            [Section(MODEL, "", squeezed(b"[" + b"[]," * 300_000 + b"[]]")), tensors]
        ),
        "a head that expands": pack([Section(MODEL, "", lying(100 * MIB)), tensors]),
        "many edits": with_many_edits(),
        "a huge tensor": pack(
            [first, Section(TENSORS, "0", b"".join(varint(2 * len(r)) + r for r in foreign()))]
        ),
        "an asset that expands": pack([first, tensors, Section(ASSET, "a", lying(100 * MIB))]),
        "an asset that lies": pack(
            [first, tensors, Section(ASSET, "a", empty[:1] + varint(1 << 31) + b"abc")]
        ),
        "a length that lies": pack([first, tensors])[:9] + b"\x01\x00\x00\x00\x00\x40" + bytes(1000),
    }


def lying(length: int) -> bytes:
    """Squeezed bytes that say they expand to 1000 bytes and expand to `length`."""
    settings = {"preset": 0, "dict_size": 4096, "lc": 3, "lp": 0, "pb": 0}
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **settings}])
    body = b"".join(packer.compress(bytes(MIB)) for _ in range(length // MIB)) + packer.flush()
    return bytes([1]) + varint(1000) + body


def with_many_edits() -> bytes:
    first, *rest = unpack(tinynet.tiny_file())
    data = json.loads(expanded(first.payload, MIB))
    sides = {"in_features": 1, "out_features": 1}
    data["edits"] = [[f"head.x{index}", "Linear", sides] for index in range(1000)]
    return pack([Section(MODEL, "", squeezed(canonical_json(data))), *rest])


@pytest.mark.slow
def test_memory_stays_within_the_bound() -> None:
    files = bombs()
    modelfile.loads(tinynet.tiny_file(), build)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in files.items():
        tracemalloc.start()
        assert outcome(data) in ("refused", "loaded"), name
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * MIB + 3 * len(data), name
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 128 * MIB


def test_the_file_that_is_mutated_is_valid() -> None:
    model = modelfile.loads(tinynet.tiny_file(), build)
    assert set(model.state_dict()) > {"conv2.input_quantizer.scale", "again.weight"}
    assert modelfile.summary(tinynet.tiny_file()).origin == ORIGIN
