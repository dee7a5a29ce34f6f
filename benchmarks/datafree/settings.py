"""What is done with the images: rounding with few bits, training, and cutting; the same for every source."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benchmarks.datafree.sources import Source, original, task_of
from plisse.compress.decompose import Decompose
from plisse.compress.finetune import FineTune, ReestimateNorm, distilled
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.lowrank.selectors import Uniform
from plisse.compress.prune.patterns import Channels
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware import Aware
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.compress.quantize.rounding import Reconstruct
from plisse.compress.step import Chain, chain
from plisse.data.mixing import CutOut, MixUp, transformed
from plisse.train.optimizers import SGD

RECONSTRUCTION = 100  # steps per block
TRAINING = 120  # batches of 128
TUNING = 60
RATE = 0.005
HINTS = 0.01


@dataclass(frozen=True)
class Setting:
    """kind: calibrate (ranges alone), reconstruct, train, both, or a step alone. weights, inputs: bits."""

    name: str
    kind: str
    weights: int = 8
    inputs: int | None = None


CALIBRATED = (Setting("W4A8 ranges", "calibrate", 4, 8), Setting("W4A4 ranges", "calibrate", 4, 4))
RECONSTRUCTED = (
    Setting("W2", "reconstruct", 2),
    Setting("W3", "reconstruct", 3),
    Setting("W4A4", "reconstruct", 4, 4),
    Setting("W3A3", "reconstruct", 3, 3),
    Setting("W2A4", "reconstruct", 2, 4),
)
TRAINED = (
    Setting("W4A4 trained", "train", 4, 4),
    Setting("W2A4 trained", "train", 2, 4),
    Setting("W2A4 reconstructed, trained", "reconstruct, train", 2, 4),
)
STRUCTURED = (Setting("low rank 50 %", "lowrank"), Setting("channels 30 %", "prune"))
SETTINGS = {each.name: each for each in (*CALIBRATED, *RECONSTRUCTED, *TRAINED, *STRUCTURED)}


def rounded(setting: Setting, seed: int, steps: int = RECONSTRUCTION) -> Chain:
    """Batch norm folded, first and last layer 8 bits; with reconstruction, as benchmarks.quantization has it:
    BRECQ for weights alone, QDrop where inputs are rounded too."""
    inputs = None if setting.inputs is None else Activations(setting.inputs, MSE())
    range = MinMax() if setting.weights == 3 else MSE()
    drop = 0.0 if setting.inputs is None else 0.5
    step = Quantize(bits=setting.weights, symmetric=False, range=range, first_last_bits=8, activations=inputs)
    if setting.kind.startswith("reconstruct"):
        step = dataclasses.replace(step, rounding=Reconstruct(steps=steps, drop=drop, seed=seed))
    return chain(FoldBatchNorm(), step)


def compressed(setting: Setting, source: Source, small: bool = False) -> nn.Module:
    """The original after the setting, with images of the source and nothing else."""
    return ACTIONS[setting.kind](setting, source, small)


def _round(setting: Setting, source: Source, small: bool) -> nn.Module:
    step = rounded(setting, source.seed, 10 if small else RECONSTRUCTION)
    return step(original(source.network), task_of(source))


def _train(setting: Setting, source: Source, small: bool) -> nn.Module:
    """Training aware of rounding, from calibrated ranges or reconstructed layers, batch norm folded, with the
    paper's objective: KL, intermediate outputs, mixtures, cut-out."""
    teacher = original(source.network)
    task = distilled(task_of(source, train=True), teacher, temperature=1.0, hints=HINTS)
    mixed = dataclasses.replace(task, train=transformed(task.train, (MixUp(), CutOut()), source.seed))
    aware = Aware(10 if small else TRAINING, lr=RATE, optimizer=SGD(), clip=1.0, seed=source.seed)
    step = rounded(setting, source.seed, 10 if small else RECONSTRUCTION)
    quantize = dataclasses.replace(step.steps[1], aware=aware)
    return chain(step.steps[0], quantize)(teacher, mixed)


def _low_rank(setting: Setting, source: Source, small: bool) -> nn.Module:
    step = Decompose(0.5, Uniform(), steps=0, finetune=5 if small else TUNING, statistics=5 if small else 30)
    teacher = original(source.network)
    return step(teacher, distilled(task_of(source, train=True), teacher))


def _prune(setting: Setting, source: Source, small: bool) -> nn.Module:
    n = 5 if small else TUNING
    step = chain(Prune(sparsity=0.3, pattern=Channels()), FineTune(n), ReestimateNorm(min(n, 30)))
    teacher = original(source.network)
    return step(teacher, distilled(task_of(source, train=True), teacher))


ACTIONS: dict[str, Callable[[Setting, Source, bool], nn.Module]] = {
    "calibrate": _round,
    "reconstruct": _round,
    "train": _train,
    "reconstruct, train": _train,
    "lowrank": _low_rank,
    "prune": _prune,
}
