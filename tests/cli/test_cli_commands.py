from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import invented
import pytest
from standins import Calls
from typer.testing import CliRunner, Result

from plisse import __version__
from plisse.cli.main import app
from plisse.compress.quantize.grids import PerGroup
from plisse.compress.quantize.quantize import Quantize
from plisse.cost.budget import Budget
from plisse.errors import BudgetError, FormatError, InputError, PlisseError

COMMANDS = ("compress", "inspect", "evaluate", "export", "profile", "select", "serve", "similarity", "demo")


def plisse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failing(error: BaseException) -> Any:
    def fail(*args: Any, **given: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_teaches_by_examples(command: str) -> None:
    shown = plisse(command, "--help")
    assert shown.exit_code == 0
    assert "Examples" in shown.stdout
    assert f"plisse {command} " in shown.stdout
    assert command in plisse("--help").stdout


def test_version() -> None:
    assert plisse("--version").stdout == f"plisse {__version__}\n"


def test_unknown_option_and_missing_argument_are_usage_errors() -> None:
    assert plisse("compress", "resnet20", "--flops", "1").exit_code == 2
    assert plisse("compress", "resnet20").exit_code == 2


def test_compress_hands_everything_on_and_writes_file_and_report(calls: Calls, tmp_path: Path) -> None:
    out, report = tmp_path / "small.plisse", tmp_path / "r.html"
    done = plisse(
        "compress", "resnet20", "-o", out, "--weights", "w.safetensors", "--task", "cifar10", "--data", "d",
        "--budget", "bytes=0.1x, latency=5ms", "--recipe", "r.yaml", "--finetune", 7, "--finetune-lr", 0.01,
        "--strict", "--seed", 3, "--allow", "a.b:c", "--report", report,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == invented.result().data
    assert "<title>resnet20 on cifar10</title>" in report.read_text(encoding="utf-8")
    assert calls.of("open_model") == {0: "resnet20", 1: Path("w.safetensors"), "allow": ("a.b:c",), "seed": 3}
    opened = calls.of("open_task")
    assert (opened[0], opened[1], opened["seed"]) == ("cifar10", "d", 3)
    given = calls.of("compress")
    assert given["budget"] == Budget.parse("bytes=0.1x, latency=5ms")
    assert (given["recipe"].steps, given["strict"], given["seed"]) == (("steps",), True, 3)
    assert (given["finetune_steps"], given["finetune_lr"]) == (7, 0.01)
    assert given["notes"] == {"task": "cifar10"}
    assert given["allow"] == ("a.b:c", "resnet20")
    for words in ("12.0x smaller", "saved nothing", f"wrote {out}", f"wrote {report}"):
        assert words in done.stdout


def test_compress_without_bounds_asks_for_a_tenth(calls: Calls, tmp_path: Path) -> None:
    assert plisse("compress", "resnet20", "-o", tmp_path / "a.plisse").exit_code == 0
    given = calls.of("compress")
    assert given["budget"] == Budget.parse("bytes=0.1x")
    assert given["recipe"] is None
    plisse("compress", "resnet20", "-o", tmp_path / "a.plisse", "--recipe", "r.yaml")
    assert calls.of("compress")["budget"] is None


def test_short_flags_of_quantization_stand_for_a_recipe(calls: Calls, tmp_path: Path) -> None:
    flags = ("--bits", 4, "--activations", 8, "--group", 32, "--rounding", "gptq")
    done = plisse("compress", "resnet20", "-o", tmp_path / "a.plisse", *flags)
    assert done.exit_code == 0, done.output
    given = calls.of("compress")
    assert given["budget"] is None
    quantize = next(step for step in given["recipe"].steps if isinstance(step, Quantize))
    assert (quantize.bits, quantize.first_last_bits, quantize.granularity) == (4, 8, PerGroup(32))
    assert (quantize.activations.bits, type(quantize.rounding).__name__) == (8, "GPTQ")


PRESETS = ("convnet", "q8bert", "qbert", "ternarybert", "ibert", "zeroquant", "recurrent")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_recipe(preset: str, calls: Calls, tmp_path: Path) -> None:
    done = plisse("compress", "resnet20", "-o", tmp_path / "a.plisse", "--preset", preset)
    assert done.exit_code == 0, done.output
    given = calls.of("compress")
    assert given["budget"] is None
    assert len(given["recipe"].steps) > 1


@pytest.mark.parametrize("preset", ["ibert", "ternarybert"])
def test_a_preset_refuses_what_it_decides(preset: str, calls: Calls, tmp_path: Path) -> None:
    start = ("compress", "resnet20", "-o", tmp_path / "a.plisse", "--preset", preset)
    for flags in (("--group", 32), ("--bits", 4)):
        done = plisse(*start, *flags)
        assert done.exit_code == 2
        assert f"--preset {preset}" in done.output


@pytest.mark.parametrize("flags", [("--activations", 8), ("--group", 32), ("--rounding", "gptq")])
def test_flags_of_quantization_need_bits(flags: tuple[object, ...], calls: Calls, tmp_path: Path) -> None:
    done = plisse("compress", "resnet20", "-o", tmp_path / "a.plisse", *flags)
    assert done.exit_code == 2
    assert f"{flags[0]} without --bits" in done.output


def test_json_is_one_document_on_standard_output(calls: Calls, tmp_path: Path) -> None:
    out = tmp_path / "a.plisse"
    done = plisse("compress", "resnet20", "-o", out, "--json")
    found = json.loads(done.stdout)
    assert found["file"] == str(out)
    assert found["ratio"] == invented.result().ratio
    assert found["record"]["seed"] == 0
    assert "fresh, untrained weights" in done.stderr


def test_what_a_library_prints_stays_off_standard_output(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chatty(*args: Any, say: Any, progress: Any, **given: Any) -> Any:
        print("chatter")
        say("a step")
        assert list(progress(["a", "b"])) == ["a", "b"]
        return invented.result()

    monkeypatch.setattr(sys.modules["plisse.compress.compress"], "compress", chatty)
    done = plisse("compress", "resnet20", "-o", tmp_path / "a.plisse", "--json")
    json.loads(done.stdout)
    for words in ("chatter", "a step", "a (1 of 2)"):
        assert words in done.stderr


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_outputs_that_cannot_be_written_fail_before_the_work(
    calls: Calls, tmp_path: Path, option: str
) -> None:
    good = tmp_path / "good.plisse"
    os.mkfifo(tmp_path / "pipe")
    for bad in (tmp_path, tmp_path / "none" / "a", tmp_path / "pipe"):
        rest = ("-o", good, "--report", bad) if option == "--report" else ("-o", bad)
        done = plisse("compress", "resnet20", *rest)
        assert done.exit_code == 9, done.output
        assert done.stderr.startswith("error: got --")
        assert done.stderr.count("\n") == 1
    assert calls == []
    assert not good.exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_a_folder_without_permission_fails_before_the_work(calls: Calls, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert plisse("compress", "resnet20", "-o", tmp_path / "a.plisse").exit_code == 9
    assert calls == []


def test_one_path_for_two_outputs_is_refused(calls: Calls, tmp_path: Path) -> None:
    done = plisse("compress", "resnet20", "-o", tmp_path / "a", "--report", tmp_path / "." / "a")
    assert done.exit_code == 2
    assert "two different files" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--budget", "bits=3"), 2, "bytes=0.1x or latency=5ms"),
        (("--task", "cifar10:a", "--data", "b"), 2, "--task cifar10 --data b"),
        (("--finetune-lr", "0.1"), 2, "--finetune 500"),
        (("--finetune", "2", "--finetune-lr", "-3"), 2, "a number above 0"),
        (("--finetune", "2", "--finetune-lr", "nan"), 2, "a number above 0"),
    ],
)
def test_options_that_contradict_are_explained(
    calls: Calls, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    done = plisse("compress", "resnet20", "-o", tmp_path / "a.plisse", *options)
    assert done.exit_code == code
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (InputError("a\nb", expected="c", hint="d"), 2, {"came": "a\nb", "expected": "c", "hint": "d"}),
        (BudgetError("x", closest=invented.result().after), 5, {"closest": {"bytes": 91_733}}),
        (FormatError("a flip", offset=12), 6, {"offset": 12}),
        (PlisseError("x"), 1, {}),
        (KeyboardInterrupt(), 130, {}),
        (ValueError("surprise"), 1, {}),
    ],
)
def test_errors_are_one_line_an_exit_code_and_json(
    calls: Calls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    details: dict[str, Any],
) -> None:
    monkeypatch.delenv("PLISSE_DEBUG", raising=False)
    monkeypatch.setattr(sys.modules["plisse.compress.compress"], "compress", failing(error))
    out = tmp_path / "a.plisse"
    plain = plisse("compress", "x.plisse", "-o", out)
    assert plain.exit_code == code
    assert plain.stdout == ""
    assert plain.stderr.splitlines()[-1].startswith("error: ")
    assert sum(line.startswith("error") for line in plain.stderr.splitlines()) == 1
    assert ("PLISSE_DEBUG=1" in plain.stderr) == isinstance(error, ValueError)
    machine = plisse("compress", "x.plisse", "-o", out, "--json")
    found = json.loads(machine.stdout)["error"]
    assert found["exit_code"] == machine.exit_code == code
    for name, value in details.items():
        assert found[name] == value if not isinstance(value, dict) else value.items() <= found[name].items()
    assert list(tmp_path.iterdir()) == []


def test_the_traceback_comes_when_asked_for(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLISSE_DEBUG", "1")
    monkeypatch.setattr(sys.modules["plisse.compress.compress"], "compress", failing(ValueError("surprise")))
    done = plisse("compress", "x.plisse", "-o", tmp_path / "a.plisse")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: ValueError: surprise"


def test_an_old_file_stays_when_compression_fails(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.plisse"
    out.write_bytes(b"old")
    monkeypatch.setattr(sys.modules["plisse.compress.compress"], "compress", failing(KeyboardInterrupt()))
    assert plisse("compress", "x.plisse", "-o", out).exit_code == 130
    assert out.read_bytes() == b"old"


def test_weights_for_a_file_that_has_its_own_are_refused(calls: Calls, tmp_path: Path) -> None:
    done = plisse("evaluate", "a.plisse", "--weights", "w.safetensors")
    assert done.exit_code == 2
    assert "holds its own" in done.stderr


def test_profile_wants_each_network_once(calls: Calls) -> None:
    assert plisse("profile", "a.plisse", "a.plisse").exit_code == 2


def test_a_strict_integer_export_refuses_layers_without_an_integer_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recurrent_network.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.lstm, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 10)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.lstm(x.flatten(1, 2))[0][:, -1])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ["export", "recurrent_network:Net", "--onnx", str(tmp_path / "o.onnx"), "--integer", "--strict"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 8, done.output
    assert "lstm" in done.stderr
    assert not (tmp_path / "o.onnx").exists()
