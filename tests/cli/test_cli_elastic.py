from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from plisse.adapt.opened import is_elastic_file, open_elastic
from plisse.cli.main import app
from plisse.cli.train import numbers
from plisse.errors import InputError


def plisse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_one_file_is_trained_inspected_cut_and_inspected_again(tmp_path: Path) -> None:
    out, cut = tmp_path / "nets.plisse", tmp_path / "cut.plisse"
    done = plisse(
        "train",
        "subspace",
        "digits_cnn",
        "-o",
        out,
        "--points",
        "0.25,0.5,1",
        "--steps",
        2,
        "--store",
        8,
        "--json",
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["points"]
    assert [row["point"] for row in rows] == ["width=0.25", "width=0.5", "width=1"]
    assert all(0 <= row["score"] <= 1 for row in rows)
    assert is_elastic_file(out)
    assert [str(point) for point in open_elastic(out).space.points] == [row["point"] for row in rows]
    assert rows[-1]["usable_from"] < 70_000  # 53,098 weights
    shown = plisse("inspect", out)
    assert shown.exit_code == 0
    assert "3 operating points" in shown.stdout
    assert f"width=0.5  usable from byte {rows[1]['usable_from']:,}" in shown.stdout
    cut.write_bytes(out.read_bytes()[: rows[2]["usable_from"] - 1])
    short = plisse("inspect", cut, "--json")
    assert [row["usable_from"] for row in json.loads(short.stdout)["points"]] == [
        rows[0]["usable_from"], rows[1]["usable_from"], None
    ]  # fmt: skip
    assert "ends early" in plisse("inspect", cut).stderr
    refused = plisse("evaluate", out)
    assert refused.exit_code == 6
    assert "plisse select" in refused.stderr


def test_training_goes_on_from_its_checkpoint_and_tells_how_far_it_is(tmp_path: Path) -> None:
    out, kept = tmp_path / "nets.plisse", tmp_path / "checkpoint"
    words = (
        "train",
        "subspace",
        "digits_cnn",
        "--points",
        "0.5,1",
        "--steps",
        8,
        "--checkpoint",
        kept,
        "-o",
        out,
    )
    first = plisse(*words)
    assert first.exit_code == 0, first.output
    assert "training: batch 4 of 8, loss" in first.stderr.replace("\n", " ")
    written = out.read_bytes()
    again = plisse(*words)
    assert again.exit_code == 0, again.output
    assert "batch" not in again.stderr, "nothing was left to train"
    assert out.read_bytes() == written
    other = plisse(*[9 if word == 8 else word for word in words])
    assert other.exit_code == 2
    assert "checkpoint" in other.stderr


def test_all_points_learn_from_a_teacher(tmp_path: Path) -> None:
    ways = ((), ("--teacher",), ("--teacher", "--distill", "0.5"))
    answers = []
    for how in ways:
        out = tmp_path / f"{len(how)}.plisse"
        asked = ("--points", "0.5,1", "--steps", "2", *how)
        done = plisse("train", "subspace", "digits_cnn", "-o", out, *asked)
        assert done.exit_code == 0, done.output
        opened = open_elastic(out)
        network = opened.extract(opened.space.largest)
        answers.append(network.eval()(torch.ones(1, 1, 8, 8)))
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(answers, 2))


def test_help_teaches_by_examples() -> None:
    shown = plisse("train", "subspace", "--help")
    assert shown.exit_code == 0
    assert "plisse train subspace digits_cnn" in shown.stdout
    assert "subspace" in plisse("train", "--help").stdout
    assert "train" in plisse("--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--points", "0.5,half"),
        ("--points", "0.5,1.5"),
        ("--axis", "bits", "--points", "3,4.5"),
        ("--axis", "bits", "--points", "3,5"),
        ("--axis", "sparsity", "--points", "1.0"),
        ("--axis", "bits", "--store", "8"),
    ],
    ids=str,
)
def test_bad_points_are_refused_before_training(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = plisse("train", "subspace", "digits_cnn", "-o", tmp_path / "a.plisse", *arguments)
    assert done.exit_code == 2, done.output
    assert not (tmp_path / "a.plisse").exists()


def test_numbers() -> None:
    assert numbers("0.25, 1") == [0.25, 1.0]
    with pytest.raises(InputError, match="half"):
        numbers("1,half")
