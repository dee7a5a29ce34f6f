"""The main job end to end on a network small enough for a test."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.compress import compress
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.prune.patterns import Channels
from plisse.compress.prune.prune import Prune
from plisse.compress.result import Result
from plisse.compress.step import chain
from plisse.core.batch import BatchList, Inputs, call
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import baked
from plisse.cost.macs import count_macs
from plisse.cost.measure import Timing
from plisse.errors import BudgetError, GraphError, InputError, SavedNothingError, WeightsError
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.evaluate import evaluate
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import Task
from plisse.train.tasks import open_task


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task("digits")


@pytest.fixture(scope="module")
def model(task: Task) -> nn.Module:
    net = open_model("digits_cnn")
    fit(net, task.objective, task.train, steps=60, optimizer=AdamW(lr=3e-3))
    return net.eval()


@pytest.fixture(autouse=True, scope="module")
def still_clock() -> Iterator[None]:
    """Every network takes a second: no test here depends on how busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "plisse.compress.run.interleaved",
            lambda networks, example, repeats: dict.fromkeys(networks, Timing(1.0, 0.1, repeats, 1)),
        )
        yield


@pytest.fixture(scope="module")
def result(model: nn.Module, task: Task) -> Result:
    before = copy.deepcopy(model.state_dict())
    found = compress(model, task, budget="bytes=0.125x")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return found


@pytest.fixture(scope="module")
def rounded(model: nn.Module, task: Task) -> Result:
    return compress(model, task, budget="bytes=0.04x", finetune_steps=0)


def test_the_file_is_within_the_budget_and_keeps_the_score(result: Result) -> None:
    assert len(result.data) == result.after.bytes <= 0.125 * result.before.bytes
    assert result.after.bytes > 0.11 * result.before.bytes  # the budget is spent
    assert result.difference.value >= -0.01


def test_a_fresh_reader_computes_exactly_what_was_reported(result: Result, task: Task) -> None:
    decoded = modelfile.loads(result.data, build)
    assert torch.equal(call(decoded, task.example), call(result.model, task.example))
    assert evaluate(decoded, task).score == result.score_after.score


def test_rows_tell_every_step_and_add_up(result: Result) -> None:
    assert result.steps[0].cost.bytes == result.before.bytes
    assert [row.name.split("(")[0] for row in result.steps[-5:]] == [
        "RateQuantize",
        "Compensate",
        "BiasCorrection",
        "AbsorbStatistics",
        "CompactSmall",
    ]
    assert 0 < result.after.bytes - sum(row.bytes for row in result.tensors) < 1000
    assert sum(point.chosen for point in result.frontier) == 1


def test_the_same_call_writes_the_same_bytes(model: nn.Module, task: Task, result: Result) -> None:
    assert compress(model, task, budget="bytes=0.125x").data == result.data


def test_training_meets_a_tighter_budget_than_rounding_alone(
    model: nn.Module, task: Task, rounded: Result
) -> None:
    trained = compress(model, task, budget="bytes=0.04x", finetune_steps=60)
    assert trained.after.bytes <= 0.04 * trained.before.bytes
    assert trained.score_after.score >= rounded.score_after.score
    assert trained.difference.value >= -0.02


