from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from plisse.core.batch import Batch, BatchList
from plisse.errors import FormatError, InputError, WeightsError
from plisse.train.history import History
from plisse.train.loop import State, fit
from plisse.train.objectives import weighted
from plisse.train.optimizers import SGD
from plisse.train.processes import launch, share
from plisse.train.task import cross_entropy


def batches(bad: bool = False) -> BatchList:
    generator = torch.Generator().manual_seed(0)
    items = []
    for size in (8, 7, 8):
        inputs = torch.randn(size, 5, generator=generator)
        target = torch.randint(3, (size,), generator=generator)
        items.append(Batch(inputs * float("nan") if bad else inputs, target))
    return BatchList(tuple(items))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))


def zero_first_row(state: State) -> None:
    with torch.no_grad():
        state.model[0].weight[0].zero_()


def train(devices: int, checkpoint: Path | None = None) -> tuple[nn.Module, History]:
    model = network().eval()
    objective = weighted((0.7, cross_entropy), (0.3, cross_entropy))  # calls the network twice in one step
    history = fit(
        model,
        objective,
        batches(),
        steps=10,
        optimizer=SGD(lr=0.1),
        devices=devices,
        accelerator="cpu",
        checkpoint=checkpoint,
        checkpoint_every=4,
        hooks=(zero_first_row,),
        log_every=2,
    )
    return model, history


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, expected = train(1)
    two, history = train(2, tmp_path / "run.safetensors")
    for name, value in one.state_dict().items():
        assert torch.allclose(two.state_dict()[name], value, atol=1e-5, rtol=0), name
    assert not torch.equal(two[3].weight, network()[3].weight)
    assert not two.training
    assert history.devices == 2
    assert [row.step for row in history.rows] == [2, 4, 6, 8, 10]
    assert [row.loss for row in history.rows] == pytest.approx(
        [r.loss for r in expected.rows if r.step % 2 == 0]
    )
    again, found = train(2, tmp_path / "run.safetensors")
    assert torch.equal(again[0].weight, two[0].weight)
    assert found == history


def raises(fabric: Fabric) -> None:
    raise WeightsError("nan in step 7", expected="finite losses", hint="a lower rate")


def breaks(fabric: Fabric) -> None:
    raise FormatError("a cut file", offset=7)


class Aborts:
    """Starts processes that end before they can hand over what they return."""

    global_rank = 0
    world_size = 1

    def launch(self, work: Callable[[object], object]) -> None:
        work(self)
        raise RuntimeError("process 0 terminated with signal SIGABRT")


def test_an_error_survives_a_process_that_aborts() -> None:
    with pytest.raises(WeightsError, match="nan in step 7"):
        launch(Aborts(), raises)  # type: ignore[arg-type]
    with pytest.raises(FormatError) as found:
        launch(Aborts(), breaks)  # type: ignore[arg-type]
    assert str(found.value) == "got a cut file at byte 7"
    assert found.value.offset == 7
    with pytest.raises(RuntimeError, match="SIGABRT"):
        launch(Aborts(), lambda fabric: None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_error_in_a_process_is_raised_here() -> None:
    with pytest.raises(WeightsError, match="nan in step 0"):
        fit(network(), cross_entropy, batches(bad=True), steps=3, devices=2, accelerator="cpu")


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(InputError, match="another process"):
        fit(network(), lambda m, b: cross_entropy(m, b), batches(), steps=1, devices=2, accelerator="cpu")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_cover_the_batch_once_and_weights_give_its_mean(world: int) -> None:
    batch = Batch({"a": torch.arange(14.0), "b": torch.arange(28).reshape(14, 2)}, torch.arange(7))
    pieces = [share(batch, rank, world) for rank in range(world)]
    for key in ("a", "b"):
        assert torch.equal(torch.cat([piece.inputs[key] for piece, _ in pieces]), batch.inputs[key])
    assert torch.equal(torch.cat([piece.target for piece, _ in pieces]), batch.target)
    mean = sum(float(piece.target.float().mean()) * weight for piece, weight in pieces) / world
    assert mean == pytest.approx(3.0)


def test_tuples_and_batches_without_targets_are_cut_too() -> None:
    piece, weight = share(Batch((torch.arange(6), torch.arange(6) * 10)), 1, 2)
    assert [tensor.tolist() for tensor in piece.inputs] == [[3, 4, 5], [30, 40, 50]]
    assert (piece.target, weight) == (None, 1.0)


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(InputError, match="1 samples for 2"):
        share(Batch(torch.zeros(1, 3)), 0, 2)


@pytest.mark.parametrize(
    "error", [InputError("a", expected="b", hint="c"), FormatError("bad bytes", offset=7, expected="x")]
)
def test_errors_keep_their_parts_on_the_way(error: InputError | FormatError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
