"""A video to a stream of frames coded as networks and weight steps, and back."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import torch.nn.functional as F
from torch import Tensor

from plisse.codec.pictures import Planes
from plisse.codec.presets import scheme_of
from plisse.codec.rate import Controller, Rate, luma_quality
from plisse.codec.scheme import Scheme, State
from plisse.codec.stream import (
    Chunk,
    ClipReader,
    Header,
    chunk_bytes,
    end_bytes,
    frame_check,
    header_bytes,
)
from plisse.data.frames import Frame
from plisse.data.video import Video
from plisse.errors import FormatError, InputError, OutputError

MIDDLE = Rate(crf=28.0)
CUT = 20.0
"""Mean difference of luma, averaged over 8 x 8 pixels, from which on a frame begins a scene."""


@dataclass(frozen=True)
class Settings:
    """scheme: "warp", "conv", "siren" or "fourier". preset: fast, medium or slow. rate: quality or target.
    key_interval: at most so many frames from key frame to key frame. scene_cuts: key frames where the picture
    changes as a whole. stepping: false makes every frame a key frame."""

    scheme: str = "warp"
    preset: str = "medium"
    rate: Rate = MIDDLE
    key_interval: int = 250
    scene_cuts: bool = True
    stepping: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.key_interval < 1:
            raise InputError(f"a key-frame interval of {self.key_interval}", expected="1 or more")


@dataclass(frozen=True)
class Coded:
    """What became of a frame. bytes: of its chunk. quality: PSNR of luma in dB."""

    index: int
    key: bool
    bytes: int
    crf: float
    quality: float


Report = Callable[[Coded], None]


def encode(frames: Iterable[Frame], rate: Fraction, settings: Settings = Settings()) -> bytes:
    """A clip as bytes. rate: frames per second.

    Raises InputError for no frames or frames of several sizes, BudgetError for a rate out of reach.
    """
    out = io.BytesIO()
    encode_to(out, frames, rate, settings)
    return out.getvalue()


def encode_to(
    out: BinaryIO,
    frames: Iterable[Frame],
    rate: Fraction,
    settings: Settings = Settings(),
    report: Report = lambda coded: None,
) -> int:
    """Write a clip frame by frame, and return how many there were. Holds two frames at a time.

    An interruption (Ctrl-C) ends the stream properly after the last whole frame, and goes on upwards.
    """
    items = iter(frames)
    first = next(items, None)
    if first is None:
        raise InputError("a video without frames", expected="at least one")
    header, scheme = _started(first, Fraction(rate), settings)
    out.write(header_bytes(header))
    return _go_on(out, _chained(first, items), _Encoder(header, scheme, settings), report)


def encode_file(
    video: Video,
    path: str | Path,
    settings: Settings = Settings(),
    resume: bool = False,
    report: Report = lambda coded: None,
) -> int:
    """Write a clip to a file. After an interruption the file is shorter, but whole; resume: go on with it.

    The file that is gone on with is the one that would have been written at once. Returns the number of
    frames. Raises InputError for a file of other frames or settings, OutputError where it cannot be written.
    """
    try:
        if not (resume and Path(path).exists()):
            with open(path, "wb") as out:
                return encode_to(out, video, video.rate, settings, report)
        with open(path, "r+b") as out:
            return _resumed(out, video, settings, report)
    except OSError as error:
        raise OutputError(f"{str(path)!r}, which cannot be written ({error.strerror})") from error


def _resumed(out: BinaryIO, video: Video, settings: Settings, report: Report) -> int:
    frames = iter(video)
    first = next(frames, None)
    if first is None:
        raise InputError("a video without frames", expected="at least one")
    header, scheme = _started(first, video.rate, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = ClipReader(out)
        if reader.header != header:
            raise InputError(
                f"a file of {reader.header}", expected=f"{header}", hint="the options of the first run"
            )
        encoder = _Encoder(header, scheme, settings)
        originals, at = _chained(first, frames), reader.offset
        for chunk in reader:
            original = next(originals, None)
            if original is None:
                raise InputError("a file of more frames than the video has", expected="the same video")
            encoder.replay(original, chunk)
            at = chunk.offset + chunk.length
    if reader.end is not None and reader.end.complete:
        return encoder.index
    out.seek(at)
    out.truncate()
    return _go_on(out, originals, encoder, report)


def _chained(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _started(first: Frame, rate: Fraction, settings: Settings) -> tuple[Header, Scheme]:
    scheme, numbers = scheme_of(settings.scheme, settings.preset, first.size)
    height, width = first.size
    return Header(
        height, width, rate.limit_denominator(1 << 16), first.colour, settings.scheme, numbers
    ), scheme


class _Encoder:
    """State after the last frame, and what chooses the next."""

    def __init__(self, header: Header, scheme: Scheme, settings: Settings) -> None:
        self.header, self.scheme, self.settings = header, scheme, settings
        pixels = header.height * header.width
        offset = getattr(scheme, "key_offset", 0.0)
        self.controller = Controller(settings.rate, pixels, settings.key_interval, offset)
        self.state: State | None = None
        self.last: Tensor | None = None
        self.index = self.since_key = 0

    def chunk(self, frame: Frame) -> tuple[bytes, Coded]:
        """The next frame as bytes."""
        if frame.size != self.header.size:
            raise InputError(
                f"frame {self.index} of {frame.size}", expected=f"{self.header.size} as the first"
            )
        planes = frame.with_chroma("420").planes
        key, seed = self._is_key(planes[0]), self.settings.seed + self.index
        before = None if key else self.state
        tried: dict[float, tuple[bytes, State]] = {}

        def trial(crf: float) -> tuple[int, float]:
            tried[crf] = self.scheme.encode(planes, before, crf, seed)
            return len(tried[crf][0]), luma_quality(tried[crf][1].planes, planes)

        crf = self.controller.for_key(trial) if key else self.controller.for_step()
        payload, state = tried.get(crf) or self.scheme.encode(planes, before, crf, seed)
        time = None if frame.time == self.index / self.header.rate else frame.time
        data = chunk_bytes(key, payload, crf, state.planes, time)
        coded = self._moved(planes, state, key, len(data), crf)
        return data, coded

    def replay(self, frame: Frame, chunk: Chunk) -> None:
        """A frame that is in the file already."""
        before = None if chunk.key else self.state
        state = self.scheme.decode(chunk.payload, before, chunk.payload_offset, chunk.crf)
        self._moved(frame.with_chroma("420").planes, state, chunk.key, chunk.length, chunk.crf)

    def _moved(self, planes: Planes, state: State, key: bool, n_bytes: int, crf: float) -> Coded:
        quality = luma_quality(state.planes, planes)
        self.controller.seen(key, n_bytes, quality, crf)
        coded = Coded(self.index, key, n_bytes, crf, quality)
        self.state, self.last = state, planes[0]
        self.since_key = 1 if key else self.since_key + 1
        self.index += 1
        return coded

    def _is_key(self, luma: Tensor) -> bool:
        if self.last is None or not self.settings.stepping or self.since_key >= self.settings.key_interval:
            return True
        return self.settings.scene_cuts and is_cut(self.last, luma)


def is_cut(before: Tensor, after: Tensor) -> bool:
    """Whether a scene begins: luma [H, W] differs even when averaged over 8 x 8 pixels."""
    a, b = (F.avg_pool2d(x.float()[None, None], 8, ceil_mode=True) for x in (before, after))
    return float((a - b).abs().mean()) > CUT


def _go_on(out: BinaryIO, frames: Iterable[Frame], encoder: _Encoder, report: Report) -> int:
    complete = False
    try:
        for frame in frames:
            data, coded = encoder.chunk(frame)
            out.write(data)
            out.flush()
            report(coded)
        complete = True
    finally:
        if encoder.index or complete:
            out.write(end_bytes(encoder.index, complete))
            out.flush()
    return encoder.index


@dataclass(frozen=True)
class Clip:
    """An encoded clip. Iterating decodes frame by frame; chunks are indexed by a scan, without decoding."""

    path: Path

    @property
    def header(self) -> Header:
        with open(self.path, "rb") as file:
            return ClipReader(file).header

    def chunks(self) -> list[Chunk]:
        """Of all whole frames; a warning where the file breaks off."""
        with open(self.path, "rb") as file:
            return list(ClipReader(file))

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
    strange = 0
    for index, chunk in enumerate(reader):
        if index < first:
            continue
        state = scheme.decode(chunk.payload, None if chunk.key else state, chunk.payload_offset, chunk.crf)
        strange += frame_check(state.planes) != chunk.check
        if strange == 1 and frame_check(state.planes) != chunk.check:
            warnings.warn(f"frame {index} is not the frame that the encoder saw", stacklevel=2)
        if index >= start:
            planes = state.planes if size is None else scheme.resized(state, size)
            yield Frame(planes, reader.header.colour, _time(chunk, index, reader.header))


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
