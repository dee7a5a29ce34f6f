"""One file, every size, ResNet-20 on CIFAR-10: `python -m benchmarks.subspace [--small]`.

Every spectrum starts from the pretrained network and is trained for the same number of steps on the 40,000
`train` images, as are the networks of a single point that it is set beside. Scores: the 1,017 lossless test
images; beside them 1,000 `val` images, which were apart from this training but not from the pretraining, so
that they score too high (with `--scratch` nothing was pretrained). Nothing is chosen on either; 512 other
`val` images, without labels, give the first ranges of activations. "recalibrated" measures batch-norm
statistics on training images when a point is switched to, which a device without data cannot; "stored" reads
them from the table in the file.

Rows are written as they come; a run goes on where an earlier one stopped, `--fresh` starts anew, `--only
TEXT` takes the methods whose axis and name contain TEXT, `--small` is a few steps and images. `--part
switch|latency` measures times instead; on a machine with other work their ratios count. The long setting,
for a GPU: `--scratch --steps 62400 --lr 0.1 --accelerator cuda` (200 epochs).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.record import RESULTS, write
from benchmarks.subspace.machine import file_bytes, switch_times, width_latency
from benchmarks.subspace.methods import ALONE, SMALL, SOME_WIDTHS, Method, methods
from plisse.adapt.elastic import Point
from plisse.adapt.opened import save_subspace
from plisse.adapt.sparsity import measure_thresholds
from plisse.adapt.statistics import measure_statistics, statistic_names
from plisse.adapt.subspace import Subspace
from plisse.adapt.train import train_subspace
from plisse.adapt.width import width_space
from plisse.compress.finetune import distilled
from plisse.core import modules
from plisse.core.batch import Batches, BatchList
from plisse.data.cifar10 import read_validation
from plisse.data.folder import data_set
from plisse.data.images import ImageBatches
from plisse.networks.open import open_model
from plisse.train.evaluate import evaluate
from plisse.train.optimizers import SGD
from plisse.train.statistics import reestimate_statistics
from plisse.train.task import Task
from plisse.train.tasks import open_task

STEPS, SMALL_STEPS, STATISTICS = 150, 4, 8
TEMPERATURE = 4.0
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Setting:
    """task, and the other images that are scored. statistics: batches for those of batch norms. files: folder
    for the files of what was trained."""

    task: Task
    validation: Batches
    steps: int
    lr: float
    accelerator: str
    statistics: int = STATISTICS
    scratch: bool = False
    files: Path | None = None


def spectrum(setting: Setting, method: Method) -> Iterator[Row]:
    """Train, write, and score every point, once for each way to come by statistics."""
    weights = None if setting.scratch else data_set("models", "cifar10_resnet20.safetensors")
    net = open_model("resnet20", weights=weights)
    subspace = method.make(modules.clone(net), setting.task)
    path, seconds = None, 0.0
    if setting.files is not None and method.trains:
        setting.files.mkdir(parents=True, exist_ok=True)
        path = setting.files / f"{method.axis}, {method.name}, {setting.steps} steps.plisse"
    if method.trains:
        history = train_subspace(
            subspace,
            distilled(setting.task, net, TEMPERATURE) if method.teacher else setting.task,
            steps=setting.steps,
            schedule=method.schedule,
            distill=method.distill,
            statistics=setting.statistics,
            optimizer=SGD(lr=setting.lr * method.passes, weight_decay=5e-4),
            accelerator=setting.accelerator,
            checkpoint=None if path is None else path.with_suffix(".safetensors"),
            checkpoint_every=40,
        )
        seconds = round(history.seconds, 1)
    else:
        measure_thresholds(subspace.eval())
    subspace.cpu()
    facts = {
        "axis": method.axis,
        "method": method.name,
        "steps": setting.steps if method.trains else 0,
        "lr": setting.lr * method.passes,
        "start": "fresh" if setting.scratch else "pretrained",
    }
    files = (
        file_bytes(subspace, ALONE[method.axis]) if len(subspace.space.points) > 1 and method.trains else None
    )
    if path is not None:
        save_subspace(subspace, path)
    subspace = subspace.settled()  # as the file holds it
    for way in method.scored:
        points = [point_row(setting, network, point) for point, network in found(setting, subspace, way)]
        yield {**facts, "statistics": way, "seconds": seconds, "points": points, "files": files}


def found(setting: Setting, subspace: Subspace, way: str) -> Iterator[tuple[Point, nn.Module]]:
    """The network of every listed point, with statistics by one of the ways of `Method`."""
    points = subspace.space.points
    if way == "between":
        subspace = modules.clone(subspace)  # type: ignore[assignment]
        subspace.dial.space = width_space(SOME_WIDTHS)
        measure_statistics(subspace, setting.task.train, setting.statistics)
    shared = subspace.materialised(subspace.space.largest)
    for point in points:
        network = modules.clone(subspace.materialised(point))
        if way == "recalibrated":
            reestimate_statistics(network, setting.task.train, setting.statistics)
        elif way == "shared":
            for name in statistic_names(network):
                own = modules.tensor(network, name)
                own.copy_(modules.tensor(shared, name)[: len(own)])
        yield point, network


def point_row(setting: Setting, network: nn.Module, point: Point) -> Row:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = evaluate(network, setting.task)
    val = evaluate(network, setting.task, setting.validation).score
    return {"point": point.value, "score": after.score, "interval": [after.low, after.high], "val": val}


def key(row: Row) -> tuple[str, str, int, str]:
    return row["axis"], row["method"], row["steps"], row["start"]


def known(name: str) -> dict[str, Any]:
    """What was written so far, also by a run beside this one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def run(chosen: argparse.Namespace, setting: Setting, name: str) -> None:
    if chosen.fresh:
        (RESULTS / f"{name}.json").unlink(missing_ok=True)
    for method in SMALL if chosen.small else methods():
        start = "fresh" if setting.scratch else "pretrained"
        done = (method.axis, method.name, setting.steps if method.trains else 0, start)
        wanted = chosen.only is None or chosen.only.lower() in f"{method.axis} {method.name}".lower()
        if not wanted or any(key(row) == done for row in known(name).get("rows", ())):
            continue
        rows: list[Row] = []
        for row in spectrum(setting, method):
            rows.append(row)
            shown = " ".join(f"{p['point']:g}:{100 * p['score']:.1f}" for p in row["points"])
            print(row["axis"], "|", row["method"], "|", row["statistics"], "|", shown, flush=True)
        data = known(name)
        data["rows"] = [*data.get("rows", ()), *rows]
        write(name, {k: v for k, v in data.items() if k != "machine"})


