"""How to train with rounding in the forward pass, as one printable value."""

from __future__ import annotations

from dataclasses import dataclass, field

from plisse.compress.quantize.aware.estimators import StraightThrough
from plisse.compress.quantize.aware.inputs import InputLearning, LearnedStep
from plisse.compress.quantize.aware.noise import Softening
from plisse.compress.quantize.aware.oscillation import DampOscillating, FreezeOscillating
from plisse.compress.quantize.aware.ramp import Stage
from plisse.compress.quantize.families import Estimator
from plisse.errors import InputError
from plisse.train.optimizers import SGD, Optimizer
from plisse.train.schedules import Cosine, Schedule


@dataclass(frozen=True)
class Aware:
    """Quantization-aware training on the task's objective. A teacher is the task's affair: `distilled(...)`.

    steps: batches, at least 1, of the last training. lr: its peak learning rate, in place of the optimizer's.
    learn_step: scales are trained too (LSQ, Esser et al. 2020); they start where the range put them
    (`MeanMagnitude()` is the paper's start). inputs: how ranges of activations are trained where learn_step:
    LearnedStep(), LearnedStep(offset=True) (LSQ+), PACT(decay) or LogThreshold(). scale_lr: learning rate of
    scales as a share of `lr`, above 0. estimator: the gradient of rounding, of weights on uniform grids and
    of activations. soften: what stands in for rounded weights in training: QuantNoise, AdditiveNoise,
    Proximal or Relaxed. oscillation: FreezeOscillating or DampOscillating. ramp: trainings at more bits that
    come first; softening and freezing belong to the last training. optimizer, schedule, clip, precision,
    seed: as for `fit`.

    >>> Aware(2100, ramp=(Stage(4, 600), Stage(3, 900))).total_steps
    3600
    """

    steps: int
    lr: float = 0.01
    learn_step: bool = True
    inputs: InputLearning = field(default_factory=LearnedStep)
    scale_lr: float = 1.0
    estimator: Estimator = field(default_factory=StraightThrough)
    soften: Softening | None = None
    oscillation: FreezeOscillating | DampOscillating | None = None
    ramp: tuple[Stage, ...] = ()
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    clip: float | None = None
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"{self.steps} steps", expected="at least 1", hint="aware=None trains nothing")
        if not self.scale_lr > 0:
            raise InputError(f"scale_lr {self.scale_lr}", expected="above 0", hint="learn_step=False")

    @property
    def total_steps(self) -> int:
        """Batches of all trainings together."""
        return self.steps + sum(stage.steps for stage in self.ramp)
