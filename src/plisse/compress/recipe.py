"""Recipes: a chain of steps as YAML, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plisse.compress.correct import AnalyticBiasCorrection, BiasCorrection
from plisse.compress.decompose import Decompose
from plisse.compress.equalize import Equalize
from plisse.compress.finetune import FineTune, ReestimateNorm
from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.lowrank.balance import Balance
from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.canonical import CP
from plisse.compress.lowrank.factorize import Factorize
from plisse.compress.lowrank.schemes import Channel, Spatial
from plisse.compress.lowrank.selectors import Energy, EnergyPerParameter, Learning, MinMaxError, Uniform
from plisse.compress.lowrank.tensors import TensorDecompose
from plisse.compress.lowrank.trains import TensorTrain
from plisse.compress.lowrank.tucker import BlockTerm, Tucker2
from plisse.compress.prune.patterns import NM, Channels, Gradual, OneShot, Unstructured
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize import aware, ranges, rounding
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.codebooks.binary import Binary, LossAwareBinary
from plisse.compress.quantize.codebooks.codes import BinaryCodes
from plisse.compress.quantize.codebooks.floats import Float, Microscaling
from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.codebooks.levels import AdditivePowersOfTwo, Logarithmic, Lookup, NormalFloat
from plisse.compress.quantize.codebooks.lossaware import LossAwareTernary
from plisse.compress.quantize.codebooks.ternary import Ternary, TrainedTernary
from plisse.compress.quantize.codebooks.vectors import ProductQuantization, ResidualQuantization
from plisse.compress.quantize.compensate import Compensate
from plisse.compress.quantize.families import Nearest
from plisse.compress.quantize.grids import PerBlock, PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.importance import Curvature, InputEnergy
from plisse.compress.quantize.incoherent import Incoherent
from plisse.compress.quantize.intervals import Intervals, Signs
from plisse.compress.quantize.lapq import LAPQ
from plisse.compress.quantize.mixed.curvature import Fisher, HessianTrace, Itself, Labels, SampledLabels
from plisse.compress.quantize.mixed.eigenvalue import HessianEigenvalue
from plisse.compress.quantize.mixed.learned import LearnedPrecision
from plisse.compress.quantize.mixed.mixed import MixedPrecision
from plisse.compress.quantize.mixed.search import SearchedPrecision
from plisse.compress.quantize.mixed.sensitivity import Perturbation
from plisse.compress.quantize.mixed.widths import BitPlanes, Blend, LearnedRange
from plisse.compress.quantize.output import OutputMSE
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.quantize.states import RoundStates
from plisse.compress.smooth import ActivationAware, Smooth
from plisse.compress.sphere.canonicalize import Canonicalize
from plisse.compress.sphere.domain import Box, CalibrationBox, Observed, Unbounded
from plisse.compress.sphere.shared import SharedGrid
from plisse.compress.split import SplitOutliers
from plisse.compress.step import Chain, Step, chain
from plisse.core.config import TYPE_KEY, from_data, to_data, unknown_type
from plisse.data.mixing import CutOut, MixUp
from plisse.errors import InputError
from plisse.train.optimizers import SGD, AdamW
from plisse.train.schedules import Constant, Cosine, Cubic

STEPS: tuple[type, ...] = (
    *(Prune, Quantize, RateQuantize, MixedPrecision, LearnedPrecision, SearchedPrecision, LAPQ, CompactSmall),
    *(Factorize, Decompose, TensorDecompose, Balance, FineTune, ReestimateNorm, aware.FoldForTraining),
    *(FoldBatchNorm, AbsorbStatistics, Equalize, Smooth, ActivationAware, SplitOutliers, Incoherent),
    *(Canonicalize, RoundStates),
    *(Compensate, BiasCorrection, AnalyticBiasCorrection),
)
LOW_RANK: tuple[type, ...] = (
    *(Channel, Spatial, Tucker2, BlockTerm, CP, TensorTrain),
    *(BeamSearch, Uniform, Energy, EnergyPerParameter, Learning, MinMaxError),
)
PRUNING: tuple[type, ...] = (Unstructured, NM, Channels, OneShot, Gradual)
GRIDS: tuple[type, ...] = (
    *(PerTensor, PerChannel, PerGroup, PerBlock),
    *(Logarithmic, AdditivePowersOfTwo, NormalFloat, Float, Microscaling, KMeans, BinaryCodes),
    *(Binary, LossAwareBinary, Ternary, TrainedTernary, LossAwareTernary, ProductQuantization),
    *(ResidualQuantization, Lookup, SharedGrid, InputEnergy, Curvature),
)
RANGES: tuple[type, ...] = (
    *(ranges.MinMax, ranges.Percentile, ranges.MSE, ranges.Entropy, ranges.ACIQ),
    *(ranges.MovingAverage, ranges.PowerOfTwo, ranges.MeanMagnitude, Activations),
    *(Signs, Intervals, Box, CalibrationBox, Observed, Unbounded),
)
ROUNDINGS: tuple[type, ...] = (
    *(Nearest, rounding.Stochastic, rounding.AdaRound, rounding.AdaQuant, rounding.GPTQ),
    *(rounding.Reconstruct, rounding.AdditiveCodes, rounding.BitSplit, OutputMSE),
)
AWARE: tuple[type, ...] = (
    *(aware.Aware, aware.Stage, aware.StraightThrough, aware.Clipped, aware.ElementwiseScaled),
    *(aware.SoftStep, aware.RandomRounding, aware.LearnedStep, aware.PACT, aware.LogThreshold),
    *(aware.QuantNoise, aware.AdditiveNoise, aware.Proximal, aware.Relaxed, aware.DoReFa),
    *(aware.FreezeOscillating, aware.DampOscillating, aware.LearnedInterval, aware.PolynomialStep),
    *(aware.PowerStep, aware.LossAware, aware.Staircase, aware.AlphaBlending),
)
SENSITIVITIES: tuple[type, ...] = (
    *(Perturbation, HessianTrace, HessianEigenvalue, Fisher, Itself, SampledLabels, Labels),
    *(Blend, LearnedRange, BitPlanes),
)
TRAINING: tuple[type, ...] = (SGD, AdamW, Cosine, Constant, Cubic, MixUp, CutOut)
VALUES = (*PRUNING, *LOW_RANK, *GRIDS, *RANGES, *ROUNDINGS, *AWARE, *SENSITIVITIES, *TRAINING)
TYPES = {kind.__name__: kind for kind in (*STEPS, *VALUES)}
"""Every type that a recipe may name."""
LIMIT = 1 << 20


def dump_recipe(recipe: Step) -> str:
    """A recipe as YAML text: a list of steps, each with the fields that are not at their default."""
    return yaml.safe_dump([to_data(step) for step in chain(recipe).steps], sort_keys=False)


def parse_recipe(text: str) -> Chain:
    """The inverse of `dump_recipe`. A name alone, `- Quantize`, is the step with its defaults.

    Raises InputError for anything that is no list of known steps with fields of their types.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"a recipe that is no YAML: {error}") from error
    names = ", ".join(step.__name__ for step in STEPS)
    if not isinstance(data, list) or not data:
        raise InputError("a recipe that is no list", expected="a list of '- type: NAME'", hint=names)
    return chain(*(_step(item) for item in data))


def _step(item: Any) -> Step:
    """One step of a recipe, from its name or its fields."""
    given = {TYPE_KEY: item} if isinstance(item, str) else item
    names = [step.__name__ for step in STEPS]
    if not isinstance(given, Mapping) or TYPE_KEY not in given:
        raise InputError(f"{item!r} in a recipe", expected="a step", hint="- type: Quantize")
    if given[TYPE_KEY] not in TYPES:
        raise unknown_type(str(given[TYPE_KEY]), TYPES, names)
    step = from_data(given, TYPES)
    if not isinstance(step, STEPS):
        raise InputError(f"{step!r} in a recipe", expected=f"a step: {', '.join(names)}")
    return step  # type: ignore[return-value]


def read_recipe(path: str | Path) -> Chain:
    """Read a recipe file. Raises InputError where it is missing, too long or not understood."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"recipe {str(path)!r}", expected="a YAML file that exists")
    if path.stat().st_size > LIMIT:
        raise InputError(f"a recipe of {path.stat().st_size} bytes", expected=f"at most {LIMIT}")
    return parse_recipe(path.read_text(encoding="utf-8"))
