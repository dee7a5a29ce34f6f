"""profile -o, select and serve on real files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from plisse.adapt.elastic import Point
from plisse.adapt.file import dumps
from plisse.adapt.opened import open_elastic
from plisse.adapt.width import width_subspace
from plisse.cli.main import app
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.cost.kept import read_profile
from plisse.networks.build import build
from plisse.networks.open import load, open_model, save

pytest.importorskip("fastapi")
pytest.importorskip("psutil")

SMALL, LARGE = "width=0.2821", "width=1"


def plisse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two untrained networks for digits, a narrow one and a wide one."""
    folder = tmp_path_factory.mktemp("files")
    model = open_model("digits_cnn", seed=1)
    net = width_subspace(model, torch.zeros(1, 1, 8, 8)).elastic()
    paths = []
    for width in (0.25, 1.0):
        paths.append(folder / f"{width:g}.plisse")
        save(net.extract(Point("width", width)), paths[-1])
    return paths


@pytest.fixture(scope="module")
def kept(files: list[Path]) -> Path:
    """A profile of the two."""
    path = files[0].parent / "profile.json"
    done = plisse("profile", *files, "-o", path, "--repeats", 3, "--batch", 1)
    assert done.exit_code == 0, done.output
    return path


def test_profile_keeps_points_for_other_commands(files: list[Path], kept: Path) -> None:
    found = read_profile(kept)
    assert [row.point for row in found.rows] == [SMALL, LARGE]
    assert [row.cost.bytes for row in found.rows] == [path.stat().st_size for path in files]
    assert found.conditions["inputs"] == {"": {"shape": [1, 8, 8], "type": "float32"}}
    assert found.conditions["batch"] == 1
    assert all(row.p95 and row.memory and row.switch for row in found.rows)


