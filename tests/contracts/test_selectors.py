"""The contract of selectors of ranks: what was asked goes, nothing changes, the impossible is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.problem import Problem, pose
from plisse.compress.lowrank.selectors import (
    Energy,
    EnergyPerParameter,
    Learning,
    MinMaxError,
    Selector,
    Uniform,
)
from plisse.core.batch import Batch, BatchList
from plisse.errors import BudgetError, InputError
from plisse.train.task import classification

CASES: list[Selector] = [
    Uniform(),
    Energy(),
    EnergyPerParameter(),
    Learning(),
    MinMaxError(),
    BeamSearch(levels=(4,)),
    BeamSearch(width=2, levels=(3, 6), fresh=None, settle=0.25),
]
EVERY = pytest.mark.parametrize("selector", CASES, ids=lambda case: f"{type(case).__name__}")


def problem() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5),
    )  # fmt: skip
    batches = BatchList((Batch(torch.randn(8, 3, 8, 8)),))
    return pose(model, classification("tiny", batches[0].inputs, batches, batches, batches))


@EVERY
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
def test_at_least_the_ratio_goes_and_every_rank_saves(selector: Selector, ratio: float) -> None:
    posed = problem()
    ranks = selector.ranks(posed, ratio)
    assert ratio <= posed.removed(ranks) < ratio + 0.2
    assert all(1 <= rank <= posed.spectra[name].break_even for name, rank in ranks.items())


@EVERY
def test_more_goes_when_more_is_asked(selector: Selector) -> None:
    posed = problem()
    removed = [posed.removed(selector.ranks(posed, ratio)) for ratio in (0.2, 0.4, 0.6, 0.8)]
    assert removed == sorted(removed)
    assert removed[0] < removed[-1]


@EVERY
def test_the_answer_is_the_same_twice_and_the_network_as_it_was(selector: Selector) -> None:
    posed = problem()
    before = copy.deepcopy(posed.model.state_dict())
    assert selector.ranks(posed, 0.5) == selector.ranks(posed, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in posed.model.state_dict().items())


@EVERY
@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_ratios_out_of_range_are_refused(selector: Selector, ratio: float) -> None:
    with pytest.raises(InputError):
        selector.ranks(problem(), ratio)


@EVERY
def test_what_rank_one_everywhere_cannot_reach_is_refused(selector: Selector) -> None:
    posed = problem()
    most = posed.removed(dict.fromkeys(posed.spectra, 1))
    with pytest.raises(BudgetError):
        selector.ranks(posed, (1 + most) / 2)
