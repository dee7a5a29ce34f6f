"""Laws of one and two bits: signs, intervals, learned intervals, importance, ranges with all symbols."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware.estimators import PolynomialStep, PowerStep, StraightThrough
from plisse.compress.quantize.aware.interval import LearnedInterval
from plisse.compress.quantize.aware.softer import Softstairs
from plisse.compress.quantize.codebooks.binary import Binary, LossAwareBinary
from plisse.compress.quantize.codebooks.kmeans import KMeans
from plisse.compress.quantize.codebooks.lossaware import LossAwareTernary
from plisse.compress.quantize.codebooks.ternary import Ternary
from plisse.compress.quantize.codebooks.vectors import ProductQuantization
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerTensor
from plisse.compress.quantize.importance import Curvature, InputEnergy
from plisse.compress.quantize.intervals import Intervals, Signs
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Plain, Reparametrized, plain
from plisse.errors import InputError
from plisse.train.task import Task, classification


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem() -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    model = with_origin(nn.Sequential(*layers), Origin("builtin", "small", {})).eval()
    spread = torch.tensor([4.0, 1, 1, 1, 1, 0.1])
    items = tuple(Batch(some(64, 6, seed=i) * spread, torch.randint(3, (64,))) for i in range(2))
    return model, classification("made", items[0].inputs, *[BatchList(items)] * 3)


def test_products_of_signs_are_counts_of_bits() -> None:
    """a . b = n - 2 popcount(a xor b) for vectors of signs: what XNOR kernels compute."""
    left, right = some(5, 40), some(7, 40, seed=1)
    bits = (left >= 0)[:, None] ^ (right >= 0)[None]
    counted = 40 - 2 * bits.sum(-1)
    weight = Binary("one").quantized(Plain(right))()
    signs = torch.where(left >= 0, 1.0, -1.0)
    assert torch.equal(signs @ weight.detach().T, counted.float())


@pytest.mark.parametrize("estimator", [PolynomialStep(), PowerStep(2.0, 1e9), PowerStep(3.0, 1e9)], ids=repr)
def test_slopes_have_mean_one_over_a_step(estimator: PolynomialStep | PowerStep) -> None:
    values = ((torch.arange(400_000) + 0.5) / 400_000).requires_grad_()
    estimator.round(values).sum().backward()
    assert values.grad is not None
    assert float(values.grad.double().mean()) == pytest.approx(1.0, abs=0.02)


def test_power_one_is_straight_through() -> None:
    slopes = []
    for estimator in (PowerStep(1.0), StraightThrough()):
        values = some(300).requires_grad_()
        (estimator.round(values) * some(300, seed=2)).sum().backward()
        slopes.append(values.grad)
    assert torch.allclose(*slopes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_learned_interval_starts_as_the_symmetric_grid(bits: int) -> None:
    values = some(9, 40)
    grid = FakeQuantized(Plain(values), Format(bits), PerTensor(), MinMax())
    found = LearnedInterval(bits, MinMax()).quantized(Plain(values))
    assert float((found() - grid()).detach().abs().max()) <= float(grid.scale.detach()) * 1.01
    assert float((found() == grid()).float().mean()) > 0.97  # but for what lies at thresholds


def test_a_learned_interval_prunes_below_and_clips_above() -> None:
    found = LearnedInterval(3, MinMax()).quantized(Plain(torch.tensor([-4.0, -0.9, 0.5, 2.0, 3.2, 4.0])))
    with torch.no_grad():
        found.centre.fill_(2.0)
        found.reach.fill_(1.0)
        found.scale.fill_(1.0)
    assert found().detach().tolist() == [-3.0, 0.0, 0.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_all_symbols_of_a_symmetric_grid_have_smaller_steps(bits: int) -> None:
    values = some(1, 4000)
    narrow, full = (
        FakeQuantized(Plain(values), Format(bits, narrow=n), PerTensor(), MinMax()) for n in (True, False)
    )
    assert float(full.scale / narrow.scale) == pytest.approx((2**bits - 2) / (2**bits - 1), rel=0.01)
    assert int(full.stored().symbols.min()) >= -(2 ** (bits - 1))


def test_quantize_takes_all_symbols() -> None:
    model, task = problem()
    found = Quantize(2, narrow=False, range=MSE())(model, task)
    assert isinstance(found, Reparametrized)
    assert {int(r.stored().symbols.min()) for r in found.reparams.values()} == {-2}
    assert {int(r.stored().symbols.max()) for r in found.reparams.values()} == {1}


@pytest.mark.parametrize("weights", [1, 2])
@pytest.mark.parametrize("inputs", range(1, 9))
def test_every_pair_of_few_bits_is_stored_as_it_runs(weights: int, inputs: int) -> None:
    model, task = problem()
    how = Signs() if inputs == 1 else Intervals(inputs) if inputs % 2 else Activations(inputs)
    step = Quantize(2, grid=Binary() if weights == 1 else None, activations=how, first_last_bits=8)
    made = step(model, task).eval()
    found = modelfile.loads(modelfile.dumps(made, model), lambda _: problem()[0])
    assert torch.allclose(found(task.example), made(task.example), atol=1e-6)
    seen: list[Tensor] = []
    found[2].register_forward_hook(lambda layer, inputs, out: seen.append(inputs[0]))
    found(task.example)
    assert len(seen[0].unique()) <= 2**inputs
    symbols = made.reparams["2.weight"].stored().symbols  # type: ignore[union-attr, operator]
    assert len(set(symbols.flatten().tolist())) <= (2 if weights == 1 else 3)


def test_intervals_start_as_the_uniform_grid_does() -> None:
    model, task = problem()
    there, here = (
        plain(Quantize(8, activations=how)(model, task)).get_submodule("2.input_quantizer")
        for how in (Activations(4, MinMax()), Intervals(4, MinMax()))
    )
    values = some(50, 12, seed=3).relu()
    assert float((there(values) - here(values)).detach().abs().max()) < 1.01 * float(there.scale)
    assert (
        torch.allclose(there(values), here(values), atol=1e-5)
        or float((there(values) == here(values)).float().mean()) > 0.95
    )


@pytest.mark.parametrize("grid", [KMeans(2), ProductQuantization(2, 3)], ids=repr)
def test_fits_that_know_the_inputs_lose_less_of_the_output(grid: KMeans | ProductQuantization) -> None:
    model, task = problem()
    first, inputs = model[0], task.example  # type: ignore[index]
    lost = [
        float(((weight - first.weight).detach() @ inputs.T).square().sum())
        for weight in (
            Quantize(grid=grid, importance=how)(model, task).baked()[0].weight  # type: ignore[union-attr, operator]
            for how in (None, InputEnergy())
        )
    ]
    assert lost[1] < lost[0]


def test_importance_is_found_for_every_layer_and_refused_where_nothing_is_fitted() -> None:
    model, task = problem()
    names = ("0.weight", "2.weight", "4.weight")
    energy, curvature = InputEnergy().of(model, task, names), Curvature().of(model, task, names)
    assert {name: value.shape[0] for name, value in energy.items()} == dict(
        zip(names, (6, 12, 12), strict=True)
    )
    assert all(curvature[name].shape == model.get_parameter(name).shape for name in names)
    assert torch.allclose(
        energy["0.weight"], torch.cat([b.inputs for b in task.calibration]).square().mean(0), rtol=1e-4
    )
    Quantize(grid=LossAwareBinary(), importance=Curvature())(model, task)
    for grid in (None, Binary()):
        with pytest.raises(InputError, match="importance"):
            Quantize(grid=grid, importance=InputEnergy())


def test_loss_aware_ternary_loses_no_more_than_any_fixed_threshold() -> None:
    values, worth = some(4, 60), some(4, 60, seed=1).square()
    found = LossAwareTernary(30).quantized(Plain(values), worth)().detach()
    lost = (worth * (found - values).square()).sum(1)
    for share in (0.3, 0.5, 0.7, 0.9):
        other = Ternary(share).quantized(Plain(values))().detach()
        assert bool((lost <= (worth * (other - values).square()).sum(1) * 1.02).all())


def test_a_staircase_goes_from_a_line_to_steps() -> None:
    grid = FakeQuantized(Plain(some(3, 50)), Format(3), PerTensor(), MinMax())
    exact, rounded = grid.source(), grid()
    soft, hard = (Softstairs(grid, k).softened(exact, rounded).detach() for k in (0.01, 5000.0))
    assert float((soft - exact).detach().abs().max()) < 1e-3 * float(exact.abs().max().detach())
    assert float(((hard - rounded).abs() < 1e-5).float().mean()) > 0.99
