"""Quantization-aware training: settings, families and the function that trains."""

from plisse.compress.quantize.aware.dorefa import DoReFa, UnitInterval
from plisse.compress.quantize.aware.estimators import (
    Clipped,
    ElementwiseScaled,
    PolynomialStep,
    PowerStep,
    RandomRounding,
    SoftStep,
    StraightThrough,
)
from plisse.compress.quantize.aware.folded import FoldForTraining
from plisse.compress.quantize.aware.inputs import (
    PACT,
    LearnedClip,
    LearnedScale,
    LearnedShift,
    LearnedStep,
    LearnedZero,
    LogThreshold,
    learn_inputs,
)
from plisse.compress.quantize.aware.interval import LearnedInterval
from plisse.compress.quantize.aware.noise import AdditiveNoise, QuantNoise
from plisse.compress.quantize.aware.oscillation import DampOscillating, FreezeOscillating
from plisse.compress.quantize.aware.proximal import Proximal, Relaxed
from plisse.compress.quantize.aware.ramp import Stage
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.aware.softer import AlphaBlending, LossAware, Staircase
from plisse.compress.quantize.aware.train import train_quantized

__all__ = [
    "PACT",
    "AdditiveNoise",
    "AlphaBlending",
    "Aware",
    "Clipped",
    "DampOscillating",
    "DoReFa",
    "ElementwiseScaled",
    "FoldForTraining",
    "FreezeOscillating",
    "LearnedClip",
    "LearnedInterval",
    "LearnedScale",
    "LearnedShift",
    "LearnedStep",
    "LearnedZero",
    "LogThreshold",
    "LossAware",
    "PolynomialStep",
    "PowerStep",
    "Proximal",
    "QuantNoise",
    "RandomRounding",
    "Relaxed",
    "SoftStep",
    "Stage",
    "Staircase",
    "StraightThrough",
    "UnitInterval",
    "learn_inputs",
    "train_quantized",
]
