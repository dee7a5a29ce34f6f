"""Comparisons of a clip: all curves are measured, networks are about as large as our files."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from clips import moving
from typer.testing import CliRunner

from plisse.cli.video import app
from plisse.codec import curves, presets, wholeclip
from plisse.codec.compare import Point, at_equal_bytes
from plisse.codec.curves import AGAINST, compare_clip
from plisse.codec.video import Settings
from plisse.data.video_out import write_video
from plisse.errors import InputError

pytest.importorskip("av")
FAST = Settings("warp", "fast")


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setattr(wholeclip, "STEPS", {"fast": 12})
    networks = {"siren": {"fast": replace(presets.NETWORKS["siren"]["fast"], key_steps=3)}}
    monkeypatch.setattr(curves, "NETWORKS", networks)
    monkeypatch.setattr(curves, "OUR_CRFS", (24.0, 34.0))
    monkeypatch.setattr(curves, "THEIR_CRFS", (20.0, 34.0))


def test_all_curves_of_a_clip():
    said = []
    found = compare_clip(moving(3, 64, 64), Fraction(25), FAST, said=said.append)
    names = ["warp fast", "x264 slow", "x265 slow", "a network per frame", "one network for the clip"]
    assert [curve.name for curve in found.curves] == names
    assert all(len(curve.points) == len(curve.frames) == 2 for curve in found.curves)
    assert len(said) == 10
    assert (found.index, found.n_frames) == (1, 3)
    assert set(found.ratios()) == set(found.gaps()) == set(names[1:])
    for curve in found.curves:
        assert curve.points[0].bytes > curve.points[1].bytes
        assert curve.frames[0].size == (64, 64)


def test_two_jobs_measure_the_same(monkeypatch):
    monkeypatch.setattr(curves, "fanned", lambda tasks, jobs, backend: (task() for task in tasks))
    one, two = (compare_clip(moving(2), Fraction(25), FAST, ("x264",), jobs) for jobs in (1, 2))
    sizes = [[[p.bytes for p in curve.points] for curve in found.curves] for found in (one, two)]
    assert sizes[0] == sizes[1]


def test_quality_at_equal_bytes():
    point = Point("a", 28, 1000, 0.1, 30.0, 29.0, 31.0, 0.9, 0.0, 0.0)
    curve = [point, replace(point, bytes=4000, luma=36.0)]
    assert at_equal_bytes(curve, 2000) == pytest.approx(33)
    assert at_equal_bytes(curve, 999) is None
    assert at_equal_bytes([], 1000) is None


def test_bad_arguments():
    for frames, against in (([], AGAINST), (moving(1), ("mpeg",))):
        with pytest.raises(InputError):
            compare_clip(frames, Fraction(25), FAST, against)


def test_the_command_writes_a_report(tmp_path):
    write_video(tmp_path / "in.y4m", moving(2), 25)
    words = ["compare", str(tmp_path / "in.y4m"), "--frames", "2", "--preset", "fast", "--no-networks"]
    result = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "r.html"), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert list(facts["curves"]) == ["warp fast", "x264 slow", "x265 slow"]
    assert "in.y4m" in (tmp_path / "r.html").read_text()
    result = CliRunner().invoke(app, words)
    assert "at equal luma PSNR" in result.stdout
