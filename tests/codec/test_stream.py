"""The container of clips: what was written is read, damage is refused, broken streams give whole frames."""

import io
import random
import warnings
from fractions import Fraction

import pytest
import torch
from clips import moving

from plisse.codec.stream import (
    ClipReader,
    Header,
    chunk_bytes,
    end_bytes,
    frame_check,
    header_bytes,
)
from plisse.codec.video import Rate, Settings, decode, encode
from plisse.data.frames import Colour
from plisse.errors import FormatError, InputError

HEADER = Header(32, 48, Fraction(30000, 1001), Colour("bt709", True), "conv", (4, 3))


def clip(time: Fraction | None = None) -> bytes:
    planes = moving(1)[0].planes
    chunks = [chunk_bytes(True, b"key", 28.25, planes), chunk_bytes(False, b"step", 30, planes, time)]
    return header_bytes(HEADER) + b"".join(chunks) + end_bytes(2, True)


def test_what_is_written_is_read():
    reader = ClipReader(io.BytesIO(clip(Fraction(1, 3))))
    chunks = list(reader)
    assert reader.header == HEADER
    assert [(c.key, c.payload, c.crf, c.time) for c in chunks] == [
        (True, b"key", 28.25, None),
        (False, b"step", 30.0, Fraction(1, 3)),
    ]
    assert chunks[0].check == frame_check(moving(1)[0].planes)
    assert reader.end is not None
    assert reader.end.complete
    assert reader.end.n_frames == 2
    assert clip(Fraction(1, 3))[chunks[1].payload_offset :].startswith(b"step")


@pytest.mark.parametrize(("cut", "whole"), [(1, 2), (5, 2), (12, 1), (24, 0), (30, 0)])
def test_a_stream_that_breaks_off_gives_its_whole_frames(cut, whole):
    data = clip()[:-cut]
    with pytest.warns(UserWarning, match="breaks off"):
        chunks = list(ClipReader(io.BytesIO(data)))
    assert len(chunks) == whole


def test_every_flipped_bit_is_found():
    data = clip()
    for at in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                reader = ClipReader(io.BytesIO(bytes(damaged)))
                found = [chunk.payload for chunk in reader]
            except FormatError:
                continue
        assert reader.truncated
        assert found == [b"key", b"step"][: len(found)]


@pytest.mark.parametrize(
    "size", [(8, 48), (1 << 15, 48), (1 << 13, 1 << 13)], ids=["small", "long", "many pixels"]
)
def test_sizes_out_of_range(size):
    with pytest.raises(InputError, match="pixels"):
        Header(*size, Fraction(25), Colour(), "conv")


def test_a_step_needs_a_key_frame():
    data = header_bytes(HEADER) + chunk_bytes(False, b"", 28, moving(1)[0].planes)
    with pytest.raises(FormatError, match="before any key frame"):
        list(ClipReader(io.BytesIO(data)))


@pytest.mark.parametrize("data", [b"", b"\x89PLVID\r\n", b"RIFF" * 10, b"\x89PLVID\r\n\x09" + bytes(20)])
def test_no_clip(data):
    with pytest.raises(FormatError):
        ClipReader(io.BytesIO(data))


def _mutated(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: flips, cuts, runs of other bytes."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, way = draw.randrange(max(len(made), 1)), draw.randrange(4)
        made = made or bytearray(1)
        if way == 0:
            made[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            made[at : at + draw.randrange(9)] = draw.randbytes(draw.randrange(9))
        elif way == 2:
            made[at] = draw.choice((0, 1, 127, 128, 255))
        else:
            del made[at + 20 :]
    return bytes(made)


def _repaired(data: bytes, draw: random.Random) -> bytes:
    """A whole stream around a damaged payload, as an attacker would write it."""
    frames = moving(1)[0].planes
    reader = ClipReader(io.BytesIO(data))
    chunks = list(reader)
    target = draw.randrange(len(chunks))
    parts = [header_bytes(reader.header)]
    for index, chunk in enumerate(chunks):
        payload = _mutated(chunk.payload, draw) if index == target else chunk.payload
        parts.append(chunk_bytes(chunk.key, payload, chunk.crf, frames))
    return b"".join([*parts, end_bytes(len(chunks), True)])


def fuzz(scheme: str, n: int, seed: int, latents: bool = True) -> tuple[int, int]:
    """Numbers of damaged clips that were refused, and that gave frames."""
    data = encode(moving(3), Fraction(25), Settings(scheme, "fast", Rate(crf=40), latents=latents))
    draw, refused, gave = random.Random(seed), 0, 0
    for index in range(n):
        damaged = _repaired(data, draw) if index % 2 else _mutated(data, draw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for frame in decode(damaged):
                    assert frame.planes[0].dtype == torch.uint8
                gave += 1
            except FormatError:
                refused += 1
    return refused, gave


def test_mutated_streams():
    refused, gave = fuzz("warp", 60, 0)
    assert refused > 10
    assert gave > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "latents"), [("warp", True), ("conv", True), ("conv", False), ("siren", True)]
)
def test_many_mutated_streams(scheme, latents):
    refused, gave = fuzz(scheme, 3400, 1, latents)
    assert refused > 100
    assert gave > 100
