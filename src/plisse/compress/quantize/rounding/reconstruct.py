"""Block reconstruction: choose the symbols of a block together, so that its output stays near."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from plisse.compress.quantize.families import Nearest, Rounding
from plisse.compress.quantize.rounding.reconstruction import Search, check_training, searched
from plisse.compress.quantize.rounding.units import check_kind
from plisse.compress.quantize.rounding.variables import Adaptive, Continuous
from plisse.core.reparam import Reparametrized
from plisse.errors import InputError
from plisse.train.task import Task

RATE = 0.3  # of scales and biases, as a share of lr
STRENGTH = 0.3


@dataclass(frozen=True)
class Reconstruct:
    """min over symbols, scales and biases of a block of E[g^2 (z - z^)^2], z being the block's output in the
    original and z^ that of the rounded block on what the network rounded so far gives it (BRECQ, Li et al.
    2021). Rounding of activations is dropped at random, value by value (QDrop, Wei et al. 2022).

    block: "block", residual blocks and transformer layers, found from the tree of modules; "layer"; or
    "network", all at once by the task's divergence of outputs from the original's. steps: per block. lr: in
    steps of the grid. batch: samples per step. drop: probability, 0 to 1, that a rounded activation stays as
    it was, and that an input is the original's. learn_scale, learn_bias, learn_input_scale: train these too;
    scales of activations start where their range put them. adaptive: AdaRound's soft rounding, within a step
    of the weight; otherwise weights move freely and are rounded straight through, which needs far fewer
    steps. fisher: g is the gradient of the task's divergence; otherwise 1. samples: of calibration. start: a
    rounding to begin with, so that searches can follow each other. progress: label of a bar on stderr.

    Learned scales are any bfloat16 numbers: for powers of two, learn none. A block that comes no nearer, and
    embeddings and grids that are not uniform, stay as they are, with a note.
    Raises InputError for numbers out of range and calibration without batches or with NaN.

    >>> Reconstruct(block="network", start=Reconstruct(steps=300)).start.steps
    300
    """

    block: str = "block"
    steps: int = 300
    lr: float = 0.05
    batch: int = 32
    drop: float = 0.5
    learn_scale: bool = True
    learn_bias: bool = True
    learn_input_scale: bool = True
    adaptive: bool = False
    fisher: bool = False
    samples: int = 256
    start: Rounding = field(default_factory=Nearest)
    seed: int = 0
    progress: str | None = None

    def __post_init__(self) -> None:
        check_kind(self.block)
        check_training(self.steps, self.lr, self.batch, self.samples)
        if not 0 <= self.drop <= 1:
            raise InputError(f"drop={self.drop}", expected="a probability, 0 to 1", hint="drop=0.5")

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        how = Search(
            kind=self.block,
            rounder=Adaptive if self.adaptive else Continuous,
            steps=self.steps,
            lr=self.lr,
            batch=self.batch,
            scale_rate=RATE * self.learn_scale,
            bias_rate=RATE * self.learn_bias,
            input_rate=RATE * self.learn_input_scale,
            strength=STRENGTH * self.adaptive,
            drop=self.drop,
            fisher=self.fisher,
            samples=self.samples,
            seed=self.seed,
            progress=self.progress,
        )
        return searched(self.start(quantized, original, task), original, task, how)
