"""What a compression without data used in place of data: a sheet of images, or some sentences."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP = 2  # pixels between images
COLUMNS, MOST = 10, 40


@dataclass(frozen=True)
class Exhibit:
    """A section of a report. note: a sentence or two on what is shown. png: a picture as bytes. lines: text,
    one line each."""

    heading: str
    note: str
    png: bytes | None = None
    lines: tuple[str, ...] = ()


def contact_sheet(
    pixels: NDArray[np.uint8], labels: Sequence[int] | None = None, most: int = MOST, white: int = 255
) -> bytes:
    """At most `most` of the images [N, H, W, C] (1 or 3 channels, from 0 to `white`), ten in a row, as PNG.

    labels: classes; images of all of them are shown, in the order of classes.

    >>> contact_sheet(np.zeros((3, 8, 8, 1), np.uint8))[1:4]
    b'PNG'
    """
    shown = pixels[_picked(len(pixels), labels, most)]
    n, height, width = shown.shape[:3]
    grey = np.rint(shown * (255 / white)).clip(0, 255).astype(np.uint8)
    tiles = np.repeat(grey, 3, 3) if grey.shape[3] == 1 else grey[..., :3]
    columns = min(COLUMNS, n)
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // columns) * (height + GAP), (number % columns) * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = tile
        sheet[top : top + height, left : left + width, 3] = 255
    kept = io.BytesIO()
    Image.fromarray(sheet).save(kept, "PNG", optimize=True)
    return kept.getvalue()


def exhibit_content(exhibit: Exhibit) -> str:
    """The picture and the lines as HTML; the picture's bytes are in the page."""
    parts = []
    if exhibit.png is not None:
        data = base64.b64encode(exhibit.png).decode()
        words = escape(exhibit.heading, quote=True)
        parts.append(f'<img class="sheet" alt="{words}" src="data:image/png;base64,{data}">')
    if exhibit.lines:
        listed = "".join(f"<li>{escape(line)}</li>" for line in exhibit.lines)
        parts.append(f'<ul class="lines">{listed}</ul>')
    return "".join(parts)


def _picked(n: int, labels: Sequence[int] | None, most: int) -> NDArray[np.int64]:
    """Which images to show: of each class in turn, then sorted by class."""
    if labels is None:
        return np.arange(min(n, most))
    classes = np.asarray(labels)
    turn = np.zeros(n, np.int64)  # how many of its class come before
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        turn[members] = np.arange(len(members))
    first = np.lexsort((classes, turn))[:most]
    return first[np.lexsort((first, classes[first]))]
