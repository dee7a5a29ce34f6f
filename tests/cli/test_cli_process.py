"""The command as people start it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

START = [sys.executable, "-m", "plisse.cli"]
HEAVY = ("torch", "numpy", "sklearn", "transformers", "rich.console")


def started(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*START, *arguments], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def test_parsing_imports_nothing_heavy() -> None:
    code = f"import plisse.cli.main, sys; print([name for name in {HEAVY} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_help_answers_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    (tmp_path / "numpy.py").write_text("raise RuntimeError('numpy was imported')")
    shown = started("compress", "--help", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert shown.returncode == 0, shown.stderr
    assert "--budget" in shown.stdout


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    shown = started("inspect", str(tmp_path / "none.plisse"), "--json")
    assert shown.returncode == 2, shown.stderr
    assert json.loads(shown.stdout)["error"]["type"] == "InputError"
    assert shown.stderr.splitlines()[-1].startswith("error: got ")


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("compress", "digits_cnn", "-o", "a.plisse", "--bits", "foo"), "BadParameter", "--bits"),
        (("compress", "digits_cnn"), "MissingParameter", "-o"),
        (("inspect", "a.plisse", "--flops"), "NoSuchOption", "--flops"),
        (("video", "no"), "UsageError", "no"),
    ],
)
def test_mistyped_options_are_one_line_and_json(arguments: tuple[str, ...], kind: str, words: str) -> None:
    shown = started(*arguments, "--json")
    assert shown.returncode == 2, shown.stderr
    found = json.loads(shown.stdout)["error"]
    assert (found["type"], found["exit_code"]) == (kind, 2)
    assert words in found["message"]
    assert shown.stderr == f"error: {found['message']}\n"


def test_help_is_help_beside_json() -> None:
    shown = started("inspect", "--json", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "plisse inspect" in shown.stdout


def test_an_interrupt_while_libraries_load_is_told_in_json(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    shown = started(
        "compress", "digits_cnn", "-o", str(tmp_path / "a.plisse"), "--json",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert shown.returncode == 130, shown.stderr
    assert json.loads(shown.stdout)["error"]["type"] == "Interrupted"
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_with_its_code_and_nothing_written(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\ndef task():\n    pathlib.Path('ready').touch()\n    time.sleep(60)\n"
    )
    arguments = ["compress", "digits_cnn", "-o", "out.plisse", "--task", "slow:task"]
    process = subprocess.Popen([*START, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "ready").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out.plisse").exists()


def test_a_terminal_without_unicode_still_gets_its_table(tmp_path: Path) -> None:
    from plisse.bitstream import modelfile
    from plisse.core.origin import origin_of
    from plisse.networks.build import build
    from plisse.networks.open import open_model

    model = open_model("digits_cnn")
    path = tmp_path / "a.plisse"
    path.write_bytes(modelfile.dumps(model, build(origin_of(model))))
    shown = started("inspect", str(path), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert shown.returncode == 0, shown.stderr
    assert "fc1.weight" in shown.stdout
