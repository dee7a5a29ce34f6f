"""Sheets of images, and what a report shows of them."""

from __future__ import annotations

import base64
import io
import re

import invented
import numpy as np
from PIL import Image
from test_report_html import parsed

from plisse.report.html import page
from plisse.report.pictures import Exhibit, contact_sheet


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def images(n: int, channels: int = 3) -> np.ndarray:
    """Image i is of the one value i."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 5, channels)).copy()


def test_a_sheet_has_ten_images_in_a_row_with_clear_gaps() -> None:
    sheet = opened(contact_sheet(images(13)))
    assert sheet.shape == (4 + 2 + 4, 10 * 5 + 9 * 2, 4)
    assert (sheet[:4, 7:12, :3] == 1).all()
    assert (sheet[6:, :5, :3] == 10).all()
    assert (sheet[4:6, :, 3] == 0).all()
    assert (sheet[6:, 21:, 3] == 0).all()


def test_grey_images_of_few_levels_use_the_whole_range() -> None:
    sheet = opened(contact_sheet(images(17, 1), white=16))
    assert sheet[0, 0].tolist() == [0, 0, 0, 255]
    assert sheet[6, 6 * 7].tolist() == [255, 255, 255, 255]


def test_classes_take_turns_and_stand_together() -> None:
    labels = [0] * 50 + [1, 2]
    sheet = opened(contact_sheet(images(52), labels, most=4))
    assert [int(sheet[0, 7 * i, 0]) for i in range(4)] == [0, 1, 50, 51]


def test_a_page_shows_the_picture_itself_and_escapes_lines() -> None:
    png = contact_sheet(images(3))
    exhibits = (
        Exhibit("In <place> of data", "Made.", png),
        Exhibit("Words", "Drawn.", lines=("<b>a</b>", "b")),
    )
    text = page(invented.result(), title="t", exhibits=exhibits)
    parsed(text)
    data = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert data is not None
    assert base64.b64decode(data[1]) == png
    assert "img-src data:" in text
    assert "&lt;b&gt;a&lt;/b&gt;" in text
    assert "<b>a" not in text
    assert text.index("Before and after") < text.index("Words") < text.index("Step by step")
