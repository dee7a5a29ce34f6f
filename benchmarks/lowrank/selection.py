"""Which ranks each selector chooses, and how long that takes: half of `python -m benchmarks.lowrank`."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.judge import Visited
from plisse.compress.lowrank.problem import Problem, pose
from plisse.compress.lowrank.selectors import (
    Energy,
    EnergyPerParameter,
    Learning,
    MinMaxError,
    Selector,
    Uniform,
)
from plisse.core.batch import Batch, BatchList
from plisse.data.folder import data_set
from plisse.networks.open import open_model
from plisse.networks.resnet import CifarResNet
from plisse.train.task import Task, classification

RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
BEAM = "beam search"
BASELINES: dict[str, Selector] = {
    "uniform": Uniform(),
    "energy per layer": Energy(),
    "energy per parameter": EnergyPerParameter(),
    "learning-compression": Learning(),
    "min-max error": MinMaxError(),
}
SEARCHES = {
    "resnet20": BeamSearch(),
    "resnet56": BeamSearch(levels=(8,), fresh=1, batches=2, settle=0.2, rounds=2),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A network and how its layers are decomposed."""

    network: str
    whitened: bool
    search: BeamSearch

    def problem(self, task: Task) -> Problem:
        weights = data_set("models", f"cifar10_{self.network}.safetensors")
        return pose(open_model(self.network, weights=weights), task, whitened=self.whitened)


SUBJECTS = (
    Subject("resnet20", False, SEARCHES["resnet20"]),
    Subject("resnet56", False, SEARCHES["resnet56"]),
    Subject("resnet20", True, SEARCHES["resnet20"]),
    Subject("resnet56", True, SEARCHES["resnet56"]),
)
SMALL = (Subject("resnet20", False, BeamSearch(levels=(4,), fresh=1, batches=1, settle=None)),)


def selections(subject: Subject, problem: Problem) -> list[Row]:
    """The ranks of every selector at every ratio. One search gives all of its own: those on its way."""
    rows = []
    for name, selector in BASELINES.items():
        for ratio in RATIOS:
            start = time.process_time()
            ranks = selector.ranks(problem, ratio)
            rows.append(_row(subject, name, ratio, ranks, problem, time.process_time() - start))
    resumed = _checkpoint(subject).exists()
    start = time.process_time()
    path = _searched(subject, problem)
    seconds = time.process_time() - start
    for ratio in RATIOS:
        state = next(state for state in path if state.removed >= ratio - 1e-9)
        row = _row(subject, BEAM, ratio, state.ranks, problem, seconds)
        found = {"runs": path[-1].runs, "calibration_loss": state.loss, "resumed": resumed}
        rows.append({**row, **found})
    return rows


def _searched(subject: Subject, problem: Problem) -> Sequence[Visited]:
    """One search down to the last ratio; a stopped one goes on, and "resumed" tells of its seconds."""
    place = _checkpoint(subject)
    search = dataclasses.replace(
        subject.search, checkpoint=place, progress=lambda share: print(f"  {share:.1%} removed", flush=True)
    )
    path = search.search(problem, RATIOS[-1])
    place.unlink()
    return path


def _checkpoint(subject: Subject) -> Path:
    folder = Path(tempfile.gettempdir()) / "plisse_lowrank"
    folder.mkdir(exist_ok=True)
    levels = "_".join(str(each) for each in subject.search.levels)
    return folder / f"{subject.network}_{subject.whitened}_{levels}.json"


def _row(
    subject: Subject, selector: str, ratio: float, ranks: dict[str, int], problem: Problem, seconds: float
) -> Row:
    return {
        "network": subject.network, "whitened": subject.whitened, "selector": selector, "ratio": ratio,
        "removed": problem.removed(ranks), "cpu_seconds": round(seconds, 2), "ranks": ranks,
    }  # fmt: skip


def law(blocks: int, fresh: int | None, images: int = 32, levels: int = 4, ratio: float = 0.5) -> Row:
    """Runs and seconds of a search on a ResNet of 6 blocks + 2 layers with random weights."""
    torch.manual_seed(0)
    model: nn.Module = CifarResNet(blocks).eval()
    batches = BatchList((Batch(torch.randn(images, 3, 32, 32)),))
    problem = pose(model, classification("random", batches[0].inputs, batches, batches, batches))
    start = time.process_time()
    path = BeamSearch(levels=(levels,), fresh=fresh, settle=None).search(problem, ratio)
    layers = len(problem.spectra)
    return {
        "layers": layers, "fresh": fresh, "levels": levels, "images": images, "ratio": ratio,
        "steps": len(path) - 1, "runs": path[-1].runs, "runs_expected_of_all": (layers + 1) * (len(path) - 1),
        "cpu_seconds": round(time.process_time() - start, 1),
    }  # fmt: skip
