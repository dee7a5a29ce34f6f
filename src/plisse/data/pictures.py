"""A folder of images as frames: which files, in which order, their pixels, and what is lost with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from plisse.data.frames import Chroma
from plisse.data.video_notes import HALVED, HALVED_DOWN
from plisse.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ORIENTATION = 0x0112
"""Tag of EXIF: 1 where rows and columns lie as shown."""

GREY = ("1", "L", "LA", "La", "I")
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def picture_files(folder: Path) -> list[Path]:
    """Image files of a folder; numbers in their names count as numbers: f2 comes before f10.

    Raises InputError where there is none.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES]
    if not files:
        raise InputError(f"{str(folder)!r} without images", expected=f"files ending in {', '.join(PICTURES)}")
    return sorted(files, key=lambda file: [_number(part) for part in re.split(r"(\d+)", file.stem)])


def _number(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdigit() else (1, 0, part)


def picture_pixels(file: Path) -> Pixels:
    """Pixels [H, W, 3] of an image, red, green and blue, 0 to 255, upright as EXIF tells. 16 bits per sample
    are rounded to 8.

    Raises InputError for what is no image.
    """
    with _opened(file) as stored:
        image = ImageOps.exif_transpose(stored)
        if image.mode != "I" and not image.mode.startswith("I;16"):
            plain = image.convert("RGBA") if image.mode == "P" else image  # Pillow warns of palettes else
            return np.array(plain.convert("RGB"))
        wide = np.asarray(image).clip(0, 65535).astype(np.int32)
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)


def picture_notes(files: Sequence[Path], chroma: Chroma) -> tuple[str, ...]:
    """Sentences on what frames made of these files do not hold. Only the beginnings of files are read.

    chroma: layout of the planes that come out. Raises InputError for what is no image.
    """
    return tuple(dict.fromkeys(words for file in files for words in _losses(file, chroma)))


def _losses(file: Path, chroma: Chroma) -> Iterator[str]:
    with _opened(file) as image:
        known = image.format != "PNG" or "exif" in image.info  # else Pillow decodes all to look behind it
        if known and image.getexif().get(ORIENTATION, 1) != 1:
            yield "the picture is put upright"
        if ";16" in _stored(image) or image.mode == "I":
            yield "16 bits per sample become 8"
        if image.has_transparency_data:
            yield "transparency is left out"
        if chroma == "420" and image.mode not in GREY and not image.mode.startswith("I;16"):
            yield from _thinned(image)


def _thinned(image: Image.Image) -> Iterator[str]:
    """Only JPEG tells how fine its chroma is; that of others is taken as fine as luma."""
    sampling = JpegImagePlugin.get_sampling(image) if hasattr(image, "layers") else -1
    if sampling in (-1, 0):
        yield HALVED
    elif sampling == 1:
        yield HALVED_DOWN


def _stored(image: Image.Image) -> str:
    """How samples lie in the file, as "RGB;16B"; Pillow gives 8 bits of these, so that the mode does not
    tell."""
    tiles = getattr(image, "tile", None) or [("", None, 0, "")]
    args = tiles[0][3]
    return str(args[0] if isinstance(args, tuple) and args else args)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except OSError as error:
        raise InputError(f"{file.name}, which is no image ({error})", expected="an image file") from error
