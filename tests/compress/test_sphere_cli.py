"""Canonicalize in a recipe, through the command line: what is refused, and what is said of what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plisse.cli.main import app

NETWORKS = """
from dataclasses import replace
import torch
from torch import nn
from plisse.core.batch import BatchList
from plisse.train.tasks import open_task

def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10, bias=False))
    with torch.no_grad():
        made[1].bias[:3] = 50  # always active
        made[1].weight[3], made[1].bias[3] = 0, 2  # constant
    return made

class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(12, 64)), nn.Parameter(torch.randn(10, 12))

    def forward(self, x):
        return torch.relu(x.flatten(1) @ self.first.T) @ self.second.T

def sines():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), Sine(), nn.Linear(12, 10))

def without_calibration(folder=None):
    return replace(open_task("digits"), calibration=BatchList(()))
"""
BOX = {"type": "Box", "low": 0.0, "high": 1.0}


@pytest.fixture
def compress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "sphere_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)

    def run(network: str, domain: dict[str, Any] | None, *arguments: str) -> Any:
        step = {"type": "Canonicalize", **({"domain": domain} if domain else {})}
        (tmp_path / "r.yaml").write_text(json.dumps([step]).replace("-Infinity", "-.inf"))
        command = ["compress", f"sphere_networks:{network}", "--recipe", str(tmp_path / "r.yaml")]
        out = tmp_path / "o.plisse"
        form = () if "--text" in arguments else ("--json",)
        rest = [argument for argument in arguments if argument != "--text"]
        done = CliRunner().invoke(app, [*command, "-o", str(out), *form, *rest])
        assert out.exists() == (done.exit_code == 0)
        return done.exit_code, json.loads(done.stdout) if form else done.stdout

    return run


@pytest.mark.parametrize(
    ("network", "domain", "arguments", "code", "words"),
    [
        ("network", {"type": "Box", "low": float("-inf")}, (), 2, "unbounded domain"),
        ("network", None, ("--task", "sphere_networks:without_calibration"), 2, "no calibration batch"),
        ("network", {"type": "Box", "low": 0.0, "high": 0.1}, (), 2, "an example with values from 0 to 1"),
        ("Functional", BOX, (), 4, "no scale can move"),
        ("sines", BOX, (), 4, "no scale can move"),
    ],
    ids=["infinite", "no data", "outside", "not followed", "sines"],
)
def test_what_cannot_be_done_is_one_line_and_no_file(
    compress: Any, network: str, domain: Any, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, said = compress(network, domain, *arguments)
    assert found == code
    assert words in said["error"]["came"]
    assert said["error"]["expected"]
    assert said["error"]["hint"]


def test_a_bias_that_is_added_is_named_in_the_notes(compress: Any) -> None:
    code, said = compress("network", BOX)
    assert code == 0
    notes = said["steps"][1]["notes"]
    assert notes[0].startswith("exact for inputs in Box")
    assert any("'3' got a bias" in note and "1 constant" in note for note in notes)
    assert said["score_after"]["score"] == pytest.approx(said["score_before"]["score"])


def test_domains_without_a_box_need_no_calibration_data(compress: Any) -> None:
    code, said = compress("network", {"type": "Unbounded"}, "--task", "sphere_networks:without_calibration")
    assert code == 0
    assert said["steps"][1]["notes"][0] == "exact for all inputs"


def test_the_notes_are_printed_below_the_table(compress: Any) -> None:
    code, said = compress("network", BOX, "--text")
    assert code == 0
    assert said.count("exact for inputs in Box") == 1
    assert "'3' got a bias" in said
