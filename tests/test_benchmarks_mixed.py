"""The comparison of mixed with uniform widths: its figures on a tiny network, and its table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import draws
from benchmarks import mixed_precision as mixed
from benchmarks import mixed_tables as tables
from plisse.compress.quantize.mixed.sensitivity import Perturbation
from plisse.compress.quantize.rounding import GPTQ
from plisse.compress.quantize.small import CompactSmall
from plisse.core.batch import Batch, BatchList
from plisse.train.task import Task, classification


@pytest.fixture(scope="module")
def subject() -> mixed.Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4)).eval()
    how = replace(mixed._how(GPTQ(samples=64), 1, 0), bits=(2, 3, 4), sensitivity=Perturbation(1))
    task = task_of(model)
    return mixed.Subject(CompactSmall()(model, task), task, (3,), how, mixed.kl_per_sample, "holdout")


def task_of(model: nn.Module) -> Task:
    batches = []
    for seed in range(2):
        inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            batches.append(Batch(inputs, model(inputs).argmax(-1)))
    found = BatchList(tuple(batches))
    return classification("made", batches[0].inputs, found, found, found)


def test_a_row_compares_at_equal_bytes(subject: mixed.Subject) -> None:
    arms, holdout = mixed.Arms(subject), mixed.Holdout(subject, subject.task.holdout)
    found = mixed.row(arms, (holdout, holdout), {"network": "made", "width": 3}, mixed.ARMS)
    size = found["uniform"]["bytes"]
    assert found["chosen"] in ("widths", "steps")
    for name in ("widths", "steps"):
        assert found[name]["bytes"] <= size
        value, low, high = found[name]["divergence_difference"]
        assert low <= value <= high
        assert found[name]["larger"]["score"] == found[name]["score"]
        assert value == pytest.approx(found[name]["divergence"] - found["uniform"]["divergence"])
    assert found["uniform"]["fidelity"] == pytest.approx(found["uniform"]["score"], abs=0.05)  # own labels
    own = holdout(subject.model)
    assert own["fidelity"].score == 1
    assert own["divergence"].score == pytest.approx(0, abs=1e-6)


def test_distances_of_samples() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [5.0, 0.0]])
    assert mixed.squared_distance(a, b).tolist() == [0.0, 2.0]
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert mixed.kl_per_sample(logits, logits + 3).abs().max() < 1e-6
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=logits)
    )
    torch.testing.assert_close(mixed.kl_per_sample(a, logits), expected)


def test_the_table_counts_what_is_better() -> None:
    def arm(score: float, low: float, high: float) -> dict[str, object]:
        names = ("score", "fidelity", "divergence")
        found: dict[str, object] = dict.fromkeys(names, score) | {
            f"{name}_difference": [(low + high) / 2, low, high] for name in names
        }
        return {"bytes": 90, **found, "larger": {**found, "score_difference": [0.3, 0.2, 0.4]}}

    same = {"score": 0.8, "fidelity": 0.8, "divergence": 0.8}
    plain = {"bytes": 100, **same, "larger": same}
    row = {"network": "minilm", "width": 4, "uniform": plain, "chosen": "steps", "steps": arm(0.9, 0.1, 0.2)}
    other = {**row, "width": 3, "chosen": "widths", "widths": arm(0.7, -0.2, 0.1), "steps": {"error": "none"}}
    text = tables.section({"rows": [row, other]})
    assert "| minilm | 4 | **steps** | holdout | 90 | 0.9000 | +0.1500 [+0.1000, +0.2000] |" in text
    assert "score in 1 of 2 rows (1 surely, 0 surely worse)" in text
    assert "score in 2 of 2 rows (2 surely, 0 surely worse)" in text
    assert "divergence in 1 of 2 rows (0 surely, 1 surely worse)" in text


def test_the_table_tells_what_steps_save_at_equal_divergence() -> None:
    def row(width: int, uniform: tuple[int, float], steps: tuple[int, float]) -> dict[str, object]:
        pairs = {"uniform": uniform, "steps": steps}
        return {"network": "n", "width": width} | {
            form: {"bytes": size, "divergence": lost} for form, (size, lost) in pairs.items()
        }

    rows = [row(3, (100, 0.1), (100, 0.01)), row(2, (50, 0.4), (50, 0.1))]
    assert tables._saved(rows) == (
        "Bytes of steps at the divergence of one width, interpolated: n 3 bits -50 %.\n"
    )
    assert tables._saved(rows[:1]) == ""


def test_draws_are_averaged_before_they_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two files of every form: the first has all samples right, the other all but one in one of them."""
    judge = draws.Judge("resnet20")
    made = nn.Linear(16, 4)
    task = task_of(made)
    vars(judge).update(original=made, task=task, sets={"holdout": task.holdout, "larger": task.holdout})

    def maker(network: str, draw: int, at: float) -> Iterator[tuple[str, draws.Made]]:
        yield "steps", (made, 90 + draw)
        yield "uniform", (made if draw else Turned(made), 100)

    monkeypatch.setattr(draws, "MAKERS", {"mixed": maker})
    monkeypatch.setattr(draws.tempfile, "gettempdir", lambda: str(tmp_path))
    found = draws.row(judge, "mixed", 4, (0, 1))
    assert found["bytes"] == {"steps": [90, 91], "uniform": [100, 100]}
    value, low, high = found["holdout"]["first_minus"]["score"]["uniform"]
    wrong = 1 / 64
    assert found["holdout"]["score"] == pytest.approx({"steps": 1.0, "uniform": 1 - wrong / 2})
    assert value == pytest.approx(wrong / 2)
    assert low <= value <= high
    monkeypatch.setattr(draws, "MAKERS", {})
    assert draws.row(judge, "mixed", 4, (0, 1)) == found
    text = tables.draws({"rows": [found]})
    assert "| resnet20 | 4 bits | holdout | 2 | 100.00 | steps | 100.00 | uniform | 99.22 | +0.78 [" in text


class Turned(nn.Module):
    """The first sample of every second batch is put into another class."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.count = inner, 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.inner(inputs).clone()
        self.count += 1
        if self.count % 2:
            outputs[0] = -outputs[0]
        return outputs
