"""plisse video: encode, decode, inspect, and errors in one line."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from clips import moving
from typer.testing import CliRunner

from plisse.cli.video import app
from plisse.codec.stream import end_bytes
from plisse.data.frames import Frame
from plisse.data.quality import luma_psnr
from plisse.data.video import open_video
from plisse.data.video_out import write_video

runner = CliRunner()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.y4m"
    write_video(path, moving(4), 25)
    return path


def run(*words) -> str:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_there_and_back(tmp_path, source):
    clip, out = tmp_path / "c.plv", tmp_path / "out.y4m"
    told = json.loads(run("encode", source, "-o", clip, "--preset", "fast", "--crf", "24", "--json"))
    assert told["bytes"] == clip.stat().st_size
    assert told["frames"] == 4
    facts = json.loads(run("inspect", clip, "--json"))
    assert facts["frames"] == 4
    assert facts["key_frames"] == 1
    assert "1 key frame of" in run("inspect", clip)
    run("decode", clip, "-o", out)
    found: list[Frame] = list(open_video(out))
    assert [luma_psnr(a, b) > 30 for a, b in zip(found, moving(4), strict=True)] == [True] * 4
    run("decode", clip, "-o", tmp_path / "rest.mkv", "--start", "2")
    assert len(list(open_video(tmp_path / "rest.mkv"))) == 2


def test_going_on(tmp_path, source):
    clip = tmp_path / "c.plv"
    run("encode", source, "-o", clip, "--preset", "fast")
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) // 2])
    assert (
        json.loads(run("encode", source, "-o", clip, "--preset", "fast", "--resume", "--json"))["frames"] == 4
    )
    assert clip.read_bytes() == whole


def test_several_videos_go_to_a_folder(tmp_path, source):
    write_video(tmp_path / "other.y4m", moving(2, seed=1), 25)
    words = ("encode", source, tmp_path / "other.y4m", "-o", tmp_path / "clips", "--preset", "fast")
    told = json.loads(run(*words, "--json"))
    assert [each["frames"] for each in told["files"]] == [4, 2]
    assert told["bytes"] == sum(path.stat().st_size for path in (tmp_path / "clips").iterdir())
    assert told["peak_memory"] > 1e7
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {"in.plv", "other.plv"}
    assert run(*words, "--resume").count("wrote") == 2
    result = runner.invoke(app, ["encode", str(source), str(source), "-o", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "names that differ" in result.stderr


@pytest.mark.parametrize(("words", "told"), [(("--bpp", "50"), "closest"), (("--psnr", "12"), "closest")])
def test_targets_that_are_missed_say_so(tmp_path, source, words, told):
    result = runner.invoke(
        app, ["encode", str(source), "-o", str(tmp_path / "c.plv"), "--preset", "fast", *words]
    )
    assert result.exit_code == 0
    assert told in result.stderr


def test_times_that_vary_come_back(tmp_path):
    frames = [replace(f, time=Fraction(t * t, 25)) for t, f in enumerate(moving(3))]
    write_video(tmp_path / "in.mkv", frames, 25, timed=True)
    run("encode", tmp_path / "in.mkv", "-o", tmp_path / "c.plv", "--preset", "fast")
    assert "tell their times" in run("inspect", tmp_path / "c.plv")
    run("decode", tmp_path / "c.plv", "-o", tmp_path / "out.mkv")
    assert [f.time for f in open_video(tmp_path / "out.mkv")] == [f.time for f in frames]
    result = runner.invoke(app, ["decode", str(tmp_path / "c.plv"), "-o", str(tmp_path / "out.y4m")])
    assert "holds no times" in result.stderr


def test_a_constant_rate_of_30_in_matroska_needs_no_times(tmp_path):
    frames = [replace(f, time=Fraction(t, 30)) for t, f in enumerate(moving(3))]
    for name in ("in.mkv", "in.y4m"):
        write_video(tmp_path / name, frames, 30)
        run("encode", tmp_path / name, "-o", tmp_path / f"{name}.plv", "--preset", "fast")
    assert (tmp_path / "in.mkv.plv").read_bytes() == (tmp_path / "in.y4m.plv").read_bytes()
    assert not json.loads(run("inspect", tmp_path / "in.mkv.plv", "--json"))["times_vary"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("decode", "{in}", "-o", "{out}"), 6),
        (("inspect", "missing.plv"), 2),
        (("encode", "{in}", "-o", "{out}", "--crf", "30", "--bpp", "1"), 2),
        (("encode", "{in}", "-o", "{out}", "--resume"), 2),
        (("encode", "{in}", "-o", "{out}", "--bpp", "0.0001"), 5),
        (("decode", "{in}", "-o", "{out}", "--size", "huge"), 2),
    ],
)
def test_errors_have_codes(tmp_path, source, words, code):
    names = {"{in}": source, "{out}": tmp_path / "out.mkv"}
    result = runner.invoke(app, [str(names.get(word, word)) for word in words])
    assert result.exit_code == code
    assert "error: got" in result.stderr


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("encode", "{in}", "-o", "{in}"), "--out"),
        (("encode", "{in}", "-o", "{link}"), "--out"),
        (("encode", "{in}", "{folder}/other.plv", "-o", "{folder}"), "--out"),
        (("decode", "{clip}", "-o", "{clip}"), "--out"),
        (("compare", "{in}", "--no-networks", "--report", "{in}"), "--report"),
    ],
)
def test_what_is_read_is_never_written(tmp_path, source, words, option):
    (tmp_path / "folder").mkdir()
    names = {"in": source, "link": tmp_path / "link.plv", "folder": tmp_path / "folder"}
    names["clip"] = tmp_path / "clip.mkv"
    names["link"].symlink_to(source)
    run("encode", source, "-o", names["clip"], "--preset", "fast")
    run("encode", source, "-o", tmp_path / "folder" / "other.plv", "--preset", "fast")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = runner.invoke(app, [word.format(**names) for word in words])
    assert result.exit_code == 2
    assert f"got {option} " in result.stderr
    assert "which this command reads" in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("old", [True, False], ids=["a good file", "no file"])
def test_an_interruption_before_the_first_frame_leaves_what_was_there(tmp_path, source, monkeypatch, old):
    clip = tmp_path / "c.plv"
    if old:
        run("encode", source, "-o", clip, "--preset", "fast")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("plisse.codec.encoder.Encoder.chunk", stop)
    result = runner.invoke(app, ["encode", str(source), "-o", str(clip), "--preset", "fast"])
    assert result.exit_code == 130
    assert "nothing was written" in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("rate", [("--crf", "30"), ("--psnr", "33")], ids=["crf", "psnr"])
def test_after_going_on_quality_is_that_of_all_frames(tmp_path, rate):
    noisy = [replace(f, planes=(f.planes[0] | 4 * i, *f.planes[1:])) for i, f in enumerate(moving(5))]
    write_video(tmp_path / "in.y4m", noisy, 25)
    clip = tmp_path / "c.plv"
    words = (
        "encode",
        tmp_path / "in.y4m",
        "-o",
        clip,
        "--preset",
        "fast",
        *rate,
        "--key-interval",
        2,
        "--json",
    )
    whole, data = json.loads(run(*words)), clip.read_bytes()
    for n_bytes in (len(data) * 2 // 3, len(data)):
        clip.write_bytes(data[:n_bytes])
        told = json.loads(run(*words, "--resume"))
        assert told["coded_now"] < 5
        assert told["luma_psnr"] == pytest.approx(whole["luma_psnr"], abs=1e-6)
        assert told["target_missed"] == whole["target_missed"]


def test_interrupted_clips_say_so(tmp_path, source):
    clip = tmp_path / "c.plv"
    run("encode", source, "-o", clip, "--preset", "fast")
    whole = json.loads(run("inspect", clip, "--json"))
    assert (whole["complete"], whole["interrupted_after"]) == (True, None)
    assert "interrupted after" not in run("inspect", clip)
    clip.write_bytes(clip.read_bytes()[: whole["chunks"][2]["offset"]] + end_bytes(2, False))
    part = json.loads(run("inspect", clip, "--json"))
    assert (part["complete"], part["interrupted_after"]) == (False, 2)
    assert "interrupted after 2 frames" in run("inspect", clip)
    result = runner.invoke(app, ["decode", str(clip), "-o", str(tmp_path / "out.mkv")])
    assert result.exit_code == 0
    assert "interrupted after 2 frames" in result.stderr
    clip.write_bytes(clip.read_bytes()[:-4])
    result = runner.invoke(app, ["inspect", str(clip), "--json"])
    assert "breaks off" in result.stderr
    assert json.loads(result.stdout)["complete"] is False


def failed(code: int, *words) -> str:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--crf", "-1", "quality number -1; expected 0 (finest) to 51"),
        ("--crf", "nan", "quality number nan; expected 0 (finest) to 51"),
        ("--psnr", "-3", "-3 dB; expected 10 to 70"),
        ("--bpp", "-1", "-1 bits per pixel; expected a number above 0"),
        ("--bpp", "inf", "inf bits per pixel; expected a number above 0"),
        ("--bpp", "nan", "nan bits per pixel; expected a number above 0"),
    ],
)
def test_numbers_out_of_range_tell_the_range(tmp_path, source, option, value, told):
    assert told in failed(2, "encode", source, "-o", tmp_path / "c.plv", option, value)


def test_folders_as_files_tell_a_fitting_name(tmp_path, source):
    assert f"try: {tmp_path}/in.plv" in failed(9, "encode", source, "-o", tmp_path)
    assert f"try: {tmp_path}/in.html" in failed(9, "compare", source, "--report", tmp_path)


def test_frames_that_are_not_there(tmp_path, source):
    clip, out = tmp_path / "c.plv", tmp_path / "out.mkv"
    run("encode", source, "-o", clip, "--preset", "fast")
    assert "--start 4 of a clip of 4 frames; expected 0 to 3" in failed(
        2, "decode", clip, "-o", out, "--start", 4
    )
    first = json.loads(run("inspect", clip, "--json"))["chunks"][0]["offset"]
    clip.write_bytes(clip.read_bytes()[: first + 3])
    told = failed(2, "decode", clip, "-o", out)
    assert "breaks off" in told
    assert "holds no frame" in told
    told = runner.invoke(app, ["inspect", str(clip)])
    assert told.exit_code == 0
    assert "holds no frame" in told.stderr
    assert not out.exists()


def test_only_networks_go_without_motion(tmp_path, source):
    clip = tmp_path / "c.plv"
    words = ("encode", source, "-o", clip, "--preset", "fast", "--no-motion")
    assert "warp without motion; expected conv, siren or fourier" in failed(2, *words)
    assert not clip.exists()
    run(*words, "--scheme", "siren")
    assert json.loads(run("inspect", clip, "--json"))["numbers"] == [20, 3]


def test_going_on_with_other_files_is_refused_in_words(tmp_path, source):
    clip = tmp_path / "c.plv"
    words = ("encode", source, "-o", clip, "--preset", "fast", "--resume")
    clip.write_bytes(b"")
    assert "an empty file; expected a clip to go on with" in failed(2, *words)
    run("encode", source, "-o", clip, "--preset", "fast", "--scheme", "siren")
    told = failed(2, *words)
    assert "a clip of scheme siren" in told
    assert "expected scheme warp, no network" in told
    clip.write_text("a letter, by no means a video")
    before = clip.read_bytes()
    assert "no clip" in failed(6, *words)
    assert clip.read_bytes() == before
