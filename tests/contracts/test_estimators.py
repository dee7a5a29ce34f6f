"""The contract of every estimator, the gradient that rounding is given: add yours to ESTIMATORS with its
slope by its formula."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from plisse.compress.quantize.aware.estimators import (
    Clipped,
    ElementwiseScaled,
    PolynomialStep,
    PowerStep,
    RandomRounding,
    SoftStep,
    StraightThrough,
)
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Estimator
from plisse.compress.quantize.grids import Format, PerChannel
from plisse.compress.quantize.ranges import MinMax
from plisse.core.reparam import Plain
from plisse.errors import InputError

SAMPLES = [-2.3, -1.0, -0.75, -0.2, 0.0, 0.3, 0.9, 1.6, 7.45]
GRADIENTS = [1.0, -2.0, 0.5, 1.0, -1.0, -0.5, 3.0, 1.0, -1.0]


def soft(x: float, temperature: float) -> float:
    k = 1 / temperature
    u = x - math.floor(x) - 0.5
    return k * (1 - math.tanh(k * u) ** 2) / (2 * math.tanh(k / 2))


def half_steps(x: float) -> float:
    return max(2 * abs(x - math.floor(x) - 0.5), 1e-12)


ESTIMATORS = [
    (StraightThrough(), lambda x, g: 1.0),
    (Clipped(), lambda x, g: float(abs(x) <= 1)),
    (Clipped(2.0), lambda x, g: float(abs(x) <= 2)),
    (Clipped(polynomial=True), lambda x, g: max(0.0, 2 - 2 * abs(x))),
    (Clipped(2.0, polynomial=True), lambda x, g: max(0.0, 2 - abs(x))),
    (ElementwiseScaled(0.2), lambda x, g: 1 + 0.2 * math.copysign(1, g) * (x - round(x))),
    (ElementwiseScaled(0.0), lambda x, g: 1.0),
    (SoftStep(0.5), lambda x, g: soft(x, 0.5)),
    (SoftStep(0.1), lambda x, g: soft(x, 0.1)),
    (PolynomialStep(), lambda x, g: 2 - 2 * half_steps(x)),
    (PowerStep(2.0), lambda x, g: min(10.0, 0.5 * half_steps(x) ** -0.5)),
    (PowerStep(1.0), lambda x, g: 1.0),
    (RandomRounding(), lambda x, g: 1.0),
]
MEMBERS = [estimator for estimator, _ in ESTIMATORS]
NEAREST = [member for member in MEMBERS if member != RandomRounding()]


@pytest.mark.parametrize("estimator", NEAREST, ids=str)
def test_rounds_to_nearest(estimator: Estimator) -> None:
    values = torch.linspace(-5, 5, 41)
    assert torch.equal(estimator.round(values), torch.round(values))


@pytest.mark.parametrize("estimator", MEMBERS, ids=str)
def test_gives_whole_numbers_next_to_the_value(estimator: Estimator) -> None:
    torch.manual_seed(0)
    values = torch.randn(1000) * 10
    rounded = estimator.round(values)
    assert torch.equal(rounded, torch.round(rounded))
    assert float((rounded - values).abs().max()) < 1


@pytest.mark.parametrize(("estimator", "slope"), ESTIMATORS, ids=[str(each) for each in MEMBERS])
def test_has_the_gradient_of_its_formula(estimator: Estimator, slope: object) -> None:
    values = torch.tensor(SAMPLES, requires_grad=True)
    estimator.round(values).backward(torch.tensor(GRADIENTS))
    assert callable(slope)
    assert values.grad is not None
    wanted = [g * slope(x, g) for x, g in zip(SAMPLES, GRADIENTS, strict=True)]
    assert values.grad.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("estimator", MEMBERS, ids=str)
def test_is_finite_for_large_values_and_keeps_type(estimator: Estimator) -> None:
    values = torch.tensor([0.0, -0.5, 0.5, 1e6, -1e6, 123.5], dtype=torch.float64, requires_grad=True)
    rounded = estimator.round(values)
    rounded.sum().backward()
    assert rounded.dtype == torch.float64
    assert values.grad is not None
    assert bool(torch.isfinite(rounded).all())
    assert bool(torch.isfinite(values.grad).all())


@pytest.mark.parametrize("estimator", MEMBERS, ids=str)
def test_is_a_value(estimator: Estimator) -> None:
    assert copy.deepcopy(estimator) == estimator
    assert hash(estimator) == hash(copy.deepcopy(estimator))


@pytest.mark.parametrize("estimator", MEMBERS, ids=str)
def test_weights_are_written_as_they_are_used_in_evaluation(estimator: Estimator) -> None:
    torch.manual_seed(1)
    grid = FakeQuantized(Plain(torch.randn(4, 30)), Format(3), PerChannel(), MinMax(), learn_step=True)
    before = grid.stored().values()
    grid.training_rounding = estimator.round
    assert grid.training
    grid().square().sum().backward()
    assert bool(torch.isfinite(grid.source.weight.grad).all())
    assert bool(torch.isfinite(grid.scale.grad).all())
    assert (grid.stored().values() == before).all()
    assert torch.equal(grid.eval()().detach(), torch.from_numpy(before))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Clipped(0.0),
        lambda: Clipped(-1.0),
        lambda: Clipped(float("nan")),
        lambda: ElementwiseScaled(-0.1),
        lambda: ElementwiseScaled(2.1),
        lambda: PowerStep(0.5),
        lambda: PowerStep(2.0, 0.0),
        lambda: SoftStep(0.0),
        lambda: SoftStep(float("nan")),
        lambda: SoftStep(float("inf")),
    ],
)
def test_numbers_out_of_range_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(InputError):
        make()
