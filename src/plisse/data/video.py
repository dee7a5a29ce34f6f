"""Read video frame by frame: any file that FFmpeg opens (through PyAV), or a folder of images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plisse.data.cut import breaks_off
from plisse.data.folder import require
from plisse.data.frames import Chroma, Colour, Frame
from plisse.data.pictures import picture_files, picture_notes, picture_pixels
from plisse.data.times import Clock
from plisse.data.upright import Turn, turn_of
from plisse.data.video_notes import changes
from plisse.errors import InputError

if TYPE_CHECKING:
    import av

KINDS = "a video (mp4, mkv, webm, y4m, ...) or a folder of images"
PLANAR = {
    "yuv420p": ("420", False),
    "yuvj420p": ("420", True),
    "yuv444p": ("444", False),
    "yuvj444p": ("444", True),
}
"""Pixel formats whose planes are taken as they are: chroma layout, full range."""

BT709, BT2020, FULL_RANGE = 1, 9, 2
"""Numbers of ITU-T H.273 and of FFmpeg's colour ranges."""

HD_ROWS = 720
"""Unlabelled video of at least so many rows is BT.709, as players take it."""


@dataclass(frozen=True)
class Video:
    """A video on disk. Nothing is held in memory: every iteration opens it anew and yields frame by frame.

    height, width: pixels. rate: frames per second (mean). n_frames: as the file says; None where it does
    not. colour, chroma: of the frames that come out. notes: what was changed on the way in, for the user.
    """

    path: Path
    height: int
    width: int
    rate: Fraction
    n_frames: int | None
    colour: Colour
    chroma: Chroma
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames `start` to `stop` (exclusive; None is the end), in the order in which they are shown."""
        if self.path.is_dir():
            return _pictures(self, start, stop)
        return islice(_decoded(self), start, stop)


def open_video(path: str | Path, chroma: Chroma = "420", rate: Fraction | float = 25) -> Video:
    """Look at a video without decoding it whole.

    path: a file, or a folder whose images are the frames, in the order of the numbers in their names.
    chroma: layout of the planes that come out; "420" halves the chroma of sources that hold more. rate:
    frames per second of a folder of images.

    Raises InputError for a file that holds no video, no frame, or frames of several sizes.
    """
    path = require(path, KINDS)
    if chroma not in ("420", "444"):
        raise InputError(f"chroma {chroma!r}", expected="420 or 444")
    return _open_folder(path, chroma, Fraction(rate)) if path.is_dir() else _open_file(path, chroma)


def _open_file(path: Path, chroma: Chroma) -> Video:
    with _container(path) as container:
        stream = container.streams.video[0]
        first = next(_guarded(container, path), None)
        if first is None:
            raise InputError(f"{str(path)!r} without a single frame", expected="at least one frame")
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25).limit_denominator(1 << 16)
        notes = changes(container, first, chroma)
        if breaks_off(container, path, first):
            notes = ("the file breaks off: what is there is read", *notes)
        n_frames = stream.frames or None
        height, width = (turn_of(first) or Turn()).size(first.height, first.width)
        return Video(path, height, width, rate, n_frames, colour_of(first), chroma, notes)


def _container(path: Path) -> Any:
    av = _av()
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{str(path)!r}, which is no video ({error.strerror})", expected=KINDS) from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{str(path)!r} without a video stream", expected=KINDS)
    return container


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError("no PyAV", expected="av for video", hint="pip install 'plisse[video]'") from error
    return av


def _guarded(container: Any, path: Path) -> Iterator[av.VideoFrame]:
    """Decoded frames. One that cannot be decoded ends the video with a warning, not with a traceback."""
    av = _av()
    n_frames = 0
    try:
        for frame in container.decode(video=0):
            yield frame
            n_frames += 1
    except av.error.FFmpegError as error:
        text = f"{path.name} ends early: frame {n_frames} cannot be decoded ({error.strerror})"
        warnings.warn(text, stacklevel=2)


def colour_of(frame: av.VideoFrame) -> Colour:
    """Matrix and range that a decoded frame declares; unlabelled ones as players take them."""
    if frame.format.is_rgb:
        return Colour("bt709" if frame.height >= HD_ROWS else "bt601", full=True)
    matrix = {BT709: "bt709", BT2020: "bt2020"}.get(int(frame.colorspace))
    if matrix is None:
        unlabelled = int(frame.colorspace) in (0, 2)
        matrix = "bt709" if unlabelled and frame.height >= HD_ROWS else "bt601"
    full = int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj")
    return Colour(matrix, full)


def _decoded(video: Video) -> Iterator[Frame]:
    with _container(video.path) as container:
        clock = Clock(video.rate, container.streams.video[0].time_base or 1 / video.rate)
        first: int | None = None
        for index, frame in enumerate(_guarded(container, video.path)):
            turn = turn_of(frame) or Turn()
            height, width = turn.size(frame.height, frame.width)
            if (height, width) != (video.height, video.width):
                raise InputError(
                    f"frame {index} of {width} x {height} pixels",
                    expected=f"{video.width} x {video.height} as the first",
                    hint="split the video where its size changes",
                )
            first = frame.pts if first is None else first
            ticks = None if first is None or frame.pts is None else frame.pts - first
            time = clock.time(index, ticks)
            yield turn.apply(_frame(frame, video, time)).with_chroma(video.chroma)


def _frame(frame: av.VideoFrame, video: Video, time: Fraction) -> Frame:
    if frame.format.is_rgb:
        pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
        return Frame.from_rgb(pixels, video.colour, video.chroma, time)
    layout, full = PLANAR.get(frame.format.name, ("", False))
    if not layout:
        layout = "444" if video.chroma == "444" else "420"
        full = video.colour.full
        kept = FULL_RANGE if full else 1
        frame = frame.reformat(format=f"yuv{layout}p", src_color_range=kept, dst_color_range=kept)
    planes = tuple(_plane(plane) for plane in frame.planes[:3])
    return Frame(planes, video.colour, time)  # type: ignore[arg-type]


def _plane(plane: Any) -> torch.Tensor:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return torch.from_numpy(rows[:, : plane.width].copy())


def _open_folder(path: Path, chroma: Chroma, rate: Fraction) -> Video:
    if rate <= 0:
        raise InputError(f"{float(rate):g} frames per second", expected="above zero")
    files = picture_files(path)
    height, width = picture_pixels(files[0]).shape[:2]
    colour = Colour("bt709" if height >= HD_ROWS else "bt601", full=True)
    return Video(path, height, width, rate, len(files), colour, chroma, picture_notes(files, chroma))


def _pictures(video: Video, start: int, stop: int | None) -> Iterator[Frame]:
    for index, file in islice(enumerate(picture_files(video.path)), start, stop):
        pixels = torch.from_numpy(picture_pixels(file))
        if pixels.shape[:2] != (video.height, video.width):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise InputError(f"{file.name} of {size} pixels", expected=f"{video.width} x {video.height}")
        yield Frame.from_rgb(pixels, video.colour, video.chroma, index / video.rate)
