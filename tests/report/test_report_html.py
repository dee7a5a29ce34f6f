from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import invented
import pytest
import torch
from PIL import Image

from plisse.compress.result import FrontierPoint
from plisse.cost.budget import Cost
from plisse.errors import OutputError
from plisse.report.html import page, write_report
from plisse.report.plain import plain
from plisse.report.record import record

VOID = {"img", "meta", "rect", "line", "circle", "polyline", "wbr", "br"}
OUTSIDE = ("http://", "https://", "src=", "<link", "<script", "@import", "url(", "href=")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Balanced(HTMLParser):
    """Fails where a tag is closed that was not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_page_is_balanced_and_asks_for_nothing_from_outside() -> None:
    text = page(invented.result(), title="resnet20")
    assert text.startswith("<!doctype html>")
    assert [mark for mark in OUTSIDE if mark in text] == []
    assert "default-src 'none'" in text
    words = " ".join(parsed(text).words)
    for expected in ("12.0x smaller", "−0.59 points", "−1.38 to +0.20", "6.11 ms", "saved nothing", "92.43"):
        assert expected in words.replace("\xa0", " ")


def test_everything_that_came_from_elsewhere_is_escaped() -> None:
    evil = '<img src=x onerror="a()">&'
    made = invented.result()
    steps = (replace(made.steps[0], name=evil), *made.steps[1:])
    tensors = (replace(made.tensors[0], name=evil, coding=evil), *made.tensors[1:])
    score = replace(made.score_before, name=evil)
    made = replace(
        made, steps=steps, tensors=tensors, score_before=score, score_after=score,
        record={evil: evil, "network": {"name": evil}, "task": evil},
    )  # fmt: skip
    text = page(made, title=evil)
    assert "<img" not in text
    assert "<IMG" not in text.upper().replace("&LT;IMG", "")
    parsed(text)


@pytest.mark.parametrize(
    "points",
    [
        (),
        (FrontierPoint(1e4, 0.0, True),),
        (FrontierPoint(1e4, 0.5), FrontierPoint(1e4, 0.5, True)),
        (FrontierPoint(0.0, 0.1), FrontierPoint(1e4, math.nan), FrontierPoint(math.inf, 1.0)),
        tuple(FrontierPoint(10.0**k, 10.0**-k, k == 3) for k in range(1, 9)),
    ],
)
def test_frontier_of_any_shape_is_drawn(points: tuple[FrontierPoint, ...]) -> None:
    text = page(invented.result(frontier=points), title="frontier")
    parsed(text)
    drawable = [p for p in points if 0 < p.bytes < math.inf and math.isfinite(p.divergence)]
    assert text.count('<circle class="dot') == len(drawable)
    assert text.count('class="ring"') == sum(p.chosen for p in drawable)
    assert ("No search was run" in text) == (not drawable)
    assert "nan" not in text.replace("finance", "").split("<main>")[1].split("Show as JSON")[0]


def test_a_network_without_latency_or_loss_is_shown() -> None:
    plain_cost = Cost(10, 1000, 0)
    same = invented.evaluation(1.0, 0.0)
    made = invented.result(
        before=plain_cost, after=plain_cost, score_before=same, score_after=same, tensors=(), steps=()
    )
    made = replace(made, difference=replace(made.difference, value=0.0, low=0.0, high=0.0))
    words = " ".join(parsed(page(made, title="same")).words)
    assert "not measured" in words
    assert "Equal accuracy" in words
    assert "The file holds no tensors" in words


def test_the_record_in_the_page_is_json_and_complete() -> None:
    made = invented.result()
    words = parsed(page(made, title="r")).words
    shown = json.loads(next(text for text in words if text.startswith("{")))
    assert shown["record"] == dict(made.record)
    assert shown["ratio"] == made.ratio
    everything = record(made)
    assert len(everything["tensors"]) == len(made.tensors)
    assert sum(point["chosen"] for point in everything["frontier"]) == 1
    json.dumps(everything, allow_nan=False)


def test_plain_keeps_numbers_and_names_the_rest() -> None:
    import numpy as np

    given = {
        1: np.float32(0.5),
        "n": np.int64(3),
        "bad": math.nan,
        "t": (True, None),
        "p": Path("a"),
        "d": torch.int8,
    }
    assert plain(given) == {"1": 0.5, "n": 3, "bad": None, "t": [True, None], "p": "a", "d": "torch.int8"}


def test_write_report_replaces_a_file_and_names_a_missing_folder(tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    target.write_text("old")
    write_report(invented.result(), target, title="new")
    assert "<title>new</title>" in target.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    with pytest.raises(OutputError):
        write_report(invented.result(), tmp_path / "none" / "r.html")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser to open the report")
@pytest.mark.parametrize("size", ["1200,1800", "500,1800"])
def test_chromium_draws_the_page(tmp_path: Path, size: str) -> None:
    report, shot = tmp_path / "r.html", tmp_path / "shot.png"
    write_report(invented.result(), report, title="resnet20 on cifar10")
    assert CHROMIUM is not None
    apart = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *FLAGS, apart, f"--screenshot={shot}", f"--window-size={size}", report.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        assert image.size == tuple(int(side) for side in size.split(","))
        colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 20
    assert any(count > 50 for count, colour in colours if colour == (0x1F, 0x5F, 0xBF)), "no bar was drawn"
