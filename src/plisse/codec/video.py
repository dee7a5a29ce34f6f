"""A video to a stream of frames coded as networks and weight steps, and back."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from plisse.codec.encoder import Coded, Encoder, Settings, is_cut
from plisse.codec.presets import scheme_of
from plisse.codec.rate import Rate
from plisse.codec.reading import Clip, decode, open_clip
from plisse.codec.scheme import Scheme
from plisse.codec.stream import ClipReader, Header, end_bytes, header_bytes
from plisse.data.frames import Frame
from plisse.data.video import Video
from plisse.errors import InputError, OutputError

__all__ = [
    "Clip", "Coded", "Rate", "Settings",
    "decode", "encode", "encode_file", "encode_to", "is_cut", "open_clip",
]  # fmt: skip

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
    return _go_on(out, _chained(first, items), Encoder(header, scheme, settings), report)


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
        encoder = Encoder(header, scheme, settings)
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


def _go_on(out: BinaryIO, frames: Iterable[Frame], encoder: Encoder, report: Report) -> int:
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
