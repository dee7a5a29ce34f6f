"""Folders of images: pixels of every depth, and what is told of those that lose something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plisse.data.video import open_video
from plisse.data.video_notes import HALVED, HALVED_DOWN
from plisse.errors import InputError


def slope(size: tuple[int, int] = (16, 32)) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    """Grey from black to white over the whole range of 16 bits, [H, W]."""
    return np.linspace(0, 65535, size[0] * size[1]).round().astype(np.uint16).reshape(size)


@pytest.mark.parametrize(("kind", "form"), [(np.uint16, "PNG"), (np.int32, "TIFF")], ids=["I;16", "I"])
def test_grey_of_16_bits_is_rounded_to_8_not_clipped(tmp_path: Path, kind: type, form: str) -> None:
    values = slope()
    Image.fromarray(values.astype(kind)).save(tmp_path / "f0.png", format=form)
    video = open_video(tmp_path, "444")
    [frame] = list(video)
    off = frame.planes[0].numpy().astype(float) - values / 257
    assert np.abs(off).max() <= 0.51  # full range: luma of grey is the grey
    assert video.notes == ("16 bits per sample become 8",)


def test_colours_of_16_bits_are_told_even_where_only_a_later_image_has_them(tmp_path: Path) -> None:
    import av

    values = np.stack([slope((16, 16)), slope((16, 16))[::-1], slope((16, 16))], 2)
    Image.fromarray((values >> 8).astype(np.uint8)).save(tmp_path / "f0.png")
    with av.open(str(tmp_path / "f1.png"), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "rgb48be"  # type: ignore[assignment]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format="rgb48le")
        container.mux(stream.encode(frame.reformat(format="rgb48be")))
        container.mux(stream.encode(None))
    video = open_video(tmp_path, "444")
    first, second = (frame.rgb().int() for frame in video)
    assert "16 bits per sample become 8" in video.notes
    assert int((first - second).abs().max()) <= 1


def test_what_is_no_image_is_found_before_anything_is_coded(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "f0.png")
    (tmp_path / "f1.png").write_text("hello")
    with pytest.raises(InputError, match=r"f1\.png, which is no image"):
        open_video(tmp_path)


@pytest.mark.parametrize(
    ("mode", "name", "options", "notes"),
    [
        ("RGB", "f.png", {}, (HALVED,)),
        ("RGBA", "f.png", {}, ("transparency is left out", HALVED)),
        ("LA", "f.png", {}, ("transparency is left out",)),
        ("L", "f.png", {}, ()),
        ("P", "f.png", {"transparency": 3}, ("transparency is left out", HALVED)),
        ("RGB", "f.jpg", {"subsampling": 0}, (HALVED,)),
        ("RGB", "f.jpg", {"subsampling": 1}, (HALVED_DOWN,)),
        ("RGB", "f.jpg", {"subsampling": 2}, ()),
        ("L", "f.jpg", {}, ()),
    ],
)
def test_what_images_lose_is_told(
    tmp_path: Path, mode: str, name: str, options: dict[str, Any], notes: tuple[str, ...]
) -> None:
    Image.new(mode, (16, 16)).save(tmp_path / name, **options)
    assert open_video(tmp_path).notes == notes
    assert open_video(tmp_path, "444").notes == tuple(words for words in notes if "chroma" not in words)


def test_photographs_that_lie_on_their_side_are_put_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side: to be turned a quarter to the right
    stored = slope((16, 24)) >> 8
    Image.fromarray(stored.astype(np.uint8)).save(tmp_path / "f0.png", exif=exif)
    video = open_video(tmp_path, "444")
    [frame] = list(video)
    assert (video.height, video.width) == (24, 16)
    assert np.array_equal(frame.planes[0].numpy(), np.rot90(stored, -1))
    assert video.notes == ("the picture is put upright",)