def test_by_default_a_budget_trains_where_outputs_diverge_without(
    model: nn.Module, task: Task, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plisse.compress.compress.BATCHES", 40)
    trained = compress(model, task, budget="bytes=0.04x")
    names = [row.name.split("(")[0] for row in trained.steps]
    assert names.count("FineTune") == 1
    assert not any(row.name.startswith("FineTune") for row in result.steps)
    assert "FineTune" in trained.record["recipe"]
    assert trained.after.bytes <= 0.04 * trained.before.bytes


def test_training_that_leads_away_is_not_kept(
    model: nn.Module, task: Task, rounded: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plisse.compress.compress.BATCHES", 3)
    away = compress(model, task, budget="bytes=0.04x", finetune_lr=100.0)
    assert away.data == rounded.data
    assert [row.name for row in away.steps] == [row.name for row in rounded.steps]


def test_by_default_nothing_is_trained_without_anything_to_train_on(
    model: nn.Module, task: Task, rounded: Result
) -> None:
    alone = dataclasses.replace(task, train=BatchList(()))
    assert compress(model, alone, budget="bytes=0.04x").data == rounded.data


@pytest.mark.slow
def test_a_budget_on_macs_cuts_channels_and_the_file_rebuilds_them(model: nn.Module, task: Task) -> None:
    result = compress(model, task, budget="macs=0.6x, bytes=0.2x")
    assert result.after.macs <= 0.6 * result.before.macs
    assert modelfile.summary(result.data).edits
    assert torch.equal(
        call(modelfile.loads(result.data, build), task.example), call(result.model, task.example)
    )


def by_macs(
    networks: dict[str, nn.Module], example: Inputs, repeats: int, warmup: int = 0
) -> dict[str, Timing]:
    """A clock that needs a nanosecond for a multiply-add."""
    return {
        name: Timing(1e-9 * count_macs(baked(net), example), 0.0, repeats, 1)
        for name, net in networks.items()
    }


def test_a_budget_on_time_cuts_channels_and_folds_norms(
    model: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plisse.compress.run.interleaved", by_macs)
    monkeypatch.setattr("plisse.compress.structure.interleaved", by_macs)
    result = compress(model, task, budget="latency=0.6x", finetune_steps=30)
    assert result.before.latency is not None
    assert result.after.latency is not None
    assert 0.3 * result.before.latency < result.after.latency <= 0.6 * result.before.latency
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.model.modules())
    assert result.difference.value >= -0.05


def test_an_impossible_budget_names_the_closest(model: nn.Module, task: Task) -> None:
    with pytest.raises(BudgetError, match="smallest file") as caught:
        compress(model, task, budget="bytes=100B")
    assert isinstance(caught.value.closest, (int, float))
    assert caught.value.closest > 100


def test_a_step_that_saves_nothing_is_marked_and_strict_refuses_it(model: nn.Module, task: Task) -> None:
    recipe = chain(FoldBatchNorm(), FoldBatchNorm())
    rows = compress(model, task, recipe=recipe).steps
    assert rows[-1].saved_nothing
    with pytest.raises(SavedNothingError, match="FoldBatchNorm"):
        compress(model, task, recipe=recipe, strict=True)


def test_a_recipe_of_channels_saves_bytes(model: nn.Module, task: Task) -> None:
    result = compress(model, task, recipe=Prune(sparsity=0.5, pattern=Channels()))
    assert result.after.bytes < 0.6 * result.before.bytes
    assert result.after.macs < 0.6 * result.before.macs


def test_neither_budget_nor_recipe_is_refused(model: nn.Module, task: Task) -> None:
    with pytest.raises(InputError, match="neither"):
        compress(model, task)


def test_a_network_that_the_task_does_not_fit_is_refused(task: Task) -> None:
    with pytest.raises(InputError, match="cannot take"):
        compress(open_model("resnet20"), task, budget="bytes=0.1x")


@pytest.mark.parametrize("part", ["holdout", "calibration", "train"])
def test_a_part_of_the_task_that_is_empty_is_named_before_any_work(
    part: str, model: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plisse.compress.compress.evaluate", lambda *_: pytest.fail("the work has begun"))
    empty = dataclasses.replace(task, **{part: BatchList(())})
    with pytest.raises(InputError, match=f"'digits' with an empty {part}"):
        compress(model, empty, budget="bytes=0.5x", finetune_steps=1)


def test_nan_is_refused_before_any_work(model: nn.Module, task: Task) -> None:
    broken = copy.deepcopy(model)
    broken.fc2.weight.data[0, 0] = float("nan")
    with pytest.raises(WeightsError, match="fc2"):
        compress(broken, task, budget="bytes=0.1x")


def test_a_network_of_unknown_origin_is_refused_with_the_way_out(task: Task) -> None:
    with pytest.raises(GraphError, match="with_origin"):
        compress(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), task, budget="bytes=0.5x")


def small_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_a_factory_network_needs_to_be_allowed(task: Task) -> None:
    name = f"{__name__}:small_linear"
    model = with_origin(small_linear(), Origin("factory", name))
    with pytest.raises(InputError, match="--allow"):
        compress(model, task, budget="bytes=0.5x")
    assert compress(model, task, budget="bytes=0.5x", allow=(name,)).ratio >= 2
