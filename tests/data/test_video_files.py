from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from plisse.data.folder import data_folder
from plisse.data.frames import Chroma, Colour, Frame
from plisse.data.times import Clock
from plisse.data.video import open_video
from plisse.data.video_notes import HALVED, HALVED_ACROSS, HALVED_DOWN
from plisse.data.video_out import CODECS, write_video
from plisse.errors import InputError, OutputError


def clip(n: int, size: tuple[int, int] = (18, 22), chroma: Chroma = "420", full: bool = False) -> list[Frame]:
    """A square that moves over a slope."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    frames = []
    for index in range(n):
        rgb = torch.stack([rows * 9, columns * 8, rows + columns], 2).to(torch.uint8)
        rgb[2 + index : 7 + index, 3:8] = torch.tensor([200, 40, 90], dtype=torch.uint8)
        frames.append(Frame.from_rgb(rgb, Colour(full=full), chroma, Fraction(index, 25)))
    return frames


def same(a: Frame, b: Frame) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize("name", ["out.y4m", "out.mkv"])
@pytest.mark.parametrize("size", [(18, 22), (17, 21)], ids=["even", "odd"])
@pytest.mark.parametrize("chroma", ["420", "444"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_planes_come_back_as_they_were(
    tmp_path: Path, name: str, size: tuple[int, int], chroma: Chroma, full: bool
) -> None:
    frames = clip(3, size, chroma, full)
    assert write_video(tmp_path / name, frames, 25) == 3
    video = open_video(tmp_path / name, chroma)
    again = list(video)
    assert (video.rate, video.height, video.width) == (25, *size)
    assert video.colour == frames[0].colour
    assert all(same(a, b) for a, b in zip(frames, again, strict=True))
    assert [frame.time for frame in again] == [frame.time for frame in frames]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_range_of_frames_is_read_alone(tmp_path: Path) -> None:
    frames = clip(5)
    write_video(tmp_path / "a.y4m", frames, 25)
    middle = list(open_video(tmp_path / "a.y4m").frames(2, 4))
    assert [same(a, b) for a, b in zip(middle, frames[2:4], strict=True)] == [True, True]


def test_mp4_is_near(tmp_path: Path) -> None:
    frames = clip(3, (32, 32))
    write_video(tmp_path / "a.mp4", frames, Fraction(30000, 1001))
    video = open_video(tmp_path / "a.mp4")
    assert video.rate == Fraction(30000, 1001)
    for a, b in zip(frames, video, strict=True):
        assert (a.planes[0].float() - b.planes[0].float()).abs().mean() < 4


@pytest.mark.parametrize("size", [(33, 30), (32, 31), (33, 31)], ids=["rows", "columns", "both"])
def test_mp4_of_odd_sizes_repeats_the_border_and_says_so(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = clip(3, size)
    height, width = size
    with pytest.warns(UserWarning, match=rf"a\.mp4: {width} x {height} pixels become \d\d x \d\d"):
        assert write_video(tmp_path / "a.mp4", frames, 25) == 3
    video = open_video(tmp_path / "a.mp4")
    assert (video.height, video.width) == (height + height % 2, width + width % 2)
    for a, b in zip(frames, video, strict=True):
        found = b.planes[0].float()
        assert (a.planes[0].float() - found[:height, :width]).abs().mean() < 4
        assert (found[height - 1] - found[-1]).abs().mean() < 4
        assert (found[:, width - 1] - found[:, -1]).abs().mean() < 4


def test_what_the_coder_refuses_is_an_error_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CODECS, ".mp4", ("libx264", {"preset": "none such"}))
    with pytest.raises(OutputError, match=r"a\.mp4', which FFmpeg does not write"):
        write_video(tmp_path / "a.mp4", clip(1, (32, 32)), 25)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_images_sorted_by_number(tmp_path: Path) -> None:
    frames = clip(12, chroma="444", full=True)
    assert write_video(tmp_path / "pictures", frames, 25) == 12
    for index in range(12):  # names without zeros in front
        (tmp_path / "pictures" / f"frame_{index:05d}.png").rename(tmp_path / "pictures" / f"f{index}.png")
    again = list(open_video(tmp_path / "pictures", "444"))
    for a, b in zip(frames, again, strict=True):
        assert max(int((x.int() - y.int()).abs().max()) for x, y in zip(a.planes, b.planes, strict=True)) <= 1
    with pytest.raises(InputError, match="not empty"):
        write_video(tmp_path / "pictures", frames, 25)


def save(
    path: Path, pixel_format: str, arrays: list[np.ndarray[Any, Any]], kind: str, ticks: list[int]
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = arrays[0].shape[:2]
        stream.pix_fmt = pixel_format  # type: ignore[assignment]
        stream.codec_context.time_base = Fraction(1, 100)
        for tick, array in zip(ticks, arrays, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format=kind).reformat(format=pixel_format)
            frame.pts, frame.time_base = tick, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(value: int = 120) -> np.ndarray[Any, Any]:
    return np.full((16, 16, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("pixel_format", "kind", "notes"),
    [
        ("yuv420p10le", "rgb24", ("10 bits per sample become 8",)),
        ("yuv422p", "rgb24", (HALVED_DOWN,)),
        ("yuv440p", "rgb24", (HALVED_ACROSS,)),
        ("yuv444p", "rgb24", (HALVED,)),
        ("yuv410p", "rgb24", ()),
        ("bgra", "rgba", ("transparency is left out", HALVED)),
        ("yuva420p", "rgba", ("transparency is left out",)),
        ("gray", "rgb24", ()),
    ],
)
def test_other_pixel_formats_become_planes_and_say_so(
    tmp_path: Path, pixel_format: str, kind: str, notes: tuple[str, ...]
) -> None:
    value = grey()
    if kind == "rgba":
        value = np.concatenate([value, np.full((16, 16, 1), 77, np.uint8)], 2)
    video = open_video(save(tmp_path / "a.mkv", pixel_format, [value], kind, [0]))
    [frame] = list(video)
    assert abs(int(frame.rgb()[8, 8, 0]) - 120) <= 3
    assert video.notes == notes


def test_times_of_a_varying_rate_are_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mkv", "yuv420p", [grey(9 * k) for k in range(1, 4)], "rgb24", [0, 4, 20])
    assert [frame.time for frame in open_video(path)] == [0, Fraction(1, 25), Fraction(1, 5)]


@pytest.mark.parametrize("rate", [30, Fraction(30000, 1001), Fraction(24000, 1001), 60])
def test_a_constant_rate_is_told_from_the_rounding_of_its_times(tmp_path: Path, rate: Fraction | int) -> None:
    """Matroska rounds times to milliseconds, on which these rates seldom fall."""
    write_video(tmp_path / "a.mkv", clip(8) * 5, rate)
    video = open_video(tmp_path / "a.mkv")
    assert video.rate == rate
    assert [frame.time for frame in video] == [Fraction(n) / rate for n in range(40)]
    assert [frame.time for frame in video.frames(20, 22)] == [20 / Fraction(rate), 21 / Fraction(rate)]


def test_a_frame_that_was_dropped_is_no_rounding() -> None:
    """A whole tick is a whole frame where the container counts in frames."""
    clock = Clock(Fraction(25), Fraction(1, 25))
    assert [25 * clock.time(index, ticks) for index, ticks in enumerate([0, 1, 3, 4, 5])] == [0, 1, 3, 4, 5]


def test_rounding_of_the_first_time_is_allowed_for_and_drift_is_not() -> None:
    seeded = np.random.default_rng(0)
    for start in seeded.uniform(0, 1, 20):
        clock = Clock(Fraction(30), Fraction(1, 1000))
        ticks = [round(1000 * (start + n / 30)) for n in range(50)]
        assert [clock.time(n, t - ticks[0]) for n, t in enumerate(ticks)] == [
            Fraction(n, 30) for n in range(50)
        ]
    slow = Clock(Fraction(30), Fraction(1, 1000))
    ticks = [round(1000 * n / 29.9) for n in range(50)]
    assert [slow.time(n, t) for n, t in enumerate(ticks)][20:] == [Fraction(t, 1000) for t in ticks[20:]]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "f0.png").write_bytes(b"\x89PNG no")
    with pytest.raises(InputError, match="no video"):
        open_video(tmp_path / "text.mp4")
    with pytest.raises(InputError, match="does not exist"):
        open_video(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="without images"):
        open_video(tmp_path / "empty")
    with pytest.raises(InputError, match="no image"):
        open_video(tmp_path / "bad")
    with pytest.raises(InputError, match="chroma '411'"):
        open_video(tmp_path / "empty", "411")  # type: ignore[arg-type]


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    for name, size in (("f0.png", (8, 8)), ("f1.png", (8, 9))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(InputError, match=r"f1\.png of 8 x 9"):
        list(open_video(tmp_path))


def test_a_frame_that_cannot_be_decoded_ends_the_video_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.y4m", clip(4), 25)
    video = open_video(tmp_path / "a.y4m")

    def broken(container: Any) -> Iterator[av.VideoFrame]:
        for index, frame in enumerate(container.decode(video=0)):
            if index == 2:
                raise av.error.InvalidDataError(1, "bad data")
            yield frame

    whole = av.open

    class Broken:
        def __init__(self, *args: Any) -> None:
            self.inner = whole(*args)
            self.streams = self.inner.streams

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *error: object) -> None:
            self.inner.close()

        def decode(self, video: int) -> Iterator[av.VideoFrame]:
            return broken(self.inner)

    monkeypatch.setattr(av, "open", Broken)
    with pytest.warns(UserWarning, match="ends early: frame 2"):
        assert len(list(video)) == 2


def test_a_file_that_was_cut_gives_its_whole_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.y4m", clip(4), 25)
    data = (tmp_path / "a.y4m").read_bytes()
    (tmp_path / "b.y4m").write_bytes(data[: len(data) - 30])
    assert len(list(open_video(tmp_path / "b.y4m"))) == 3


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    frames = [*clip(2), *clip(1, (20, 20))]
    with pytest.raises(InputError, match="frame 2"):
        write_video(tmp_path / "a.y4m", frames, 25)
    with pytest.raises(InputError, match="no frames"):
        write_video(tmp_path / "a.y4m", [], 25)
    with pytest.raises(InputError, match=r"a\.gif"):
        write_video(tmp_path / "a.gif", frames, 25)
    with pytest.raises(OutputError, match="cannot be written"):
        write_video(tmp_path / "none" / "a.y4m", clip(1), 25)
    assert list(tmp_path.iterdir()) == []


def test_the_clips_of_the_data_folder_open() -> None:
    folder = data_folder()
    if folder is None or not (folder / "video").is_dir():
        pytest.skip("no data folder with video")
    video = open_video(folder / "video" / "carphone_qcif_96f.mkv")
    frames = list(video.frames(0, 3))
    assert (video.height, video.width, video.chroma) == (144, 176, "420")
    assert video.rate == Fraction(30000, 1001)
    assert len(frames) == 3
    assert frames[0].colour == Colour("bt601", full=False)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_times_that_vary_are_written(tmp_path: Path, name: str) -> None:
    times = [Fraction(0), Fraction(1, 25), Fraction(3, 10), Fraction(33, 100)]
    frames = [replace(frame, time=time + 2) for frame, time in zip(clip(4, (32, 32)), times, strict=True)]
    write_video(tmp_path / name, frames, 25, timed=True)
    assert [frame.time for frame in open_video(tmp_path / name)] == times
    write_video(tmp_path / name, frames, 25)
    assert [frame.time for frame in open_video(tmp_path / name)] == [Fraction(n, 25) for n in range(4)]


def test_transparency_beside_the_frames_is_told(tmp_path: Path) -> None:
    if "libvpx-vp9" not in av.codecs_available:
        pytest.skip("this build of PyAV has no VP9 encoder")
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuva420p"  # type: ignore[assignment]
        picture = av.VideoFrame.from_ndarray(np.full((32, 32, 4), 90, np.uint8), format="rgba")
        container.mux(stream.encode(picture.reformat(format="yuva420p")))
        container.mux(stream.encode(None))
    assert open_video(tmp_path / "a.webm").notes == ("transparency is left out",)
