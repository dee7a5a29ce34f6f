"""The contract of every step: pure, printable, comparable, saved in recipes. Add yours to CASES."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plisse.compress.correct import AnalyticBiasCorrection, BiasCorrection
from plisse.compress.decompose import Decompose
from plisse.compress.equalize import Equalize
from plisse.compress.finetune import FineTune, ReestimateNorm
from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.lowrank.balance import Balance
from plisse.compress.lowrank.factorize import Factorize
from plisse.compress.lowrank.selectors import Uniform
from plisse.compress.lowrank.tensors import TensorDecompose
from plisse.compress.prune.patterns import NM, Channels
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware import Aware, FoldForTraining
from plisse.compress.quantize.compensate import Compensate
from plisse.compress.quantize.grids import PerBlock, PerGroup
from plisse.compress.quantize.incoherent import Incoherent
from plisse.compress.quantize.lapq import LAPQ
from plisse.compress.quantize.mixed.learned import LearnedPrecision
from plisse.compress.quantize.mixed.mixed import MixedPrecision
from plisse.compress.quantize.mixed.search import SearchedPrecision
from plisse.compress.quantize.output import OutputMSE
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.quantize.states import RoundStates
from plisse.compress.recipe import STEPS, dump_recipe, parse_recipe
from plisse.compress.smooth import ActivationAware, Smooth
from plisse.compress.sphere.canonicalize import Canonicalize
from plisse.compress.sphere.domain import Unbounded
from plisse.compress.sphere.shared import SharedGrid
from plisse.compress.split import SplitOutliers
from plisse.compress.step import chain
from plisse.core.batch import Batch, BatchList, call
from plisse.core.reparam import baked
from plisse.data.mixing import CutOut
from plisse.errors import InputError
from plisse.train.task import Task, classification

CASES = [
    Prune(sparsity=0.5),
    Prune(pattern=NM(2, 4)),
    Prune(sparsity=0.5, pattern=Channels()),
    Quantize(bits=4, granularity=PerGroup(8), range=MinMax(), activations=Activations(bits=8)),
    Quantize(bits=4, aware=Aware(steps=3)),
    RateQuantize({"0.weight": 0.1, "4.weight": 0.05}, rounding="trellis"),
    chain(RateQuantize({"0.weight": 0.1}), BiasCorrection()),
    chain(RateQuantize({"0.weight": 0.1, "4.weight": 0.05}), Compensate(samples=32)),
    FineTune(steps=3, lr=0.01),
    ReestimateNorm(batches=2),
    FoldBatchNorm(),
    FoldBatchNorm(keep_statistics=True),
    AbsorbStatistics(),
    CompactSmall(),
    chain(FoldBatchNorm(), Equalize(absorb_bias=True)),
    chain(Quantize(bits=3), AnalyticBiasCorrection()),
    Smooth(alpha=0.4),
    ActivationAware(bits=3, granularity=PerGroup(8), points=3),
    chain(FoldBatchNorm(), SplitOutliers(share=0.2)),
    LAPQ(Quantize(bits=4, activations=Activations(bits=4)), norms=(2.0, 3.0)),
    Quantize(bits=3, rounding=OutputMSE(samples=16)),
    Quantize(bits=4, granularity=PerBlock(2, 8), activations=Activations(dynamic="row")),
    MixedPrecision("bytes=0.3x", bits=(2, 4, 8)),
    chain(FoldForTraining(), FineTune(steps=2)),
    FineTune(steps=2, transforms=(CutOut(),)),
    Factorize({"4": 2}, whitened=True),
    Decompose(0.3, Uniform(), steps=2, finetune=2, statistics=2),
    chain(Factorize({"4": 2}), Balance()),
    TensorDecompose(ratio=0.2),
    LearnedPrecision(4, search=Aware(steps=3)),
    SearchedPrecision(MixedPrecision("bytes=0.5x", bits=(2, 4, 8)), rounds=2, samples=3),
    chain(Incoherent(), Quantize(bits=3)),
    chain(RoundStates(bits=4), Quantize(bits=3)),
    chain(FoldBatchNorm(), Canonicalize(Unbounded()), Quantize(grid=SharedGrid(3))),
]


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model.eval()


def task() -> Task:
    torch.manual_seed(1)
    batches = BatchList(tuple(Batch(torch.randn(16, 1, 4, 4), torch.randint(3, (16,))) for _ in range(3)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def test_every_known_step_has_a_case() -> None:
    tried = {type(step) for case in CASES for step in chain(case).steps}
    assert tried == set(STEPS)


@pytest.mark.parametrize("step", CASES, ids=repr)
def test_a_step_leaves_the_given_network_as_it_was(step) -> None:
    model, problem = net(), task()
    state = copy.deepcopy(model.state_dict())
    structure, training = repr(model), model.training
    result = step(model, problem)
    assert repr(model) == structure
    assert model.training is training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert result is not model
    assert call(baked(result).eval(), problem.example).shape == (16, 3)


@pytest.mark.parametrize("step", CASES, ids=repr)
def test_a_step_survives_a_recipe(step) -> None:
    assert parse_recipe(dump_recipe(step)) == chain(step)


@pytest.mark.parametrize("step", CASES, ids=repr)
def test_a_step_gives_the_same_result_twice(step) -> None:
    first, second = (baked(step(net(), task())).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "text", ["", "- type: Nothing", "- type: Prune\n  colour: red", "type: Prune", "- type: PerTensor", ": ["]
)
def test_recipes_that_are_not_understood_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_recipe(text)
