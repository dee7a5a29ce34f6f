"""AdaQuant: learn weights, scales and biases of each layer so that its rounded output stays near."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from plisse.compress.quantize.rounding.reconstruction import Search, check_training, searched
from plisse.compress.quantize.rounding.variables import Continuous
from plisse.core.reparam import Reparametrized
from plisse.train.task import Task


@dataclass(frozen=True)
class AdaQuant:
    """min over W, s, b and the scale of activations of E|W0 x + b0 - (Q_s(W) Q(x^) + b)|^2, rounding straight
    through (Hubara et al. 2020, section 3.1). x is the layer's input in the original, x^ that in the network
    rounded so far. Symbols may end anywhere on the grid.

    steps: per layer. lr: of Adam for W, in steps of the grid. scale_rate, bias_rate, input_rate: learning
    rates of scales, biases (as shares of their size) and scales of activations, as multiples of lr; 0 leaves
    them. batch: samples per step. samples: of calibration. progress: label of a bar on standard error.

    Embeddings and grids that are not uniform stay rounded to nearest, with a note.
    Raises InputError for numbers out of range and calibration without batches or with NaN.
    """

    steps: int = 300
    lr: float = 0.05
    batch: int = 32
    scale_rate: float = 0.3
    bias_rate: float = 0.3
    input_rate: float = 0.3
    samples: int = 256
    seed: int = 0
    progress: str | None = None

    def __post_init__(self) -> None:
        check_training(self.steps, self.lr, self.batch, self.samples)

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        how = Search(
            "layer",
            Continuous,
            self.steps,
            self.lr,
            self.batch,
            self.scale_rate,
            self.bias_rate,
            self.input_rate,
            samples=self.samples,
            seed=self.seed,
            progress=self.progress,
        )
        return searched(quantized, original, task, how)