def machine(chosen: argparse.Namespace, name: str) -> None:
    """Times of switches or of widths, network by network."""
    rows: list[Row] = []
    repeats = {"resnet20": 15, "cPreResNet20": 15, "resnet18": 5}
    for network in ("resnet20",) if chosen.small else repeats:
        measured = switch_times if chosen.part == "switch" else width_latency
        rows += measured(network, 7 if chosen.small else repeats[network])
        data = {**known(name), chosen.part: rows}
        write(name, {k: v for k, v in data.items() if k != "machine"})
        print(json.dumps(rows[-1]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few steps and images")
    parser.add_argument("--steps", type=int, help=f"batches of 128 images each ({STEPS})")
    parser.add_argument("--lr", type=float, default=0.02, help="peak learning rate")
    parser.add_argument("--scratch", action="store_true", help="start from fresh weights")
    parser.add_argument("--accelerator", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--only", metavar="TEXT", help="methods whose axis and name contain TEXT")
    parser.add_argument(
        "--files", type=Path, metavar="FOLDER", help="write the file of what is trained there"
    )
    parser.add_argument("--part", choices=("spectra", "switch", "latency"), default="spectra")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    chosen = parser.parse_args()
    name = "subspace_small" if chosen.small else "subspace"
    if chosen.part != "spectra":
        machine(chosen, name)
        return
    steps = chosen.steps or (SMALL_STEPS if chosen.small else STEPS)
    images = read_validation(data_set("cifar10")).take(np.arange(4000, 4100 if chosen.small else 5000))
    validation = ImageBatches(images, 250)
    task = open_task("cifar10")
    if chosen.small:
        task = dataclasses.replace(task, holdout=BatchList((task.holdout[0],)))
    statistics = 2 if chosen.small else STATISTICS
    setting = Setting(
        task, validation, steps, chosen.lr, chosen.accelerator, statistics, chosen.scratch, chosen.files
    )
    run(chosen, setting, name)


if __name__ == "__main__":
    main()
