"""The benchmark beside other tools: its networks are ours, and what a worker reports is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.peers import networks, tables
from benchmarks.peers.__main__ import measured, merged
from benchmarks.peers.prepare import Reference
from benchmarks.peers.score import ContractError, Report, ranked, read
from plisse.networks.resnet import resnet20

PEERS = Path(networks.__file__).parent
LABELS = np.array([3, 0, 3, 3])
WORKER = """
import sys
sys.path.insert(0, {peers!r})
import numpy as np
from worker import Case, Made, Setting, main

def constant(folder, files):
    print("noise of a tool")
    return Made(lambda images: np.eye(10, dtype=np.float32)[np.full(len(images), 3)], 1000, "a file")

def broken(folder, files):
    raise ValueError("no such kernel")

main(
    [
        Case(Setting("resnet20", "W4A32", 4, 32, "constant"), constant),
        Case(Setting("resnet20", "W2A32", 2, 32, "broken"), broken),
    ],
    ("numpy",),
)
"""


def references() -> dict[str, Reference]:
    return {"resnet20": Reference(LABELS, 8000)}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "resnet20"
    folder.mkdir()
    np.savez(folder / "test.npz", images=np.zeros((4, 3, 32, 32), np.float32))
    (folder.parent / "job.json").write_text(json.dumps({"networks": ["resnet20"], "small": True}))
    return folder.parent


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def lines(job: Path, out: Path) -> str:
    """What a made-up worker prints."""
    script = job / "made_up_worker.py"
    script.write_text(WORKER.format(peers=str(PEERS)))
    command = [sys.executable, str(script), str(job), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_network_is_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = resnet20()
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    save_file(ours.state_dict(), tmp_path / "weights.safetensors")
    theirs = networks.resnet20(tmp_path)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected, found = ours.eval()(images), theirs(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_outputs_keep_the_order_of_the_sentences(tmp_path: Path) -> None:
    lengths = np.array([5, 1, 3, 2, 4])
    tokens = np.zeros((5, 5), np.int32)
    tokens[:, 0] = np.arange(5)
    np.savez(tmp_path / "test.npz", tokens=tokens, lengths=lengths)
    found = networks.run(lambda ids, mask, types: np.stack([ids[:, 0], mask.sum(1)], 1), tmp_path)
    assert found.tolist() == [[i, length] for i, length in enumerate(lengths)]


def test_packed_bytes_of_one_layer() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 8))
    assert networks.packed_bytes(model, 4) == 64 * 8 // 2 + 8 * 4 + 8 * 4
    assert networks.packed_bytes(model, 4, group=32) == 64 * 8 // 2 + 16 * 2 + 8 * 4


def test_worker_reports_scores_and_errors(lines: str, out: Path) -> None:
    assert "noise" not in lines
    report = read("made_up", lines, out, references())
    good, bad = report.rows
    assert report.versions == {"numpy": np.__version__}
    assert (good["score"], good["bytes"], good["ratio"]) == (75.0, 1000, 8.0)
    assert bad["error"] == "ValueError: no such kernel"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bytes", 0),
        ("bytes", None),
        ("weight_bits", 64),
        ("network", "vgg"),
        ("outputs", "missing.npz"),
        ("seconds", "fast"),
    ],
)
def test_broken_line_is_refused(lines: str, out: Path, field: str, value: object) -> None:
    line = json.loads(lines.splitlines()[1])
    line[field] = value
    with pytest.raises(ContractError):
        read("made_up", json.dumps(line), out, references())


def test_outputs_of_too_few_samples_are_refused(lines: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", outputs=np.zeros((3, 10), np.float32))
    with pytest.raises(ContractError, match="4 samples"):
        read("made_up", lines, tmp_path, references())


def test_missing_environment_is_reported(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLISSE_PEERS", raising=False)
    assert measured("torchao", job, references(), 1)[1] == "PLISSE_PEERS is not set"
    monkeypatch.setenv("PLISSE_PEERS", str(tmp_path))
    report, reason = measured("torchao", job, references(), 1)
    assert report.rows == ()
    assert reason is not None
    assert "no environment torchao" in reason


def test_rows_are_ranked_and_replaced_by_tool() -> None:
    def row(tool: str, score: float) -> dict[str, object]:
        width = {"setting": "W4A32", "weight_bits": 4, "activation_bits": 32}
        return {"tool": tool, "network": "resnet20", "score": score, **width}

    rows = ranked([row("a", 80.0), row("b", 90.0)], {"resnet20": 92.0})
    assert [(r["tool"], r["rank"], r["score_drop"]) for r in rows] == [("b", 1, 2.0), ("a", 2, 12.0)]
    again = merged({"rows": rows}, "a", Report({}, (row("a", 91.0),)), None, {"resnet20": 92.0})
    assert [(r["tool"], r["score"]) for r in again["rows"]] == [("a", 91.0), ("b", 90.0)]


def test_some_rows_of_a_tool_are_replaced_and_the_others_kept() -> None:
    def row(method: str, score: float) -> dict[str, object]:
        width = {"setting": "W4A32", "weight_bits": 4, "activation_bits": 32}
        return {"tool": "a", "network": "resnet20", "method": method, "score": score, **width}

    old = {"rows": [row("one", 80.0), row("two", 81.0)], "tools": {"a": {"versions": {}, "ended": "late"}}}
    again = merged(old, "a", Report({"x": "1"}, (row("two", 90.0),)), None, {"resnet20": 92.0}, some=True)
    assert [(r["method"], r["score"]) for r in again["rows"]] == [("two", 90.0), ("one", 80.0)]
    assert again["tools"]["a"] == {"versions": {"x": "1"}, "ended": "late"}


def test_ours_stands_beside_others_within_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mine(method: str, score: float, size: int) -> dict[str, object]:
        return {"setting": "W4", "method": method, "score": score, "bytes": size}

    rows = [mine("small", 0.90, 100), mine("large", 0.95, 300)]
    (tmp_path / "quantization_resnet20.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    theirs = {
        "network": "resnet20",
        "setting": "W4A32",
        "weight_bits": 4,
        "activation_bits": 32,
        "method": "m",
    }
    packed = {**theirs, "tool": "a", "score": 92.0, "bytes": 400, "packed_bytes": 200}
    wide = {**theirs, "tool": "b", "score": 94.0, "bytes": 400, "packed_bytes": None}
    other = {**wide, "tool": "c", "setting": "W2A32", "weight_bits": 2}
    text = tables.section({"rows": [packed, wide, other]})
    assert "| a | m | 92.00 | 400 | 200 | small | 90.00 | 100 |" in text
    assert "| b | m | 94.00 | 400 |  | large | 95.00 | 300 |" in text
    assert "not measured" in text
    assert "in 1 of 2 comparisons; not beside a resnet20 W4A32." in text
