"""The page of a comparison: balanced, self-contained, escaped, and every figure in it."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from plisse.codec.compare import Point
from plisse.codec.curves import Comparison, Curve
from plisse.data.frames import Colour, Frame
from plisse.errors import OutputError
from plisse.report.video import comparison_page, curves_chart, equal_table, write_comparison

VOID = {"img", "meta", "circle", "polyline", "polygon", "line", "rect", "wbr"}
POINT = Point("a", 28, 1000, 0.1, 30.0, 29.0, 31.0, 0.9, 1.0, 0.1)


def frame(value: int, width: int = 24) -> Frame:
    return Frame.from_rgb(torch.full((16, width, 3), value, dtype=torch.uint8), Colour())


def curve(name: str, *pairs: tuple[int, float]) -> Curve:
    points = tuple(replace(POINT, codec=name, bytes=b, luma=q) for b, q in pairs)
    return Curve(name, points, tuple(frame(10 * n) for n in range(len(points))))


@pytest.fixture
def found() -> Comparison:
    ours, theirs = curve("ours", (1000, 30), (2000, 33)), curve("x<264", (500, 30), (2000, 36))
    return Comparison(8, Fraction(25), 4, frame(99), (ours, theirs, curve("far", (9000, 20), (9500, 21))))


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone(found: Comparison, tmp_path: Path) -> None:
    write_comparison(found, tmp_path / "r.html", title="<clip>")
    text = (tmp_path / "r.html").read_text()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "default-src 'none'" in text
    assert "&lt;clip&gt;" in text
    assert "x<264" not in text
    assert "<script" not in text
    assert "http:" not in text
    assert "https:" not in text
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[0].partition(",")[2])[1:4] == b"PNG"
    assert text.count('<circle class="m c0"') == 2 * 2 + 1  # two charts and the legend
    assert "nan" not in text


def test_equal_quality_and_equal_bytes(found: Comparison) -> None:
    text = equal_table(found)
    assert "2.00 times" in text
    assert "no common quality" in text
    assert "+3.00" in text
    assert found.gaps()["x<264"] == pytest.approx([3.0, 3.0])
    assert found.gaps()["far"] == [None, None]


def test_values_that_are_not_finite_are_left_out(found: Comparison) -> None:
    text = curves_chart(found.curves, lambda p: float("inf") if p.bytes == 2000 else p.luma, "luma")
    assert "inf" not in text
    assert text.count("<circle") == 1
    assert "No finite values" in curves_chart(found.curves, lambda p: None, "luma")


def test_large_frames_are_made_smaller(found: Comparison) -> None:
    wide = replace(found, original=frame(7, 2000))
    assert len(comparison_page(wide, title="t")) < 60_000


def test_a_page_that_cannot_be_written(found: Comparison, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_comparison(found, tmp_path / "missing" / "r.html", title="t")
