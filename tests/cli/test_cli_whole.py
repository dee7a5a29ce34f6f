"""The commands on a real file, with nothing replaced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from plisse.bitstream import modelfile
from plisse.cli.main import app
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.networks.build import build
from plisse.networks.open import open_model


def plisse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for digits, stored without loss."""
    path = tmp_path_factory.mktemp("file") / "digits.plisse"
    model = open_model("digits_cnn", seed=1)
    path.write_bytes(modelfile.dumps(model, build(origin_of(model)), notes={"task": "digits"}))
    return path


def test_inspect_accounts_for_every_byte(file: Path) -> None:
    found = json.loads(plisse("inspect", file, "--json").stdout)
    assert found["origin"]["name"] == "digits_cnn"
    parts = sum(row["bytes"] for row in found["tensors"]) + sum(found["assets"].values()) + found["overhead"]
    assert parts == found["total"] == file.stat().st_size
    shown = plisse("inspect", file, "--all").stdout
    assert f"{file.stat().st_size:,} bytes" in shown
    assert all(row["name"] in shown for row in found["tensors"])


def test_inspect_reads_a_file_whose_factory_is_not_allowed(tmp_path: Path) -> None:
    model = with_origin(torch.nn.Linear(3, 2), Origin("factory", "torch.nn:Linear", {"in_features": 3}))
    path = tmp_path / "f.plisse"
    path.write_bytes(modelfile.dumps(model, torch.nn.Linear(3, 2)))
    done = plisse("inspect", path)
    assert done.exit_code == 0, done.output
    assert "torch.nn:Linear" in done.stdout
    assert plisse("evaluate", path).exit_code == 2


def test_evaluate_gives_the_same_score_in_a_process_of_its_own(file: Path) -> None:
    done = plisse("evaluate", file, "--json")
    assert done.exit_code == 0, done.output
    here = json.loads(done.stdout)
    command = [sys.executable, "-m", "plisse.cli", "evaluate", str(file), "--json"]
    apart = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(apart.stdout) == here
    assert (here["n"], here["unit"]) == (597, "points")
    assert here["low"] <= here["score"] <= here["high"]


def test_profile_refuses_a_network_that_the_task_does_not_fit(file: Path) -> None:
    done = plisse("profile", file, "resnet20", "--repeats", 3)
    assert done.exit_code == 2, done.output
    assert "that resnet20 cannot take" in done.stderr


def test_profile_marks_what_nothing_beats(file: Path) -> None:
    done = plisse("profile", file, "digits_cnn", "--seed", 1, "--repeats", 3, "--json")
    assert done.exit_code == 0, done.output
    small, plain = json.loads(done.stdout)["rows"]
    assert small["cost"]["bytes"] == file.stat().st_size < plain["cost"]["bytes"]
    assert small["score"] == plain["score"]
    assert (small["frontier"], plain["frontier"]) == (True, False)
    assert small["cost"]["latency"] > 0
    assert "beaten" in plisse("profile", file, "digits_cnn", "--seed", 1, "--repeats", 3).stdout


@pytest.mark.parametrize("cut", [0, 7, 200, -1])
def test_a_damaged_file_has_its_own_exit_code(file: Path, tmp_path: Path, cut: int) -> None:
    broken = tmp_path / "broken.plisse"
    broken.write_bytes(file.read_bytes()[:cut])
    for command in ("inspect", "evaluate"):
        done = plisse(command, broken)
        assert done.exit_code == 6, done.output
        assert "at byte" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "resnet21"), "resnet20"),
        (("evaluate", "digits_cnn", "--task", "digit"), "digits"),
        (("evaluate", "digits_cnn", "--task", "images:nowhere"), "nowhere"),
        (("compress", "digits_cnn", "--weights", "none.safetensors", "-o", "a.plisse"), "none.safetensors"),
        (("compress", "digits_cnn", "--recipe", "none.yaml", "-o", "a.plisse"), "none.yaml"),
    ],
)
def test_what_does_not_exist_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = plisse(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_export_writes_a_checked_file(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "a.onnx"
    done = plisse("export", file, "--onnx", out)
    assert done.exit_code == 0, done.output
    assert f"wrote {out}" in done.stdout
    assert "checked with ONNX Runtime" in done.stdout


@pytest.mark.slow
def test_export_to_integers(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "a.onnx"
    done = plisse("export", file, "--onnx", out, "--integer", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["integer_operators"]
    assert found["bytes"] == out.stat().st_size < 100_000


@pytest.mark.slow
def test_demo_reaches_a_tenth_and_reads_its_file_again(tmp_path: Path) -> None:
    done = plisse("demo", "--out", tmp_path / "a" / "demo", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    written = tmp_path / "a" / "demo"
    assert sorted(path.name for path in written.iterdir()) == ["digits.plisse", "record.json", "report.html"]
    assert (
        (written / "digits.plisse").stat().st_size
        == found["after"]["bytes"]
        <= 0.1 * found["before"]["bytes"]
    )
    assert found["score_again"] == found["score_after"]["score"]
    assert found["score_after"]["score"] >= found["score_before"]["score"] - 0.01
    assert found["score_before"]["score"] > 0.97
