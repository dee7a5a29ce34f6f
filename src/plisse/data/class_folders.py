"""Images sorted into one folder per class, of any size and format that Pillow reads."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plisse.data.folder import require
from plisse.data.images import ImageSet, split
from plisse.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LAYOUT = "DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, or DIR/CLASS/*.png (png, jpg, webp, bmp)"
TEST_NAMES = ("test", "val")
TRAIN_SHARE = 0.8


def read_class_folders(folder: str | Path, size: int = 32, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Training and test images, RGB, resized to size x size pixels.

    folder: with `train` and `test` (or `val`) inside, or only class folders; then 80 % of every class, drawn
    by `seed`, are for training.

    Raises InputError for a folder without classes, a class without images, an image that cannot be read, and
    test classes that training does not have.
    """
    if not 1 <= size <= 4096:
        raise InputError(f"image size {size}", expected="1 to 4096 pixels")
    folder = require(folder, LAYOUT)
    tests = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    if not (folder / "train").is_dir():
        return split(_read(folder, _classes(folder), size), TRAIN_SHARE, seed)
    if not tests:
        raise InputError(f"{str(folder)!r} with train but without test", expected=LAYOUT)
    classes = _classes(folder / "train")
    if unknown := sorted(set(_classes(tests[0])) - set(classes)):
        raise InputError(
            f"class {unknown[0]!r} in {tests[0].name} only", expected=f"one of {', '.join(classes)}"
        )
    present = tuple(name for name in classes if (tests[0] / name).is_dir())
    return _read(folder / "train", classes, size), _read(tests[0], classes, size, present)


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r}, which is no folder", expected=LAYOUT)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(
            f"{str(folder)!r} with {len(names)} class folders", expected=f"two or more: {LAYOUT}"
        )
    return tuple(names)


def _read(folder: Path, classes: tuple[str, ...], size: int, present: tuple[str, ...] = ()) -> ImageSet:
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for name in present or classes:
        files = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"class folder {str(folder / name)!r} without images", expected=LAYOUT)
        pixels.extend(_image(path, size) for path in files)
        labels.extend([classes.index(name)] * len(files))
    return ImageSet(np.stack(pixels), np.array(labels, np.int64), classes)


def _image(path: Path, size: int) -> NDArray[np.uint8]:
    """One image as [size, size, 3]; grey ones get three equal channels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = file.convert("RGB")
                if image.size != (size, size):
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
                return np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise InputError(
            f"{str(path)!r}, which is no readable image ({error})", hint="remove or replace that file"
        ) from error
