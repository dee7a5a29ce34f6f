"""Low rank with training on CIFAR-10: `python -m benchmarks.lowrank_training [--small] [--only NAME]`.

Which images are used for what:
- choice of ranks (no labels): 512 of the 5,000 `val` images
- training: the 40,000 `train` images, with their labels and with the original network as teacher
- schemes and the strength of the penalty were chosen on `val`
- scores, paired, are on the 1,017 lossless test images

Arms, for each network and share of numbers removed, with the same ranks and equally many batches in all:
- stable rank: the whole network is trained with the penalty, truncated, fine-tuned (`Decompose`)
- direct: truncated at once, fine-tuned (`Decompose(strength=0)`)

Sizes are lengths of the files as written, with float32 numbers; scores are those of the decoded file. Rows
that are there already are kept, so that a run can be continued; `--only` measures rows again whose name
starts so. Seconds are those of the processor, with OMP_NUM_THREADS=1. For tensor methods see
benchmarks.lowrank_tensors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from functools import cache
from typing import Any

import torch
from torch import nn

from benchmarks.cifar import interval
from benchmarks.record import RESULTS, write
from plisse.bitstream import modelfile
from plisse.compress.decompose import Decompose
from plisse.compress.finetune import distilled
from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.problem import Ranks
from plisse.compress.lowrank.schemes import Channel
from plisse.compress.lowrank.selectors import EnergyPerParameter
from plisse.compress.lowrank.stable_rank import tails
from plisse.data.cifar10 import read_validation
from plisse.data.folder import data_set
from plisse.data.images import ImageBatches
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.evaluate import Evaluation, evaluate, paired
from plisse.train.optimizers import SGD
from plisse.train.task import Task
from plisse.train.tasks import IMAGENET, open_task

BASE = Decompose(
    select=EnergyPerParameter(),
    strength=60.0,
    lr=0.01,
    temperature=4.0,
    hard=0.5,
    optimizer=SGD(weight_decay=1e-4),
)
R20 = dataclasses.replace(BASE, steps=250, finetune=250)
R56 = dataclasses.replace(BASE, steps=120, finetune=120)
R56_LONGER = dataclasses.replace(BASE, steps=300, finetune=300)
R56_EPOCHS = dataclasses.replace(BASE, steps=1250, finetune=1250, lr=0.02)
SEARCHED = dataclasses.replace(
    BASE,
    select=BeamSearch(width=1),
    scheme=Channel(),
    whitened=False,
    strength=100.0,
    steps=600,
    finetune=600,
    lr=0.02,
)
RUNS: tuple[tuple[str, float, Decompose], ...] = (
    ("resnet20", 0.6, SEARCHED),
    ("resnet56", 0.6, R56),
    ("resnet56", 0.6, R56_LONGER),
    ("resnet56", 0.8, R56_LONGER),
    ("resnet56", 0.8, R56_EPOCHS),
    ("resnet20", 0.6, R20),
    ("resnet20", 0.5, R20),
)
ARMS = ("stable rank", "direct")
SMALL_STEPS = 20
Row = dict[str, Any]


@cache
def original(network: str) -> nn.Module:
    return open_model(network, weights=data_set("models", f"cifar10_{network}.safetensors"))


@cache
def cifar() -> Task:
    return open_task("cifar10")


@cache
def validation() -> ImageBatches:
    return ImageBatches(read_validation(data_set("cifar10"), 2), 250, IMAGENET)


@cache
def before(network: str) -> Evaluation:
    return evaluate(original(network), cifar())


def decoded(network: str, model: nn.Module) -> tuple[int, nn.Module]:
    """Length of the file, and what is read from it."""
    data = modelfile.dumps(model, open_model(network))
    return len(data), modelfile.loads(data, build)


def scored(network: str, model: nn.Module) -> Row:
    """Bytes, score, its difference from the original, and the predictions, one digit for each image."""
    size, read = decoded(network, model)
    found = evaluate(read, cifar())
    return {
        "bytes": size,
        "score_before": before(network).score,
        "score": found.score,
        "difference": interval(paired(found, before(network), cifar().score)),
        "samples": found.n,
        "validation": evaluate(read, cifar(), validation()).score,
        "predictions": "".join(str(int(each)) for each in found.predictions),
    }


def arm(network: str, how: Decompose, ranks: Ranks) -> Row:
    """Train, cut and tune; scores on the way."""
    model, task = original(network), cifar()
    taught = distilled(task, model, how.temperature, how.hard)
    began = time.process_time(), time.perf_counter()
    penalty = how.penalty(model, task, ranks)
    whole = how.trained(model, taught, penalty)
    pause = time.process_time(), time.perf_counter()
    on_way: Row = {
        "tail": max(tails(whole, penalty).values()),
        "score_whole": evaluate(whole, task).score,
        "validation_whole": evaluate(whole, task, validation()).score,
    }
    cut = how.truncated(whole, task, ranks)
    on_way["score_truncated"] = evaluate(cut, task).score
    on_way["validation_truncated"] = evaluate(cut, task, validation()).score
    measured = time.process_time() - pause[0], time.perf_counter() - pause[1]
    tuned = how.tuned(cut, taught)
    cpu, wall = (
        now - first - spent
        for now, first, spent in zip((time.process_time(), time.perf_counter()), began, measured, strict=True)
    )
    seconds = {"cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1)}
    return {**on_way, **seconds, **scored(network, tuned)}


def title_of(network: str, ratio: float, how: Decompose) -> str:
    kind = "whitened " if how.whitened else ""
    batches = how.steps + how.finetune
    return f"{network}, {ratio:.0%} removed, {kind}{type(how.scheme).__name__.lower()}, {batches} batches"


def run(network: str, ratio: float, how: Decompose, rows: Rows) -> None:
    """Both arms at the same ranks, and the difference between them."""
    how = dataclasses.replace(how, ratio=ratio)
    name = title_of(network, ratio, how)
    names = [f"{name}: {each}" for each in ARMS]
    if all(each in rows.found for each in names):
        return
    problem = how.problem(original(network), cifar())
    saved = [rows.found[each]["ranks"] for each in names if each in rows.found]
    began = time.process_time()
    ranks = saved[0] if saved else how.select.ranks(problem, ratio)
    searching = round(time.process_time() - began, 1)
    for title, strength in zip(reversed(names), (0.0, how.strength), strict=True):
        if title in rows.found:
            continue
        fields = dataclasses.replace(how, strength=strength)
        made = arm(network, fields, ranks)
        about = {"select": str(how.select), "scheme": str(how.scheme), "lr": how.lr, "strength": strength}
        about |= {"batches": [how.steps, how.finetune]}
        about |= {"removed": problem.removed(ranks), "search_cpu_seconds": searching, "ranks": ranks}
        rows.add({"name": title, **about, **made})
    first, second = (answers(network, rows.found[each]) for each in names)
    rows.found[names[0]]["over_direct"] = interval(paired(first, second, cifar().score))
    rows.add(rows.found[names[0]])


def answers(network: str, row: Row) -> Evaluation:
    """The evaluation that a row was made from, as far as pairing needs it."""
    predictions = torch.tensor([int(digit) for digit in row["predictions"]])
    return dataclasses.replace(before(network), predictions=predictions, score=row["score"])


class Rows:
    """The rows by name, written whenever one is added."""

    def __init__(self, file: str, fresh: bool) -> None:
        path = RESULTS / f"{file}.json"
        kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() and not fresh else []
        self.file, self.found = file, {row["name"]: row for row in kept}

    def add(self, row: Row) -> None:
        self.found[row["name"]] = row
        shown = {key: value for key, value in row.items() if key not in ("predictions", "ranks")}
        print(shown, flush=True)
        write(self.file, {"rows": list(self.found.values())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ResNet-20 at 50 %%, 20 batches for each part")
    parser.add_argument("--only", default="", help="measure rows again whose name starts so, and no others")
    chosen = parser.parse_args()
    rows = Rows("lowrank_training_small" if chosen.small else "lowrank_training", chosen.small)
    if chosen.only:
        rows.found = {name: row for name, row in rows.found.items() if not name.startswith(chosen.only)}
    for network, ratio, how in RUNS:
        if chosen.small:
            network, ratio = "resnet20", 0.5
            how = dataclasses.replace(R20, steps=SMALL_STEPS, finetune=SMALL_STEPS, statistics=5)
        title = title_of(network, ratio, how)
        if any(f"{title}: {each}".startswith(chosen.only) for each in ARMS):
            run(network, ratio, how, rows)


if __name__ == "__main__":
    main()
