"""Write frames as they come: y4m, mkv and mp4 files, or a folder of PNG images."""

from __future__ import annotations

import contextlib
import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from plisse.data.frames import Frame
from plisse.errors import InputError, OutputError

CODECS = {".mkv": ("ffv1", {}), ".mp4": ("libx264", {"crf": "12", "preset": "medium"})}
"""What a suffix is coded with: mkv without loss, mp4 so that every player shows it, at high quality."""

MATRIX_NUMBERS = {"bt601": 6, "bt709": 1, "bt2020": 9}  # ITU-T H.273, table 4

TICKS = 90_000
"""Parts of a second that times are told in."""

Put = Callable[[Frame], None]


def write_video(
    path: str | Path, frames: Iterable[Frame], rate: Fraction | float, timed: bool = False
) -> int:
    """Write `frames` at `rate` per second and return how many they were.

    path: ends in .y4m (the planes as they are), .mkv (FFV1, without loss) or .mp4 (H.264, lossy); anything
    without a suffix is a folder of frame_00000.png and so on. Frames are taken one by one, so that a long
    video needs no more memory than a short one. A file appears whole, when the last frame is in; a folder
    must be new or empty. timed: frames come at their own times, to 1/90000 of a second (in .mkv to 1/1000),
    counted from the first one, rather than evenly; .y4m and folders hold no times.

    H.264 with halved chroma takes even sizes only: in .mp4, the last row and the last column of others come
    twice, and a warning says so. Raises InputError for no frames, frames of several sizes or another suffix,
    OutputError where the disk or the coder does not take them.
    """
    path, rate = Path(path), Fraction(rate).limit_denominator(1 << 16)
    if rate <= 0:
        raise InputError(f"{float(rate):g} frames per second", expected="above zero")
    writer = _writer(path)
    items = iter(frames)
    first = next(items, None)
    if first is None:
        raise InputError("no frames to write", expected="at least one")
    try:
        with writer(path, first, rate, timed) as put:
            return _drain(chain([first], items), first, put)
    except OSError as error:
        raise OutputError(f"{str(path)!r}, which cannot be written ({error.strerror})") from error


def _drain(frames: Iterable[Frame], first: Frame, put: Put) -> int:
    n_frames = 0
    for frame in frames:
        if (frame.size, frame.chroma) != (first.size, first.chroma):
            raise InputError(f"frame {n_frames} of {frame.size}", expected=f"{first.size} as the first")
        put(frame)
        n_frames += 1
    return n_frames


def _writer(path: Path) -> Callable[[Path, Frame, Fraction, bool], Any]:
    suffix = path.suffix.lower()
    if suffix == ".y4m":
        return _y4m
    if suffix in CODECS:
        return _coded
    if not suffix:
        return _folder
    raise InputError(f"{path.name!r} to write", expected="a name in .y4m, .mkv or .mp4, or a folder")


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside `path` that becomes it at the end, and is gone after an error."""
    aside = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


@contextmanager
def _y4m(path: Path, first: Frame, rate: Fraction, timed: bool) -> Iterator[Put]:
    """YUV4MPEG2: a line of text, then for each frame the word FRAME and its planes."""
    layout = "444" if first.chroma == "444" else "420jpeg" if first.colour.full else "420mpeg2"
    height, width = first.size
    extent = "FULL" if first.colour.full else "LIMITED"
    head = f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A1:1 C{layout} "
    with _aside(path) as aside, open(aside, "xb") as file:
        file.write(f"{head}XCOLORRANGE={extent}\n".encode())
        yield lambda frame: _put_planes(file, frame)


def _put_planes(file: BinaryIO, frame: Frame) -> None:
    file.write(b"FRAME\n" + b"".join(plane.contiguous().numpy().tobytes() for plane in frame.planes))


@contextmanager
def _coded(path: Path, first: Frame, rate: Fraction, timed: bool) -> Iterator[Put]:
    import av

    codec, options = CODECS[path.suffix.lower()]
    height, width = _sides(path, first, codec)
    with _aside(path) as aside, _refusals(path), av.open(str(aside), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = height, width
        stream.pix_fmt = f"yuv{first.chroma}p"
        stream.codec_context.color_range = 2 if first.colour.full else 1
        stream.codec_context.colorspace = MATRIX_NUMBERS[first.colour.matrix]
        tick = Fraction(1, TICKS) if timed else 1 / rate
        stream.codec_context.time_base = tick
        count = iter(range(1 << 62))

        def put(frame: Frame) -> None:
            picture = _picture(frame, height, width)
            picture.pts = round((frame.time - first.time) / tick) if timed else next(count)
            picture.time_base = tick
            container.mux(stream.encode(picture))

        yield put
        container.mux(stream.encode(None))


def _sides(path: Path, first: Frame, codec: str) -> tuple[int, int]:
    """Height and width that are coded; a warning where they are not those of the frames."""
    height, width = first.size
    if codec != "libx264" or first.chroma != "420" or not (height % 2 or width % 2):
        return height, width
    sides = height + height % 2, width + width % 2
    words = f"{width} x {height} pixels become {sides[1]} x {sides[0]}: H.264 takes even sizes"
    warnings.warn(f"{path.name}: {words}; the border is repeated", stacklevel=2)
    return sides


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What FFmpeg does not take is an OutputError; errors of the disk go upwards as they are."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        came = f"{str(path)!r}, which FFmpeg does not write ({error.strerror})"
        raise OutputError(came, expected="frames that the coder takes", hint="a name in .y4m") from error


def _picture(frame: Frame, height: int, width: int) -> Any:
    """A frame as FFmpeg has it; borders are repeated to the right and below, up to height and width."""
    import av
    import numpy as np

    picture = av.VideoFrame(width, height, f"yuv{frame.chroma}p")
    for target, plane in zip(picture.planes, frame.planes, strict=True):
        rows = np.zeros((target.height, target.line_size), np.uint8)
        missing = (target.height - plane.shape[0], target.width - plane.shape[1])
        rows[:, : target.width] = np.pad(plane.numpy(), [(0, n) for n in missing], mode="edge")
        target.update(rows.tobytes())
    picture.color_range = 2 if frame.colour.full else 1
    return picture


@contextmanager
def _folder(path: Path, first: Frame, rate: Fraction, timed: bool) -> Iterator[Put]:
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise InputError(f"folder {str(path)!r}, which is not empty", expected="a new or an empty folder")
    count = iter(range(1 << 62))

    def put(frame: Frame) -> None:
        target = path / f"frame_{next(count):05d}.png"
        with _aside(target) as aside:
            Image.fromarray(frame.rgb().numpy()).save(aside)

    yield put
