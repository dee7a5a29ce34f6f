"""Clips back to frames: as their bytes arrive, from any key frame on, at any size where the scheme can."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from plisse.codec.pictures import as_bytes
from plisse.codec.presets import scheme_of
from plisse.codec.rate import luma_quality
from plisse.codec.scheme import State
from plisse.codec.stream import Chunk, ClipReader, End, Header, frame_check
from plisse.data.frames import Frame
from plisse.errors import FormatError, InputError


@dataclass(frozen=True)
class Clip:
    """An encoded clip. Iterating decodes frame by frame; chunks are indexed by a scan, without decoding."""

    path: Path

    @property
    def header(self) -> Header:
        with open(self.path, "rb") as file:
            return ClipReader(file).header

    def chunks(self) -> list[Chunk]:
        """Of all whole frames, without payloads, so that a long clip is not held; a warning where the file
        breaks off."""
        return self.scan()[0]

    def scan(self) -> tuple[list[Chunk], End | None]:
        """`chunks`, and the end, which says whether the encoder was interrupted; None if missing."""
        with open(self.path, "rb") as file:
            reader = ClipReader(file)
            return [replace(chunk, payload=b"") for chunk in reader], reader.end

    def frames(self, start: int = 0, size: tuple[int, int] | None = None) -> Iterator[Frame]:
        """Frames from `start` on, decoded from the key frame before. size: see `decode`."""
        with open(self.path, "rb") as file:
            yield from decode(file, start, size)


def open_clip(path: str | Path) -> Clip:
    """Raises InputError for a missing file, FormatError for one that is no clip."""
    if not Path(path).is_file():
        raise InputError(
            f"{str(path)!r}, which is no file", expected="a clip that `plisse video encode` wrote"
        )
    clip = Clip(Path(path))
    _ = clip.header
    return clip


def decode(stream: BinaryIO | bytes, start: int = 0, size: tuple[int, int] | None = None) -> Iterator[Frame]:
    """Frames of a clip as its bytes arrive, from frame `start` on.

    size: height and width of what comes out, for coordinate networks. Frames before the last key frame up to
    `start` are not decoded where the stream can seek.

    Warns where the stream breaks off, and where a frame is not the one that the encoder had (another machine
    may round otherwise). Raises FormatError for damage, InputError for a size that the network cannot give.
    """
    source = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    reader = ClipReader(source)
    scheme, _ = scheme_of(reader.header.scheme, "", reader.header.size, reader.header.numbers)
    first = _last_key(source, reader, start) if start else 0
    state: State | None = None
    strange = False
    for index, chunk in enumerate(reader):
        if index < first:
            continue
        state = scheme.decode(chunk.payload, None if chunk.key else state, chunk.payload_offset, chunk.crf)
        if index < start:
            continue
        if not strange and frame_check(state.planes) != chunk.check:
            strange = True
            warnings.warn(f"frame {index} is not the frame that the encoder saw", stacklevel=2)
        planes = state.planes if size is None else as_bytes(scheme.resized(state, size))
        yield Frame(planes, reader.header.colour, _time(chunk, index, reader.header))


def luma_qualities(path: str | Path, originals: Iterable[Frame]) -> Iterator[float]:
    """PSNR of luma of each frame of a clip in dB, at most 100, as its encoder measures it."""
    for made, original in zip(open_clip(path).frames(), originals, strict=False):
        yield luma_quality(made.planes, original.planes)


def _time(chunk: Chunk, index: int, header: Header) -> Fraction:
    return index / header.rate if chunk.time is None else chunk.time


def _last_key(source: BinaryIO, reader: ClipReader, start: int) -> int:
    """The number of the last key frame up to `start`; 0 where the stream cannot seek."""
    if not source.seekable():
        return 0
    at, found = source.tell(), 0
    source.seek(at - reader.offset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for index, chunk in enumerate(ClipReader(source)):
                if index > start:
                    break
                found = index if chunk.key else found
        except FormatError:
            pass
    source.seek(at)
    return found
