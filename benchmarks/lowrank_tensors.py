"""Tensor methods on ResNet-20 at equal sizes: `python -m benchmarks.lowrank_tensors [--small]`.

All methods remove the same share of the numbers of the same 18 convolutions, which makes files of nearly the
same length (as written, with float32 numbers). Matrices get their ranks by energy per parameter, tensors by
the least sum of relative squared errors over eight sizes per layer. Scores, paired with the original, are on
the 1,017 lossless test images: cut, cut with batch norm measured anew on training images, and after a short
fine-tuning on them with labels and the original as teacher. No choice was made on any image. Rows that are
there already are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

from torch import nn

from benchmarks.lowrank_training import Row, Rows, cifar, original, scored
from plisse.compress.decompose import Decompose
from plisse.compress.finetune import FineTune, ReestimateNorm, distilled
from plisse.compress.lowrank.balance import Balance
from plisse.compress.lowrank.canonical import CP
from plisse.compress.lowrank.schemes import Channel, Spatial
from plisse.compress.lowrank.selectors import EnergyPerParameter
from plisse.compress.lowrank.tensors import TensorDecompose
from plisse.compress.lowrank.trains import TensorTrain
from plisse.compress.lowrank.tucker import BlockTerm, Tucker2
from plisse.compress.step import Step
from plisse.train.evaluate import evaluate
from plisse.train.optimizers import SGD

RATIO = 0.4
NETWORK = "resnet20"
MATRICES = Decompose(RATIO, EnergyPerParameter(), whitened=False, steps=0, finetune=0, statistics=0)
STEPS: dict[str, Step] = {
    "SVD, channel": dataclasses.replace(MATRICES, scheme=Channel()),
    "SVD, spatial": dataclasses.replace(MATRICES, scheme=Spatial()),
    "SVD, spatial, whitened": dataclasses.replace(MATRICES, scheme=Spatial(), whitened=True),
    "Tucker-2": TensorDecompose(Tucker2(), RATIO),
    "tensor train": TensorDecompose(TensorTrain(), RATIO),
    "block term, 4 groups": TensorDecompose(BlockTerm(4), RATIO),
    "CP": TensorDecompose(CP(), RATIO),
}
TUNING = FineTune(40, lr=0.01, optimizer=SGD(weight_decay=1e-4))
BATCHES = 30


def measured(name: str, step: Step, tuning: FineTune) -> Row:
    """One row: cut, batch norm measured, tuned."""
    model, task = original(NETWORK), cifar()
    began = time.process_time()
    cut = step(model, task)
    seconds = {"decompose_cpu_seconds": round(time.process_time() - began, 1)}
    fresh = ReestimateNorm(BATCHES)(cut, task)
    began = time.process_time()
    tuned = Balance()(ReestimateNorm(BATCHES)(tuning(cut, distilled(task, model, 4.0, 0.5)), task), task)
    seconds["tune_cpu_seconds"] = round(time.process_time() - began, 1)
    about = {"name": name, "step": str(step), "batches": tuning.steps, "params": size(tuned), **seconds}
    scores = {"score_cut": evaluate(cut, task).score, "score_cut_norm": evaluate(fresh, task).score}
    return {**about, **scores, **scored(NETWORK, tuned)}


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two methods, 10 batches")
    small = parser.parse_args().small
    rows = Rows("lowrank_tensors_small" if small else "lowrank_tensors", small)
    tuning: Any = dataclasses.replace(TUNING, steps=10) if small else TUNING
    for name, step in list(STEPS.items())[1:3] if small else STEPS.items():
        if name not in rows.found:
            rows.add(measured(name, step, tuning))


if __name__ == "__main__":
    main()
