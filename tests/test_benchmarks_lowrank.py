"""What the benchmarks of low rank and of the joint default compute themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import joint, joint_samples
from benchmarks.lowrank import peers, tables, unseen
from plisse.core.batch import Batch, BatchList
from plisse.data.text import TextBatches
from plisse.train.evaluate import evaluate
from plisse.train.task import Task, classification, outputs_on


def task() -> Task:
    torch.manual_seed(0)
    batches = BatchList(tuple(Batch(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def test_divergences_of_single_samples_average_to_that_of_the_batch() -> None:
    first, second, given = nn.Linear(4, 3), nn.Linear(4, 3), task()
    reference = outputs_on(first, given.holdout)
    outputs = outputs_on(second, given.holdout)
    found = joint_samples.diverging(given, reference, outputs)
    pairs = zip(reference, outputs, strict=True)
    assert found.shape == (16,)
    assert found.mean() == pytest.approx(np.mean([float(given.divergence(a, b)) for a, b in pairs]), rel=1e-4)
    assert joint_samples.diverging(given, reference, reference) == pytest.approx(np.zeros(16), abs=1e-6)


def test_paired_differences_have_their_sign() -> None:
    low, high = np.linspace(0.001, 0.01, 50), np.linspace(0.002, 0.02, 50)
    value, below, above = joint_samples.difference(high, low)
    assert value == pytest.approx(float((high - low).mean()), rel=0.01)
    assert 0 < below < value < above


def test_figures_of_a_set_are_paired_with_the_original_and_with_joint() -> None:
    given = task()
    networks = [nn.Linear(4, 3) for _ in range(3)]
    original = joint_samples.seen(networks[0], given, given.holdout)
    first, second = (joint_samples.seen(each, given, given.holdout, original) for each in networks[1:])
    found = joint_samples.figures(given, second, original, first)
    assert found["samples"] == 16
    assert found["score"] == pytest.approx(evaluate(networks[2], given).score)
    assert found["difference"][0] == pytest.approx(found["score"] - found["score_before"])
    assert found["joint_minus_this"][0] == pytest.approx(first.evaluation.score - found["score"])
    other = joint_samples.figures(given, first, original, None)
    assert found["agreement_joint_minus_this"][0] == pytest.approx(other["agreement"] - found["agreement"])
    assert found["beyond_joint"][0] == pytest.approx(found["divergence"] - other["divergence"])
    assert joint_samples.figures(given, original, original, None)["agreement"] == 1.0


def test_pairs_that_share_a_sentence_with_calibration_are_left_out() -> None:
    first = [[i, 1] for i in range(20)]
    second = [[i, 2] for i in range(20)]
    pairs = TextBatches((first, second), np.arange(20.0), 4, shuffle=True)
    calibration = TextBatches(([[3, 1], [7, 2]],))
    given = dataclasses.replace(task(), train=pairs, calibration=calibration)
    left = joint_samples.untouched(given)
    assert sorted(left.targets) == [i for i in range(20) if i not in (3, 7)]  # type: ignore[arg-type]
    assert all(left.parts[0][i] == [int(left.targets[i]), 1] for i in range(18))  # type: ignore[index]
    assert len(joint_samples.untouched(given, 5).parts[1]) == 5


def test_rows_are_made_once_and_scored_beside_joint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    case = tiny_case()
    calls: list[str] = []

    def technique(name: str, data: bytes | None) -> Callable[..., bytes | None]:
        def make(model: nn.Module, given: Task, bound: float) -> bytes | None:
            calls.append(name)
            return data

        return make

    files = {"joint": b"abc", "pruning": b"de", "quantization": None}
    monkeypatch.setattr(joint, "TECHNIQUES", {name: technique(name, data) for name, data in files.items()})
    monkeypatch.setattr(joint.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(joint.Case, "answers", lambda self, name: self.original)
    rows = {row["technique"]: row for row in joint.rows(case, {})}
    assert calls == list(files)
    assert rows["joint"]["bytes"] == 3
    assert "sets" not in rows["quantization"]
    assert rows["pruning"]["sets"]["holdout"]["joint_minus_this"] == [0.0, 0.0, 0.0]
    known = {name: rows[name] for name in ("joint", "pruning")}
    assert list(joint.rows(case, known)) == [rows["quantization"]]
    assert calls == [*files, "quantization"]
    assert len(list(joint.rows(case, rows, rescored=True))) == 3
    assert calls == [*files, "quantization"]
    (alone,) = joint.rows(case, {}, ["pruning"])
    assert "joint_minus_this" not in alone["sets"]["holdout"]
    assert [row["technique"] for row in joint.rows(case, {**rows, "pruning": alone})] == ["pruning"]
    case.place("joint").unlink()
    assert [row["technique"] for row in joint.rows(case, rows)] == ["joint"]


def tiny_case() -> joint.Case:
    given = task()
    model = nn.Linear(4, 3)
    return joint.Case("resnet20", 20.0, model, given, {"holdout": given.holdout})


def test_the_least_share_that_is_admitted_is_found() -> None:
    def cut(share: float) -> nn.Module:
        return nn.Linear(1, max(1, round(1000 * (1 - share))), bias=False)

    share = peers.bisected(cut, lambda network: network.weight.numel() <= 400)  # type: ignore[union-attr,operator]
    assert share == pytest.approx(0.6, abs=0.01)
    assert share is not None
    assert share >= 0.6 - 1e-3
    assert peers.bisected(cut, lambda network: False) is None


def test_a_technique_that_does_not_fit_says_so() -> None:
    row = {"network": "resnet20", "ratio": 20.0, "technique": "quantization", "processor_seconds": 3.2}
    figures = {
        "score": 0.5, "difference": [-0.4, -0.5, -0.3], "agreement": 0.51, "divergence": 1.25,
        "joint_minus_this": [0.2, 0.1, 0.3], "agreement_joint_minus_this": [0.1, 0.05, 0.15],
        "beyond_joint": [1.0, 0.9, 1.1],
    }  # fmt: skip
    fits = {**row, "technique": "low rank", "bytes": 54321, "sets": {"holdout": figures, "val": figures}}
    text = tables.joint({"rows": [row, fits]})
    assert text.count("| resnet20 | 20x | quantization | does not fit |") == 1
    assert "| 54,321 | 50.00 | -40.00 [-50.00, -30.00] | +20.00 [+10.00, +30.00] | 51.00 |" in text
    assert "| 1250.00 | +1000.00 [+900.00, +1100.00] | 3 |" in text
    assert text.count("\n| resnet20 | 20x | low rank |") == 2
    width = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(width) == 1


def test_the_search_is_set_beside_the_best_other_selector() -> None:
    def row(selector: str, accuracy: float, ahead: float) -> dict[str, object]:
        beside = [ahead, ahead - 0.01, ahead + 0.01]
        about = {"selector": selector, "ratio": 0.4, "accuracy": accuracy, "cpu_seconds": 1.0}
        return {**about, "beam_minus_this": beside}

    rows = [row("uniform", 0.5, 0.4), row("energy", 0.8, 0.1), row("beam search", 0.9, 0.0)]
    network = {"network": "resnet20", "whitened": False, "rows": rows}
    text = tables.selectors({"networks": [network], "law": []})
    assert "| search - best other | +10.00 [+9.00, +11.00] |" in text


def test_ranks_are_set_beside_those_of_the_search_on_other_images() -> None:
    given = task()
    networks = [nn.Linear(4, 3) for _ in range(3)]
    original = joint_samples.seen(networks[0], given, given.holdout)
    search, other = (joint_samples.seen(each, given, given.holdout, original) for each in networks[1:])
    about = {"network": "resnet56", "ratio": 0.4}
    rows = [
        unseen.row({**about, "selector": "beam search", "calibration_loss": 0.02}, search, original, search),
        unseen.row({**about, "selector": "uniform"}, other, original, search),
    ]
    assert rows[1]["beyond_search"][0] == pytest.approx(rows[1]["divergence"] - rows[0]["divergence"])
    ahead = rows[0]["agreement"] - rows[1]["agreement"]
    assert rows[1]["agreement_search_minus_this"][0] == pytest.approx(ahead)
    text = tables.unseen({"rows": rows})
    assert f"| resnet56 | 40 % | uniform |  | {rows[1]['divergence']:.3f} |" in text
    assert "| beam search | 0.020 |" in text
