"""Plissé: neural networks at every size. A trained network and a budget in, one small file that runs out.

    import plisse

    model = plisse.open_model("resnet20", weights="resnet20.safetensors")
    task = plisse.open_task("cifar10:data/cifar10")
    result = plisse.compress(model, task, budget="bytes=0.1x")
    plisse.write("small.plisse", result.data)
    again = plisse.load("small.plisse")

Names are imported when they are first used, so that `import plisse` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    # the main job
    "compress": "plisse.compress.compress",
    "open_model": "plisse.networks.open",
    "open_task": "plisse.train.tasks",
    "load": "plisse.networks.open",
    "save": "plisse.networks.open",
    "write": "plisse.bitstream.atomic:write_atomic",
    "write_report": "plisse.report.html",
    # nouns
    "Batch": "plisse.core.batch",
    "Budget": "plisse.cost.budget",
    "Cost": "plisse.cost.budget",
    "Origin": "plisse.core.origin",
    "Result": "plisse.compress.result",
    "Task": "plisse.train.task",
    "classification": "plisse.train.task",
    "with_origin": "plisse.core.origin",
    # steps
    "AbsorbStatistics": "plisse.compress.fold",
    "Canonicalize": "plisse.compress.sphere.canonicalize",
    "CompactSmall": "plisse.compress.quantize.small",
    "Compensate": "plisse.compress.quantize.compensate",
    "Decompose": "plisse.compress.decompose",
    "Factorize": "plisse.compress.lowrank.factorize",
    "FineTune": "plisse.compress.finetune",
    "FoldBatchNorm": "plisse.compress.fold",
    "MixedPrecision": "plisse.compress.quantize.mixed.mixed",
    "Prune": "plisse.compress.prune.prune",
    "Quantize": "plisse.compress.quantize.quantize",
    "RateQuantize": "plisse.compress.quantize.rated",
    "TensorDecompose": "plisse.compress.lowrank.tensors",
    "chain": "plisse.compress.step",
    # without data
    "DriftMonitor": "plisse.compress.datafree.drift",
    "data_free": "plisse.compress.datafree.task",
    "learned_limits": "plisse.compress.datafree.drift",
    "similarity": "plisse.compress.datafree.similarity",
    "synthesize": "plisse.compress.datafree.synthesize",
    "synthetic_sentences": "plisse.compress.datafree.tokens",
    # elastic networks
    "Governed": "plisse.adapt.governed",
    "Governor": "plisse.adapt.governor",
    "Point": "plisse.adapt.elastic",
    "open_elastic": "plisse.adapt.opened",
    "profile": "plisse.adapt.profiling",
    "read_profile": "plisse.cost.kept",
    "save_subspace": "plisse.adapt.opened",
    "train_subspace": "plisse.adapt.train",
    # measuring, training, exporting
    "evaluate": "plisse.train.evaluate",
    "fit": "plisse.train.loop",
    "measure": "plisse.cost.measure",
    "to_integer": "plisse.integer.convert",
    "to_integer_onnx": "plisse.export",
    "to_onnx": "plisse.export",
    "PlisseError": "plisse.errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from plisse.adapt.elastic import Point
    from plisse.adapt.governed import Governed
    from plisse.adapt.governor import Governor
    from plisse.adapt.opened import open_elastic, save_subspace
    from plisse.adapt.profiling import profile
    from plisse.adapt.train import train_subspace
    from plisse.bitstream.atomic import write_atomic as write
    from plisse.compress.compress import compress
    from plisse.compress.datafree.drift import DriftMonitor, learned_limits
    from plisse.compress.datafree.similarity import similarity
    from plisse.compress.datafree.synthesize import synthesize
    from plisse.compress.datafree.task import data_free
    from plisse.compress.datafree.tokens import synthetic_sentences
    from plisse.compress.decompose import Decompose
    from plisse.compress.finetune import FineTune
    from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
    from plisse.compress.lowrank.factorize import Factorize
    from plisse.compress.lowrank.tensors import TensorDecompose
    from plisse.compress.prune.prune import Prune
    from plisse.compress.quantize.compensate import Compensate
    from plisse.compress.quantize.mixed.mixed import MixedPrecision
    from plisse.compress.quantize.quantize import Quantize
    from plisse.compress.quantize.rated import RateQuantize
    from plisse.compress.quantize.small import CompactSmall
    from plisse.compress.result import Result
    from plisse.compress.sphere.canonicalize import Canonicalize
    from plisse.compress.step import chain
    from plisse.core.batch import Batch
    from plisse.core.origin import Origin, with_origin
    from plisse.cost.budget import Budget, Cost
    from plisse.cost.kept import read_profile
    from plisse.cost.measure import measure
    from plisse.errors import PlisseError
    from plisse.export import to_integer_onnx, to_onnx
    from plisse.integer.convert import to_integer
    from plisse.networks.open import load, open_model, save
    from plisse.report.html import write_report
    from plisse.train.evaluate import evaluate
    from plisse.train.loop import fit
    from plisse.train.task import Task, classification
    from plisse.train.tasks import open_task


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'plisse' has no attribute {name!r}")
    home, _, attribute = _HOME[name].partition(":")
    value = getattr(importlib.import_module(home), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
