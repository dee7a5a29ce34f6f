from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from plisse.core.batch import Batch, BatchList
from plisse.errors import InputError, OutputError
from plisse.train.history import History
from plisse.train.loop import State, fit
from plisse.train.objectives import distillation
from plisse.train.optimizers import SGD, AdamW
from plisse.train.task import cross_entropy

STEPS = 30


def network(seed: int = 0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16 * width, 3),
    )


def batches(seed: int = 0) -> BatchList:
    generator = torch.Generator().manual_seed(seed)
    return BatchList(
        tuple(
            Batch(torch.randn(8, 1, 6, 6, generator=generator), torch.randint(3, (8,), generator=generator))
            for _ in range(3)
        )
    )


def train(checkpoint: Path | None, **changes: object) -> tuple[nn.Module, History]:
    model = changes.pop("model", None) or network()
    settings = {"steps": STEPS, "optimizer": AdamW(lr=0.01), "checkpoint_every": 10, **changes}
    objective = settings.pop("objective", cross_entropy)
    return model, fit(model, objective, batches(), checkpoint=checkpoint, **settings)


class StopError(Exception):
    pass


def stop_at_17(state: State) -> None:
    if state.step == 17 and os.environ.get("STOP"):
        raise StopError


def wait_then_go_on(state: State) -> None:
    """In the killed process: say that step 25 is over, and stay there."""
    if state.step == 25 and "PLISSE_TEST_SIGNAL" in os.environ:
        Path(os.environ["PLISSE_TEST_SIGNAL"]).touch()
        time.sleep(60)


def header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(found["__metadata__"]["plisse"])


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), AdamW(lr=0.01)])
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: SGD | AdamW
) -> None:
    path, hooks = tmp_path / "run.safetensors", (stop_at_17,)
    whole, history = train(tmp_path / "whole.safetensors", hooks=hooks, optimizer=optimizer)
    monkeypatch.setenv("STOP", "1")
    with pytest.raises(StopError):
        train(path, hooks=hooks, optimizer=optimizer)
    monkeypatch.delenv("STOP")
    assert header(path)["step"] == 10
    seconds = header(path)["history"]["seconds"]
    seen: list[int] = []
    monkeypatch.setattr(BatchList, "__getitem__", counting(seen))
    resumed, again = train(path, hooks=hooks, optimizer=optimizer)
    assert seen[1:] == list(range(10, STEPS)), "index 0 identifies the data; then only the missing steps run"
    assert same(resumed, whole)
    assert again.rows == history.rows
    assert again.seconds > seconds > 0


def counting(seen: list[int]) -> object:
    def getitem(self: BatchList, index: int) -> Batch:
        seen.append(index)
        return self.items[index % len(self.items)]

    return getitem


@pytest.mark.slow
def test_a_killed_process_is_continued_with_the_same_bits(tmp_path: Path) -> None:
    path, reached = tmp_path / "run.safetensors", tmp_path / "reached"
    code = (
        "import test_resume as t; from pathlib import Path;"
        f"t.train(Path({str(path)!r}), hooks=(t.wait_then_go_on,))"
    )
    environment = {**os.environ, "PLISSE_TEST_SIGNAL": str(reached), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment)
    try:
        for _ in range(600):
            if reached.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert process.poll() is None, "the process should hang in step 25"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert reached.exists()
    assert not list(tmp_path.glob("*.tmp"))
    resumed, history = train(path, hooks=(wait_then_go_on,))
    whole, _ = train(None, hooks=(wait_then_go_on,))
    assert same(resumed, whole)
    assert history.rows[-1].step == STEPS


def test_a_finished_run_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    trained, history = train(path)
    assert not any(name.startswith("optimizer/") for name in load_file(path))
    seen: list[int] = []
    monkeypatch.setattr(BatchList, "__getitem__", counting(seen))
    again, found = train(path)
    assert seen == [0]
    assert same(again, trained)
    assert found == history


def test_checkpoint_holds_no_pickle_and_its_header_is_json(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(path)
    run = header(path)
    assert (run["version"], run["step"], run["finished"]) == (1, STEPS, True)


def other_objective(model: nn.Module, batch: Batch) -> object:
    return cross_entropy(model, batch)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"steps": STEPS + 1}, "steps"),
        ({"objective": other_objective}, "objective"),
        ({"optimizer": AdamW(lr=0.02)}, "optimizer"),
        ({"seed": 1}, "seed"),
        ({"model": "wider"}, "shapes"),
        ({"model": "other"}, "weights at the start"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    path = tmp_path / "run.safetensors"
    train(path)
    if "model" in changes:
        model = network(width=5 if changes["model"] == "wider" else 4)
        with torch.no_grad():
            model[0].weight.mul_(2)
        changes = {"model": model}
    before = path.read_bytes()
    with pytest.raises(InputError, match=key):
        train(path, **changes)
    assert path.read_bytes() == before


def test_another_teacher_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    teacher = network()
    train(path, objective=distillation(teacher))
    train(path, objective=distillation(teacher))
    with torch.no_grad():
        teacher[0].weight.mul_(2)
    with pytest.raises(InputError, match="objective"):
        train(path, objective=distillation(teacher))


def test_other_data_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(path)
    with pytest.raises(InputError, match="first batch"):
        fit(
            network(),
            cross_entropy,
            batches(seed=1),
            steps=STEPS,
            optimizer=AdamW(lr=0.01),
            checkpoint=path,
        )


@pytest.mark.parametrize("data", [b"", b"not a checkpoint at all", b"\xff" * 64])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match="no checkpoint"):
        train(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="no checkpoint"):
        train(path)


def test_a_folder_that_is_missing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        train(tmp_path / "missing" / "run.safetensors", checkpoint_every=1)


def test_buffers_outside_the_state_dictionary_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    model = network()
    model.register_buffer("count", torch.zeros(()), persistent=False)
    train(path, model=model, hooks=(count_steps,))
    again = network()
    again.register_buffer("count", torch.zeros(()), persistent=False)
    train(path, model=again, hooks=(count_steps,))
    assert int(model.count) == int(again.count) == STEPS


def count_steps(state: State) -> None:
    state.model.count += 1
