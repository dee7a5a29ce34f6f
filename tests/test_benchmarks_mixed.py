"""The comparison of mixed with uniform widths: its figures on a tiny network, and its table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import mixed_draws as draws
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


def test_draws_are_averaged_before_they_are_compared() -> None:
    """Two images: uniform has one right in each draw, mixed both in one of them."""

    def row(draw: int, uniform: list[int], steps: list[int]) -> draws.Row:
        each = {
            form: draws.packed(torch.tensor(bits, dtype=torch.bool))
            for form, bits in (("uniform", uniform), ("steps", steps))
        }
        return {"draw": draw, "width": 4, "holdout": each, "jpeg": each}

    found = draws.averaged([row(0, [1, 0], [1, 0]), row(1, [1, 0], [1, 1])], {"holdout": 2, "jpeg": 2})
    assert [each["draws"] for each in found] == [2, 2]
    assert found[0]["uniform"] == pytest.approx(0.5)
    assert found[0]["steps"] == pytest.approx(0.75)
    assert found[0]["difference"] == pytest.approx([0.25, 0.0, 0.5])
    assert "| 4 | lossless | 2 | 50.00 | 75.00 | +25.00 [+0.00, +50.00] |" in tables.draws(
        {"averages": found}
    )
