"""Quantization-aware training of ResNet-20 on CIFAR-10: `python -m benchmarks.quantization_training`.

Which images are used for what:
- ranges (no labels): 512 of the 5,000 `val` images
- training: the 40,000 `train` images, with their labels and with the original network as teacher
- settings were chosen on `val`; the score, paired with the original, is on the 1,017 lossless test images

First and last layer have 8 bits. Sizes are lengths of the files as written; scores are those of the decoded
file. W4A4 and W3A3 are the stages of the ramp that ends in W2A2; recipes of their own are `Aware(600)` at 4
bits and `Aware(900, ramp=(Stage(4, 600),))` at 3 bits, each followed by `ReestimateNorm(30)`. Without a
ramp, from steps of least squared error, two bits take 13 minutes of one core. `--small` takes 40 steps for
each stage. Rows that are there already are kept, so that a run can be continued; `--only NAME` measures one
row (for W2A2, the whole ramp) again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from benchmarks.cifar import interval
from benchmarks.record import RESULTS, write
from plisse.bitstream import modelfile
from plisse.compress.finetune import ReestimateNorm, distilled
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware.dorefa import DoReFa, UnitInterval
from plisse.compress.quantize.aware.estimators import ElementwiseScaled, PolynomialStep, PowerStep
from plisse.compress.quantize.aware.inputs import PACT, LearnedStep
from plisse.compress.quantize.aware.interval import LearnedInterval
from plisse.compress.quantize.aware.ramp import Stage
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.aware.train import train_quantized
from plisse.compress.quantize.codebooks.binary import Binary
from plisse.compress.quantize.codebooks.ternary import Ternary, TrainedTernary
from plisse.compress.quantize.intervals import Intervals, Signs
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MeanMagnitude
from plisse.core.reparam import Reparametrized
from plisse.data.cifar10 import read_validation
from plisse.data.folder import data_set
from plisse.data.images import ImageBatches
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.evaluate import evaluate, paired
from plisse.train.optimizers import SGD
from plisse.train.task import Task
from plisse.train.tasks import IMAGENET, open_task

RAMP = Aware(2100, lr=0.01, ramp=(Stage(4, 600), Stage(3, 900)), optimizer=SGD(weight_decay=5e-5))
DIRECT = Aware(2200, lr=0.01, optimizer=SGD(weight_decay=5e-5))
SHORT = Aware(200, lr=0.01, optimizer=SGD(weight_decay=5e-5))  # variants are compared by it
SMALL_STEPS = 40


def quantize(bits: int, aware: Aware | None, **fields: Any) -> Quantize:
    """The step of every row: learned steps that start at 2 E|x| / sqrt(q_max), edges at 8 bits."""
    inputs = Activations(bits, MeanMagnitude())
    given = {
        "bits": bits,
        "activations": inputs,
        "range": MeanMagnitude(),
        "first_last_bits": 8,
        "aware": aware,
    }
    return Quantize(**{**given, **fields})


def variants() -> dict[str, Quantize]:
    """Rows beside the ramp: the same short training from the original, with one thing different; and a long
    one to two bits without a ramp."""
    short = {f"{name}, {SHORT.steps} steps": step for name, step in {**gradients(), **extremes()}.items()}
    direct = quantize(2, DIRECT, range=MSE(), activations=Activations(2, MSE()))
    return {**short, f"W2A2 from MSE, {DIRECT.steps} steps": direct}


def gradients() -> dict[str, Quantize]:
    """Two bits for weights and inputs: how steps are found and what gradient rounding has.

    Learned steps start where LSQ has them, 2 E|x| / sqrt(q_max), but for the row "from MSE"; fixed ones are
    those of least squared error.
    """
    squares = {"range": MSE(), "activations": Activations(2, MSE())}
    changed = dataclasses.replace
    fixed = changed(SHORT, learn_step=False)
    unit = Activations(2, UnitInterval())
    return {
        "W2A2 LSQ": quantize(2, SHORT),
        "W2A2 fixed steps (straight through)": quantize(2, fixed, **squares),
        "W2A2 LSQ from MSE": quantize(2, SHORT, **squares),
        "W2A2 PACT inputs": quantize(2, changed(SHORT, inputs=PACT(1e-3))),
        "W2A2 LSQ+": quantize(2, changed(SHORT, inputs=LearnedStep(offset=True))),
        "W2A2 EWGS": quantize(2, changed(SHORT, estimator=ElementwiseScaled(0.1))),
        "W2A2 DoReFa": quantize(2, fixed, grid=DoReFa(2), activations=unit),
        "W2A2 QIL": quantize(2, SHORT, grid=LearnedInterval(2), activations=Intervals(2, MeanMagnitude())),
        "W2A2 ReSTE": quantize(2, changed(SHORT, estimator=PowerStep(2.0))),
    }


def extremes() -> dict[str, Quantize]:
    """Weights of one bit and of three values, inputs of four bits; then both of one or two bits."""
    step = dataclasses.replace(SHORT, estimator=PolynomialStep())
    return {
        "W1A4 binary weights": quantize(4, SHORT, grid=Binary()),
        "W2A4 ternary weights": quantize(4, SHORT, grid=Ternary()),
        "W2A4 trained ternary weights": quantize(4, SHORT, grid=TrainedTernary()),
        "W1A1 Bi-Real, one shift per layer": quantize(
            4, step, grid=Binary(), activations=Signs("tensor", "signed")
        ),
        "W1A1 shifts per channel": quantize(4, step, grid=Binary(), activations=Signs()),
        "W1A1 shifts per channel, learned scales": quantize(
            4, step, grid=Binary("learned"), activations=Signs()
        ),
        "W1A2 intervals": quantize(4, SHORT, grid=Binary(), activations=Intervals(2)),
        "W2A1 shifts per channel": quantize(2, SHORT, activations=Signs()),
    }


@cache
def original() -> nn.Module:
    return open_model("resnet20", weights=data_set("models", "cifar10_resnet20.safetensors"))


@cache
def cifar() -> Task:
    return open_task("cifar10")


def taught() -> Task:
    """Training with the teacher's probabilities at temperature 4 and the labels at half weight."""
    return distilled(cifar(), original(), temperature=4.0, hard=0.5)


