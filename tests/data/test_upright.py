"""Videos that lie on their side, pixels that are not square, sound beside the pictures."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from plisse.data.frames import Colour, Frame
from plisse.data.upright import Turn
from plisse.data.video import open_video
from plisse.data.video_out import write_video

RIGHT, ROUND, LEFT, MIRRORED, TRANSPOSED = (
    ((0, 1), (-1, 0)),
    ((-1, 0), (0, -1)),
    ((0, -1), (1, 0)),
    ((-1, 0), (0, 1)),
    ((0, 1), (1, 0)),
)
"""Where a step to the right and a step down in the file go on the screen (right, down)."""


def noise(height: int, width: int) -> Frame:
    draw = torch.Generator().manual_seed(0)
    return Frame.from_rgb(
        torch.nn.functional.interpolate(
            torch.randint(0, 256, (1, 3, 4, 5), generator=draw).float(), (height, width), mode="bilinear"
        )[0].permute(1, 2, 0).to(torch.uint8),
        Colour(),
    )  # fmt: skip


def lying(path: Path, frame: Frame, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Path:
    """An mp4 whose track header has that matrix."""
    write_video(path, [frame] * 2, 25)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 4 + 20 + 8 + 8
    rows = [[round(65536 * number) for number in row] for row in matrix]
    data[at : at + 36] = struct.pack(">9i", *rows[0], 0, *rows[1], 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def expected(plane: torch.Tensor, matrix: tuple[tuple[int, int], tuple[int, int]]) -> torch.Tensor:
    """Pixel by pixel, where the matrix puts it."""
    (across, down), (across_row, down_row) = matrix
    places = [
        (down * column + down_row * row, across * column + across_row * row, row, column)
        for row in range(plane.shape[0])
        for column in range(plane.shape[1])
    ]
    top, left = min(place[0] for place in places), min(place[1] for place in places)
    sides = plane.shape if across else plane.shape[::-1]
    out = torch.zeros(sides, dtype=plane.dtype)
    for y, x, row, column in places:
        out[y - top, x - left] = plane[row, column]
    return out


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (RIGHT, "a quarter to the right"),
        (ROUND, "upside down"),
        (LEFT, "a quarter to the left"),
        (MIRRORED, "mirrored"),
        (TRANSPOSED, "mirrored, with rows for columns"),
    ],
)
def test_the_picture_is_put_upright_as_its_matrix_says(
    tmp_path: Path, matrix: tuple[tuple[int, int], tuple[int, int]], words: str
) -> None:
    plain = next(iter(open_video(lying(tmp_path / "a.mp4", noise(24, 32), ((1, 0), (0, 1))))))
    video = open_video(lying(tmp_path / "b.mp4", noise(24, 32), matrix))
    frames = list(video)
    assert (video.height, video.width) == frames[0].size == ((24, 32) if matrix[0][0] else (32, 24))
    assert video.notes == (f"the picture is put upright: {words}",)
    for plane, found in zip(plain.planes, frames[0].planes, strict=True):
        assert torch.equal(found, expected(plane, matrix))


def test_ffmpeg_calls_the_turn_to_the_right_minus_90(tmp_path: Path) -> None:
    path = lying(tmp_path / "a.mp4", noise(24, 32), RIGHT)
    with av.open(str(path)) as container:
        rotation = next(container.decode(video=0)).rotation
    plain = next(iter(open_video(lying(tmp_path / "b.mp4", noise(24, 32), ((1, 0), (0, 1))))))
    turned = next(iter(open_video(path)))
    assert rotation == -90
    assert torch.equal(turned.planes[0], torch.rot90(plain.planes[0], rotation // 90))


def test_other_angles_are_told_and_left(tmp_path: Path) -> None:
    video = open_video(lying(tmp_path / "a.mp4", noise(24, 32), ((0.6, 0.8), (-0.8, 0.6))))
    assert (video.height, video.width) == next(iter(video)).size == (24, 32)
    assert [words.startswith("the picture is not put upright") for words in video.notes] == [True]


def test_odd_sides_turn_with_their_chroma() -> None:
    """Turned as they are, samples of chroma would come out one pixel aside."""
    frame = noise(23, 31)
    truth = torch.rot90(frame.rgb().float(), -1)
    planes = tuple(torch.rot90(plane, -1).contiguous() for plane in frame.planes)
    aside = (Frame(planes, frame.colour).rgb() - truth).abs().mean()  # type: ignore[arg-type]
    turned = Turn(swap=True, mirror=True).apply(frame).with_chroma("420")
    assert turned.size == (31, 23)
    assert (turned.rgb() - truth).abs().mean() < aside / 2


def test_pixels_that_are_not_square_are_told(tmp_path: Path) -> None:
    write_video(tmp_path / "a.y4m", [noise(24, 32)], 25)
    data = (tmp_path / "a.y4m").read_bytes()
    assert open_video(tmp_path / "a.y4m").notes == ()
    (tmp_path / "b.y4m").write_bytes(data.replace(b" A1:1 ", b" A12:11 "))
    [words] = open_video(tmp_path / "b.y4m").notes
    assert words == "the shape of pixels (12:11) is not kept; players show them square"


def test_sound_and_other_streams_are_told(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("ffv1", rate=25) for _ in range(2)]
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        grey = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 90, np.uint8), format="rgb24")
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"  # type: ignore[assignment]
        for stream in streams:
            container.mux(stream.encode(grey.reformat(format="yuv420p")))
            container.mux(stream.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    video = open_video(tmp_path / "a.mkv")
    assert video.notes == ("sound is left out", "only the first of 2 streams of pictures is read")
    assert len(list(video)) == 1
