"""Recipes: a chain of steps as YAML, and back."""

from __future__ import annotations

from pathlib import Path

import yaml

from plisse.compress.correct import BiasCorrection
from plisse.compress.finetune import FineTune, ReestimateNorm
from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.prune.patterns import NM, Channels, Gradual, OneShot, Unstructured
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware import Aware
from plisse.compress.quantize.grids import PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax, Percentile
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.step import Chain, Step, chain
from plisse.core.config import from_data, to_data
from plisse.errors import InputError
from plisse.train.optimizers import SGD, AdamW
from plisse.train.schedules import Constant, Cosine, Cubic

STEPS: tuple[type, ...] = (
    Prune,
    Quantize,
    RateQuantize,
    FineTune,
    ReestimateNorm,
    FoldBatchNorm,
    AbsorbStatistics,
    CompactSmall,
    BiasCorrection,
)
VALUES: tuple[type, ...] = (
    Unstructured,
    NM,
    Channels,
    OneShot,
    Gradual,
    PerTensor,
    PerChannel,
    PerGroup,
    MinMax,
    Percentile,
    MSE,
    Activations,
    Aware,
    SGD,
    AdamW,
    Cosine,
    Constant,
    Cubic,
)
TYPES = {kind.__name__: kind for kind in (*STEPS, *VALUES)}
LIMIT = 1 << 20


def dump_recipe(recipe: Step) -> str:
    """A recipe as YAML text: a list of steps, each with the fields that are not at their default."""
    return yaml.safe_dump([to_data(step) for step in chain(recipe).steps], sort_keys=False)


def parse_recipe(text: str) -> Chain:
    """The inverse of `dump_recipe`. Raises InputError for anything that is no list of known steps."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"a recipe that is no YAML: {error}") from error
    names = ", ".join(step.__name__ for step in STEPS)
    if not isinstance(data, list) or not data:
        raise InputError("a recipe that is no list", expected="a list of '- type: NAME'", hint=names)
    steps = from_data(data, TYPES)
    for step in steps:
        if not isinstance(step, STEPS):
            raise InputError(f"{step!r} in a recipe", expected=f"a step: {names}")
    return chain(*steps)


def read_recipe(path: str | Path) -> Chain:
    """Read a recipe file. Raises InputError where it is missing, too long or not understood."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"recipe {str(path)!r}", expected="a YAML file that exists")
    if path.stat().st_size > LIMIT:
        raise InputError(f"a recipe of {path.stat().st_size} bytes", expected=f"at most {LIMIT}")
    return parse_recipe(path.read_text(encoding="utf-8"))