class Clock:
    """Seconds of training, without those of measuring: of the processor and on the wall."""

    def __init__(self) -> None:
        self.spent = [0.0, 0.0]
        self.resume()

    def resume(self) -> None:
        self.began = [time.process_time(), time.perf_counter()]

    def stop(self) -> tuple[float, float]:
        now = time.process_time(), time.perf_counter()
        self.spent = [s + n - b for s, n, b in zip(self.spent, now, self.began, strict=True)]
        return self.spent[0], self.spent[1]


def row(name: str, model: nn.Module, steps: int, clock: Clock) -> dict[str, Any]:
    """Write the network, read it again, and score what was read."""
    cpu, wall = clock.stop()
    data = modelfile.dumps(ReestimateNorm(30)(model, cifar()), open_model("resnet20"))
    read = modelfile.loads(data, build)
    before, after = evaluate(original(), cifar()), evaluate(read, cifar())
    validation = ImageBatches(read_validation(data_set("cifar10"), 2), 250, IMAGENET)
    found = {
        "name": name,
        "steps": steps,
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
        "bytes": len(data),
        "score_before": before.score,
        "score": after.score,
        "difference": interval(paired(after, before, cifar().score)),
        "samples": after.n,
        "validation": evaluate(read, cifar(), validation).score,
    }
    clock.resume()
    return found


def ramp(how: Aware, done: Callable[[dict[str, Any]], None]) -> None:
    """Train from 4 to 2 bits and give a row at the end of each stage."""
    clock, steps = Clock(), [0]

    def after(stage: Stage, model: nn.Module) -> None:
        steps[0] += stage.steps
        done(row(f"W{stage.bits}A{stage.bits}", model, steps[0], clock))

    task = taught()
    start = quantize(2, None)(original(), task)
    assert isinstance(start, Reparametrized)
    after(Stage(2, how.steps), train_quantized(start, task, how, after))


def shortened(how: Aware | None) -> Aware:
    assert how is not None
    stages = tuple(dataclasses.replace(stage, steps=SMALL_STEPS) for stage in how.ramp)
    return dataclasses.replace(how, steps=SMALL_STEPS, ramp=stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="40 steps per stage, the ramp and two variants")
    parser.add_argument("--only", help="measure this row again")
    chosen = parser.parse_args()
    name = "quantization_training_small" if chosen.small else "quantization_training"
    rows = {} if chosen.small else read(name)
    if chosen.only:
        rows.pop(chosen.only, None)

    def done(found: dict[str, Any]) -> None:
        rows[found["name"]] = found
        print(found, flush=True)
        write(name, {"network": "resnet20", "rows": list(rows.values())})

    if "W2A2" not in rows and chosen.only in (None, "W4A4", "W3A3", "W2A2"):
        ramp(shortened(RAMP) if chosen.small else RAMP, done)
    for variant, step in list(variants().items())[: 2 if chosen.small else None]:
        if variant in rows or (chosen.only and chosen.only != variant):
            continue
        aware = shortened(step.aware) if chosen.small else step.aware
        clock = Clock()
        model = dataclasses.replace(step, aware=aware)(original(), taught())
        done(row(variant, model, aware.total_steps if aware else 0, clock))


def read(name: str) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run, none without one."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return {row["name"]: row for row in rows}


if __name__ == "__main__":
    main()
