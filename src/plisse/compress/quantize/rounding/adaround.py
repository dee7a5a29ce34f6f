"""AdaRound: learn for every weight whether it is rounded up or down, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from plisse.compress.quantize.rounding.reconstruction import Search, check_training, searched
from plisse.compress.quantize.rounding.variables import Adaptive
from plisse.core.reparam import Reparametrized
from plisse.train.task import Task

STRENGTH = 0.3


@dataclass(frozen=True)
class AdaRound:
    """min over V of E|W x - W^ x^|^2 + strength sum(1 - |2 h(V) - 1|^beta) with
    W^ = s clip(floor(W / s) + h(V), q_min, q_max) and beta from 20 to 2 after a warm start without it (Nagel
    et al. 2020, section 3). x is the layer's input in the original, x^ that in the network rounded so far.

    steps: per layer. lr: of Adam for V. batch: samples per step. samples: of calibration. progress: label of
    a bar on standard error. Scales and biases stay. Every symbol ends next to the weight, above or below.

    Embeddings and grids that are not uniform stay rounded to nearest, with a note.
    Raises InputError for numbers out of range and calibration without batches or with NaN.
    """

    steps: int = 500
    lr: float = 0.1
    batch: int = 32
    samples: int = 256
    seed: int = 0
    progress: str | None = None

    def __post_init__(self) -> None:
        check_training(self.steps, self.lr, self.batch, self.samples)

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        how = Search(
            "layer",
            Adaptive,
            self.steps,
            self.lr,
            self.batch,
            strength=STRENGTH,
            samples=self.samples,
            seed=self.seed,
            progress=self.progress,
        )
        return searched(quantized, original, task, how)
