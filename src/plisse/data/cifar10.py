"""CIFAR-10 (Krizhevsky, Nair and Hinton 2009) from a folder of lossless WebP sheets and npz files.

train_00.webp ... train_39.webp and val_00.webp ... val_04.webp hold 1,000 images each, as a grid of 25 rows
by 40 columns of 32 x 32 tiles; labels.npz holds their classes; test_exact.npz official test images as pixels,
test_jpeg.npz more of them as JPEG files, which shift the distribution.
"""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plisse.data.folder import require
from plisse.data.images import ImageSet
from plisse.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_SHEETS = 40
VALIDATION_SHEETS = 5
SIDE, ROWS, COLUMNS = 32, 25, 40


def read_train(folder: Path, sheets: int = TRAIN_SHEETS) -> ImageSet:
    """1,000 training images from each of the first `sheets` sheets (1 to 40), all class-balanced."""
    return _read_sheets(folder, "train", sheets)


def read_validation(folder: Path, sheets: int = VALIDATION_SHEETS) -> ImageSet:
    """1,000 images from each of the first `sheets` sheets (1 to 5): of the official training set, but none
    that `read_train` gives."""
    return _read_sheets(folder, "val", sheets)


def read_test(folder: Path) -> ImageSet:
    """The first 1,017 official test images, exact pixels."""
    stored = _arrays(folder / "test_exact.npz", "image", "label")
    return ImageSet(stored["image"], stored["label"].astype(np.int64), CLASSES)


def read_jpeg_test(folder: Path) -> ImageSet:
    """The first 5,000 official test images after JPEG compression: the shifted set."""
    stored = _arrays(folder / "test_jpeg.npz", "jpeg", "offset", "label")
    data, offset = stored["jpeg"].tobytes(), stored["offset"]
    files = [data[start:end] for start, end in pairwise(offset)]
    pixels = np.stack([_decoded(io.BytesIO(file), f"JPEG {i}") for i, file in enumerate(files)])
    return ImageSet(pixels, stored["label"].astype(np.int64), CLASSES)


def _read_sheets(folder: Path, part: str, sheets: int) -> ImageSet:
    labels = _arrays(folder / "labels.npz", f"{part}_label")[f"{part}_label"]
    pixels = []
    for sheet in range(sheets):
        path = require(folder / f"{part}_{sheet:02d}.webp", "a sheet of 1,000 CIFAR-10 images")
        pixels.append(_tiles(_decoded(path, path.name), path))
    images = np.concatenate(pixels)
    return ImageSet(images, labels[: len(images)].astype(np.int64), CLASSES)


def _tiles(sheet: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """A sheet [800, 1280, 3] as images [1000, 32, 32, 3]."""
    expected = (ROWS * SIDE, COLUMNS * SIDE, 3)
    if sheet.shape != expected:
        raise InputError(f"{str(path)!r} of shape {sheet.shape}", expected=f"a sheet {expected}")
    grid = sheet.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(ROWS * COLUMNS, SIDE, SIDE, 3)


def _decoded(source: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise InputError(f"{name!r}, which is no readable image ({error})") from error


def _arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    require(path, "a CIFAR-10 folder with labels.npz, test_exact.npz and sheets train_00.webp ...")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
        raise InputError(
            f"{str(path)!r}, which is no such file ({error})", expected=", ".join(names)
        ) from error