def test_select_writes_the_best_point_within_the_budget(
    files: list[Path], kept: Path, tmp_path: Path
) -> None:
    out = tmp_path / "one.plisse"
    done = plisse(
        "select", *files, "--profile", kept, "--budget", "bytes=0.5x, latency=1s", "-o", out, "--json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["point"] == SMALL
    assert found["cost"]["bytes"] == out.stat().st_size == files[0].stat().st_size
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(load(out)(x), load(files[0])(x))
    assert f"{SMALL}, accuracy" in plisse(
        "select", *files, "--profile", kept, "--budget", "bytes=0.5x", "-o", out
    ).stdout.replace("\n", " ")


@pytest.fixture(scope="module")
def spectrum(files: list[Path]) -> Path:
    """One file of three untrained widths."""
    model = open_model("digits_cnn", seed=1)
    subspace = width_subspace(model, torch.zeros(1, 1, 8, 8), widths=(0.25, 0.5, 1.0))
    path = files[0].parent / "spectrum.plisse"
    path.write_bytes(dumps(subspace, build(origin_of(model), ("digits_cnn",))))
    return path


def test_one_file_of_many_points_is_profiled_and_selected_from(spectrum: Path, tmp_path: Path) -> None:
    done = plisse("profile", spectrum, "--repeats", 3, "--by", "macs", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["point"] for row in rows] == ["width=0.25", "width=0.5", "width=1"]
    assert rows[0]["cost"]["macs"] < rows[1]["cost"]["macs"] < rows[2]["cost"]["macs"]
    out = tmp_path / "one.plisse"
    done = plisse("select", spectrum, "--budget", "macs=0.1x", "-o", out)
    assert done.exit_code == 0, done.output
    assert "width=0.25" in done.stdout
    assert out.stat().st_size == rows[0]["cost"]["bytes"] < spectrum.stat().st_size


def test_a_point_can_be_named_instead_of_a_budget(spectrum: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.plisse"
    done = plisse("select", spectrum, "--point", "width=0.5", "-o", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("bytes): width=0.5\n")
    with torch.inference_mode():
        x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(load(out)(x), open_elastic(spectrum).extract(Point("width", 0.5))(x))
    for words in ((), ("--point", "width=0.5", "--budget", "bytes=1x")):
        assert "expected one of them" in plisse("select", spectrum, *words, "-o", out).stderr
    assert plisse("select", spectrum, "--point", "width=2", "-o", out).exit_code == 2


def test_a_file_that_ends_early_gives_its_complete_points_and_says_so(spectrum: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.plisse"
    cut.write_bytes(spectrum.read_bytes()[:-200])
    done = plisse("profile", cut, "--repeats", 3, "--json")
    assert done.exit_code == 0, done.output
    assert [row["point"] for row in json.loads(done.stdout)["rows"]] == ["width=0.25", "width=0.5"]
    assert "ends after 2 of 3 points" in done.stderr.replace("\n", " ")
    beside = plisse("serve", spectrum, cut)
    assert beside.exit_code == 2
    assert "that file alone" in beside.stderr.replace("\n", " ")


def test_a_file_that_ends_early_takes_its_rows_of_the_whole_ones_profile(
    spectrum: Path, tmp_path: Path
) -> None:
    cut, kept, out = (tmp_path / name for name in ("cut.plisse", "kept.json", "one.plisse"))
    cut.write_bytes(spectrum.read_bytes()[:-200])
    assert plisse("profile", spectrum, "--repeats", 3, "-o", kept).exit_code == 0
    done = plisse("select", cut, "--profile", kept, "--budget", "bytes=1x", "-o", out)
    assert done.exit_code == 0, done.output
    assert "left out width=1," in done.stderr.replace("\n", " ")
    assert load(out)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_profile_of_other_weights_is_refused(spectrum: Path, tmp_path: Path) -> None:
    kept, other = tmp_path / "kept.json", tmp_path / "other.plisse"
    assert plisse("profile", spectrum, "--repeats", 3, "-o", kept).exit_code == 0
    model = open_model("digits_cnn", seed=2)
    subspace = width_subspace(model, torch.zeros(1, 1, 8, 8), widths=(0.25, 0.5, 1.0))
    other.write_bytes(dumps(subspace, build(origin_of(model), ("digits_cnn",))))
    for command in (("serve",), ("select", "--budget", "bytes=1x", "-o", tmp_path / "a.plisse")):
        done = plisse(command[0], other, "--profile", kept, *command[1:])
        assert done.exit_code == 2
        assert "measured with other weights at width=0.25" in done.stderr.replace("\n", " ")


def test_no_command_writes_over_what_it_reads(spectrum: Path, kept: Path) -> None:
    before = spectrum.read_bytes()
    for words in (
        ("profile", spectrum, "-o", spectrum),
        ("select", spectrum, "--profile", kept, "--budget", "bytes=1x", "-o", spectrum),
        ("serve", spectrum, "--log", spectrum),
        ("compress", spectrum, "-o", spectrum),
        ("train", "subspace", spectrum, "-o", spectrum),
    ):
        done = plisse(*words)
        assert done.exit_code == 2, done.output
        assert "which this command reads" in done.stderr.replace("\n", " ")
    assert spectrum.read_bytes() == before


def test_profiles_for_serving_take_the_weights_that_are_given(files: list[Path], tmp_path: Path) -> None:
    kept, weights = tmp_path / "kept.json", tmp_path / "w.safetensors"
    save_file(load(files[1]).state_dict(), weights)
    done = plisse("profile", "digits_cnn", "--weights", weights, "--repeats", 3, "-o", kept)
    assert done.exit_code == 0, done.output
    assert "untrained" not in done.stderr
    scored = json.loads(plisse("evaluate", files[1], "--json").stdout)["score"]
    assert read_profile(kept).rows[0].score == scored
    done = plisse("profile", files[1], "--weights", weights, "--repeats", 3, "-o", kept)
    assert done.exit_code == 2
    assert "hold their own" in done.stderr.replace("\n", " ")


def test_serve_refuses_a_budget_that_no_point_meets(files: list[Path], kept: Path) -> None:
    done = plisse("serve", *files, "--profile", kept, "--budget", "bytes=1", "--port", 0)
    assert done.exit_code == 5, done.output
    assert f"for {SMALL}, which is the closest" in done.stderr.replace("\n", " ")


def test_select_measures_where_no_profile_is_given(files: list[Path], tmp_path: Path) -> None:
    done = plisse("select", *files, "--budget", "macs=0.5x", "-o", tmp_path / "one.plisse")
    assert done.exit_code == 0, done.output
    assert SMALL in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--budget", "bytes=1"), 5, "none of 2 points"),
        (("--budget", "latency=5"), 2, "without a unit"),
        (("--budget", "size=1"), 2, "budget part"),
        (("--budget", "bytes=1x", "--profile", "none.json"), 2, "No such file"),
        (("--budget", "bytes=1x", "--profile", "other.json"), 2, "a profile of this network"),
    ],
    ids=["impossible", "unitless", "unknown", "missing", "foreign"],
)  # fmt: skip
def test_select_explains_what_it_cannot_do(
    files: list[Path], kept: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "other.json").write_text(kept.read_text().replace(SMALL, "width=0.1"))
    given = [str(tmp_path / one) if one.endswith(".json") else one for one in options]
    if "--profile" not in given:
        given += ["--profile", str(kept)]
    done = plisse("select", *files, *given, "-o", tmp_path / "one.plisse")
    assert done.exit_code == code, done.output
    assert words in done.stderr.replace("\n", " ")
    assert not (tmp_path / "one.plisse").exists()


def test_networks_that_cannot_be_told_apart_are_refused(files: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin.plisse"
    twin.write_bytes(files[0].read_bytes())
    for command in (("serve",), ("select", "--budget", "bytes=1x", "-o", tmp_path / "a.plisse")):
        assert "named twice" in plisse(command[0], files[0], files[0], *command[1:]).stderr
        assert "different widths" in plisse(command[0], files[0], twin, *command[1:]).stderr


def test_a_file_of_an_unknown_factory_needs_to_be_allowed(tmp_path: Path) -> None:
    path = tmp_path / "f.plisse"
    save(with_origin(torch.nn.Linear(3, 2), Origin("factory", "torch.nn:Linear", _LINEAR)), path)
    done = plisse("serve", path)
    assert done.exit_code == 2
    assert "torch.nn:Linear" in done.stderr


_LINEAR = {"in_features": 3, "out_features": 2}


def test_serve_refuses_a_taken_port_and_bad_settings(files: list[Path], kept: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = plisse("serve", *files, "--profile", kept, "--port", taken.getsockname()[1])
    assert done.exit_code == 2
    assert "--port 0" in done.stderr.replace("\n", " ")
    for options in (("--budget", "x=1"), ("--log", "none/log"), ("--deadline", "-3"), ("--policy", "luck")):
        assert plisse("serve", *files, "--profile", kept, "--port", 0, *options).exit_code in (2, 9)


def test_serve_says_which_package_is_missing(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = plisse("serve", *files)
    assert done.exit_code == 2
    assert "plisse[serve]" in done.stderr.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_and_ends_in_order(
    files: list[Path], kept: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    log = tmp_path / "decisions.jsonl"
    command = [sys.executable, "-m", "plisse.cli", "serve", *map(str, files), "--profile", str(kept)]
    command += ["--port", "0", "--deadline", "5000", "--log", str(log), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = next(line.split(" on ")[1].split()[0] for line in process.stderr if " on http" in line)
        example = asked(url + "example")
        answer = asked(url + "predict", example)
        assert answer["point"] in (SMALL, LARGE)  # which of them is on the frontier is a matter of time
        assert (answer["met"], len(answer["outputs"][0])) == (True, 10)
        with pytest.raises(urllib.error.HTTPError, match="422"):
            asked(url + "predict", {"inputs": [[0]]})
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert errors.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors
    assert [json.loads(line)["point"] for line in log.read_text().splitlines()] == [answer["point"]]


def asked(url: str, body: Any = None) -> Any:
    """The JSON answer to a request."""
    headers = {"content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as response:
        return json.load(response)
