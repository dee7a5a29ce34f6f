"""Comparisons: streams of other codecs without what describes the encoder; ratios at equal quality."""

from dataclasses import replace
from fractions import Fraction

import pytest
from clips import moving

from plisse.codec.compare import Point, at_equal_quality, conventional, ours, ratio, raw_stream
from plisse.codec.rate import Rate
from plisse.codec.video import Settings
from plisse.errors import InputError

av = pytest.importorskip("av")
POINT = Point("a", 28, 1000, 0.1, 30.0, 29.0, 31.0, 0.9, 0.0, 0.0)


@pytest.mark.parametrize("codec", ["x264", "x265"])
def test_other_codecs_give_frames_and_no_text(codec):
    if {"x264": "libx264", "x265": "libx265"}[codec] not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    frames = moving(3, 64, 64)
    fine, coarse = (conventional(frames, Fraction(25), codec, crf, "fast") for crf in (20, 36))
    assert fine.bytes > coarse.bytes
    assert fine.luma > coarse.luma > 20
    assert fine.bpp == pytest.approx(8 * fine.bytes / (3 * 64 * 64))
    assert b"x26" not in raw_stream(frames, Fraction(25), codec, 30, "fast")


@pytest.mark.parametrize("codec", ["x264", "x265"])
@pytest.mark.parametrize("size", [(33, 50), (16, 129)], ids=["odd", "flat"])
def test_sizes_that_other_codecs_do_not_take_are_filled_up(codec, size):
    point = conventional(moving(2, *size), Fraction(25), codec, 20, "fast")
    assert point.luma > 33


def test_our_points_are_lengths_of_streams():
    point = ours(moving(2), Fraction(25), Settings("warp", "fast", Rate(crf=30)))
    assert point.codec == "warp fast"
    assert point.bpp == pytest.approx(8 * point.bytes / (2 * 32 * 48))
    with pytest.raises(InputError, match="constant"):
        ours(moving(1), Fraction(25), Settings(rate=Rate(bpp=1)))


def test_ratios_are_read_between_points():
    theirs = [replace(POINT, bytes=b, luma=q) for b, q in ((1000, 30.0), (4000, 36.0))]
    assert at_equal_quality(theirs, 33.0, "luma") == pytest.approx(2000)
    assert at_equal_quality(theirs, 37.0, "luma") is None
    assert ratio([replace(POINT, bytes=6000, luma=33.0)], theirs, "luma") == pytest.approx(3)
    assert ratio(theirs, theirs, "luma") == pytest.approx(1)
    assert ratio([replace(POINT, luma=50.0)], theirs, "luma") is None
