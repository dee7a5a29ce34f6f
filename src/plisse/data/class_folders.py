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
MODES = {1: "L", 3: "RGB"}
"""What Pillow calls images of so many channels."""
CLASSES = "classes.txt"
"""A file in DIR, if wanted: the name of every class, a line each, in the order of the network's outputs.
Classes without images then keep their place, and names need not be in alphabetical order."""


def read_class_folders(
    folder: str | Path, size: int = 32, seed: int = 0, channels: int = 3
) -> tuple[ImageSet, ImageSet]:
    """Training and test images, RGB, resized to size x size pixels. channels: 3, or 1 for grey ones.

    folder: with `train` and `test` (or `val`) inside, or only class folders; then 80 % of every class, drawn
    by `seed`, are for training. Labels count the names of the folders in alphabetical order, or those in
    DIR/classes.txt, where classes may be without images.

    Raises InputError for a folder without classes, a class without images, an image that cannot be read, and
    test classes that training does not have.
    """
    if not 1 <= size <= 4096:
        raise InputError(f"image size {size}", expected="1 to 4096 pixels")
    if channels not in MODES:
        raise InputError(f"images of {channels} channels", expected="3 (RGB) or 1 (grey)")
    folder = require(folder, LAYOUT)
    tests = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    listed = _listed(folder)
    if not (folder / "train").is_dir():
        return split(_read(folder, *_names(folder, listed), size, channels), TRAIN_SHARE, seed)
    if not tests:
        raise InputError(f"{str(folder)!r} with train but without test", expected=LAYOUT)
    classes, present = _names(folder / "train", listed)
    tested = _names(tests[0], listed)[1]
    if unknown := sorted(set(tested) - set(classes)):
        raise InputError(
            f"class {unknown[0]!r} in {tests[0].name} only", expected=f"one of {', '.join(classes)}"
        )
    train = _read(folder / "train", classes, present, size, channels)
    tested = tuple(name for name in classes if name in tested)
    return train, _read(tests[0], classes, tested, size, channels)


def _listed(folder: Path) -> tuple[str, ...]:
    """The classes in the file of them; none where there is no such file."""
    path = folder / CLASSES
    if not path.is_file():
        return ()
    names = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    names = [name for name in names if name]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"{str(path)!r} with {len(names)} names", expected="two or more, each once")
    return tuple(names)


def _names(folder: Path, listed: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All classes, in the order of their labels, and those with images in `folder`."""
    if not listed:
        return (found := _classes(folder)), found
    if strange := sorted(set(_folders(folder)) - set(listed)):
        raise InputError(
            f"class folder {str(folder / strange[0])!r}",
            expected=f"one that {CLASSES} names, or no {CLASSES}",
        )
    present = tuple(name for name in listed if _files(folder / name))
    if not present:
        raise InputError(f"{str(folder)!r} without images", expected=LAYOUT)
    return listed, present


def _classes(folder: Path) -> tuple[str, ...]:
    names = _folders(folder)
    if len(names) < 2:
        raise InputError(
            f"{str(folder)!r} with {len(names)} class folders", expected=f"two or more: {LAYOUT}"
        )
    return names


def _folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r}, which is no folder", expected=LAYOUT)
    inside = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return tuple(sorted(path.name for path in inside))


def _files(folder: Path) -> list[Path]:
    """The images in a folder, by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _read(
    folder: Path, classes: tuple[str, ...], present: tuple[str, ...], size: int, channels: int
) -> ImageSet:
    """Images of the classes that are `present`, labelled by their place among all `classes`."""
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for name in present:
        files = _files(folder / name)
        if not files:
            raise InputError(f"class folder {str(folder / name)!r} without images", expected=LAYOUT)
        pixels.extend(_image(path, size, channels) for path in files)
        labels.extend([classes.index(name)] * len(files))
    return ImageSet(np.stack(pixels), np.array(labels, np.int64), classes)


def _image(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """One image as [size, size, channels]; grey ones get three equal channels where three are wanted."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = file.convert(MODES[channels])
                if image.size != (size, size):
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
                return np.asarray(image).reshape(size, size, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise InputError(
            f"{str(path)!r}, which is no readable image ({error})", hint="remove or replace that file"
        ) from error
