"""Files that were cut say so when they are opened, and whole ones do not."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from plisse.data.video import open_video

BREAKS = "the file breaks off: what is there is read"
FORMS = {
    ".y4m": ("rawvideo", "yuv420p", {}),
    ".mkv": ("ffv1", "yuv420p", {}),
    ".webm": ("libvpx-vp9", "yuv420p", {}),
    ".mp4": ("libx264", "yuv420p", {"movflags": "faststart"}),
    ".mov": ("mpeg4", "yuv420p", {"movflags": "faststart"}),
}


def pictures(size: tuple[int, int], form: str) -> Iterator[av.VideoFrame]:
    seeded = np.random.default_rng(0)
    for index in range(12):
        pixels = seeded.integers(0, 256, (*size, 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=form)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        yield frame


def written(path: Path, form: str, codec: str, options: dict[str, str], size: tuple[int, int]) -> Path:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("wrapped_avframe" if path.suffix == ".y4m" else codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, form  # type: ignore[assignment]
        for frame in pictures(size, form):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("share", [0.66, 0.999])
def test_a_file_that_was_cut_says_so(tmp_path: Path, suffix: str, share: float) -> None:
    codec, form, options = FORMS[suffix]
    path = written(tmp_path / f"a{suffix}", form, codec, options, (32, 48))
    assert BREAKS not in open_video(path).notes
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert BREAKS in open_video(path).notes


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p", "yuv422p", "gray", "yuv411p"])
def test_whole_y4m_of_every_layout_is_whole(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / "a.y4m", form, "rawvideo", {}, (17, 23))
    assert BREAKS not in open_video(path).notes
    path.write_bytes(path.read_bytes()[:-1])
    assert BREAKS in open_video(path).notes


def test_a_live_matroska_file_of_unknown_length_is_taken_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mkv", "yuv420p", "ffv1", {"live": "1"}, (32, 48))
    assert BREAKS not in open_video(path).notes
