"""Laws of quantization-aware training: what its formulas promise at their limits and at sample points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.aware.dorefa import DoReFa, UnitInterval
from plisse.compress.quantize.aware.estimators import (
    ElementwiseScaled,
    RandomRounding,
    SoftStep,
    StraightThrough,
)
from plisse.compress.quantize.aware.folded import FoldForTraining
from plisse.compress.quantize.aware.inputs import LearnedClip, clip_energy, clipped_form
from plisse.compress.quantize.aware.noise import Noisy, PartlyRounded
from plisse.compress.quantize.aware.oscillation import FreezeOscillating, rounding_energy
from plisse.compress.quantize.aware.proximal import Between, drawn, growing
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerChannel, PerTensor
from plisse.compress.quantize.ranges import MinMax
from plisse.core.batch import BatchList
from plisse.core.fakequant import InputQuantizer, on_grid
from plisse.core.reparam import Plain, Reparametrized
from plisse.core.rounding_pass import RoundPass
from plisse.train.run import State
from plisse.train.task import classification


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid(values: Tensor, bits: int = 3) -> FakeQuantized:
    return FakeQuantized(Plain(values), Format(bits), PerChannel(), MinMax(), learn_step=True)


def gradient(estimator: object, values: Tensor, upstream: Tensor) -> Tensor:
    leaf = values.clone().requires_grad_()
    estimator.round(leaf).backward(upstream)  # type: ignore[attr-defined]
    assert leaf.grad is not None
    return leaf.grad


def test_ewgs_with_delta_zero_is_straight_through() -> None:
    values, upstream = some(500) * 3, some(500, seed=1)
    assert torch.equal(
        gradient(ElementwiseScaled(0.0), values, upstream), gradient(StraightThrough(), values, upstream)
    )
    assert not torch.equal(gradient(ElementwiseScaled(0.1), values, upstream), upstream)


def test_a_hot_soft_step_is_straight_through_and_a_step_has_mean_slope_one() -> None:
    values = torch.linspace(0, 1, 20_001)[:-1] + 0.5 / 20_000
    ones = torch.ones_like(values)
    assert gradient(SoftStep(900.0), values, ones).numpy() == pytest.approx(1.0, abs=1e-4)
    for temperature in (0.05, 0.3, 2.0):
        assert float(gradient(SoftStep(temperature), values, ones).mean()) == pytest.approx(1.0, abs=1e-3)


def test_stochastic_rounding_is_unbiased() -> None:
    torch.manual_seed(0)
    n = 20_000
    for value in (-1.3, -0.5, 0.0, 0.01, 0.25, 2.9):
        mean = float(RandomRounding().round(torch.full((n,), value)).mean())
        share = value - math.floor(value)
        assert mean == pytest.approx(value, abs=5 * math.sqrt(share * (1 - share) / n) + 1e-6)


def test_the_proximal_map_goes_from_the_weight_to_the_quantizer() -> None:
    values = some(6, 20)
    with torch.no_grad():
        rounded = grid(values)()
    assert torch.equal(drawn(values, rounded, 0.0), values)
    assert torch.equal(drawn(values, rounded, float("inf")), rounded)
    assert float((drawn(values, rounded, 1e7) - rounded).abs().max()) < 1e-5
    for strength in (0.1, 1.0, 5.0):  # it minimises |w - v|^2 + lambda |w - q|^2
        found = drawn(values, rounded, strength)
        slope = (found - values) + strength * (found - rounded)
        assert float(slope.abs().max()) < 1e-5
    assert growing(0.1, 0, 10) == 0
    assert growing(0.1, 5, 10) == 0.1
    assert growing(0.1, 10, 10) == math.inf


def test_relaxed_weights_move_from_the_weight_to_the_grid_with_a_full_gradient() -> None:
    between = Between(grid(some(5, 12)))
    exact, rounded = between.inner.source().detach(), between.inner().detach()  # type: ignore[operator, union-attr]
    distances = []
    for strength in (0.0, 0.5, 4.0, math.inf):
        between.strength = strength
        out = between()
        distances.append(float((out.detach() - rounded).abs().max()))
        leaf = between.inner.source.weight  # type: ignore[union-attr]
        (slope,) = torch.autograd.grad(out.sum(), leaf)
        assert torch.equal(slope, torch.ones_like(leaf))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6
    between.strength = 0.0
    assert torch.equal(between().detach(), exact)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_dorefa_lands_on_its_levels(bits: int) -> None:
    quantized = DoReFa(bits).quantized(Plain(some(8, 40)))
    n = 2**bits - 1
    unit = quantized().detach() / float(quantized.scale)  # type: ignore[arg-type]
    assert set(unit.round().int().reshape(-1).tolist()) <= set(range(-n, n + 1, 2))
    assert float((unit - unit.round()).abs().max()) < 1e-3
    assert float(quantized().detach().max()) == pytest.approx(1.0, abs=0.01)
    assert np.array_equal(quantized.stored().values(), quantized().detach().numpy())


def test_dorefa_is_its_formula() -> None:
    values = some(5, 30)
    n = 7
    bent = torch.tanh(values)
    wanted = 2 * torch.round((bent / (2 * bent.abs().max()) + 0.5) * n) / n - 1
    assert DoReFa(3).quantized(Plain(values))().detach().numpy() == pytest.approx(wanted.numpy(), abs=0.004)
    assert [float(end) for end in UnitInterval().range(values, Format(2, False))[1]] == [1.0] * 5


def test_the_gradient_of_a_learned_clip_is_the_indicator() -> None:
    values = torch.tensor([-0.5, 0.1, 0.74, 1.4, 1.6, 2.0, 9.0], requires_grad=True)
    clip = LearnedClip(torch.tensor(0.5), top=3.0)  # a = 1.5
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    out = clipped_form(values, clip(), torch.tensor(0.0), 3.0)
    assert out.tolist() == [0.0, 0.0, 0.5, 1.5, 1.5, 1.5, 1.5]
    out.backward(upstream)
    assert float(clip.clip.grad) == pytest.approx(5.0 + 6.0 + 7.0)
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0]
    assert float(clip_energy(nn.ModuleList([clip])).detach()) == pytest.approx(1.5**2)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_gradient_of_a_learned_step_is_that_of_its_surrogate(bits: int) -> None:
    """round(v) = v + r with r held constant; by finite differences in float64."""
    values, step, upstream = some(200).double(), 0.21, some(200, seed=1).double()
    top = 2**bits - 1
    kept = torch.round(values / step) - values / step
    inside = (torch.round(values / step) >= 0) & (torch.round(values / step) <= top)
    ends = top * (values > 0).double()

    def surrogate(s: float) -> float:
        x = torch.where(inside, (values / step * step / s + kept) * s, ends * s)
        return float((upstream * x).sum())

    wanted = (surrogate(step + 1e-6) - surrogate(step - 1e-6)) / 2e-6
    scale = torch.tensor(step, requires_grad=True)
    out = on_grid(values.float(), scale, torch.tensor(0.0), float(top))
    out.backward(upstream.float())

    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(wanted, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "zero"), [(2, 0.0), (4, 5.0), (8, 128.0)])
def test_one_pass_rounds_as_the_operators_do(dtype: torch.dtype, bits: int, zero: float) -> None:
    values = (some(3, 8, 5, 7) * 2).to(dtype).contiguous(memory_format=torch.channels_last)
    upstream, top = some(3, 8, 5, 7, seed=2).to(dtype), float(2**bits - 1)
    found, scales = [], []
    for run in (
        lambda x, s: RoundPass.apply(x, s, zero, top),
        lambda x, s: on_grid(x, s, torch.tensor(zero), top),
    ):
        leaf, scale = values.clone().requires_grad_(), torch.tensor(0.05, requires_grad=True)
        out = run(leaf, scale)
        out.backward(upstream)
        found.append((out.detach(), leaf.grad))
        scales.append(float(scale.grad))  # type: ignore[arg-type]
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].dtype == dtype
    assert torch.allclose(found[0][1].float(), found[1][1].float(), rtol=0.01, atol=1e-6)  # type: ignore[union-attr]
    assert scales[0] == pytest.approx(scales[1], rel=1e-2 if dtype == torch.bfloat16 else 1e-4, abs=1e-3)


def test_one_pass_takes_tensors_with_gaps() -> None:
    values = some(6, 10)[:, ::2].requires_grad_()
    scale = torch.tensor(0.25, requires_grad=True)
    RoundPass.apply(values, scale, 2.0, 7.0).sum().backward()
    again = values.detach().clone().requires_grad_()
    on_grid(again, torch.tensor(0.25), torch.tensor(2.0), 7.0).sum().backward()
    assert torch.equal(values.grad, again.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_hides_no_nan(dtype: torch.dtype) -> None:
    values = torch.tensor([0.5, float("nan"), float("inf"), -float("inf")], dtype=dtype)
    found = RoundPass.apply(values, torch.tensor(0.5), 1.0, 3.0)
    assert found[[0, 2, 3]].tolist() == [0.5, 1.0, -0.5]
    assert bool(torch.isnan(found[1]))


def test_quantizers_in_training_round_as_in_evaluation() -> None:
    quantizer = InputQuantizer(3, 0.25, 2.0)
    values = some(4, 9)
    assert torch.equal(quantizer.train()(values).detach(), quantizer.eval()(values).detach())


def test_quant_noise_rounds_its_share_of_blocks() -> None:
    torch.manual_seed(0)
    inner = grid(some(40, 96))
    out, exact, rounded = PartlyRounded(inner, 0.25, 8)(), inner.source(), inner()
    blocks = (out == rounded).reshape(40, 12, 8).all(2)
    left = (out == exact).reshape(40, 12, 8).all(2)
    assert bool((blocks | left).all())
    assert float(blocks.float().mean()) == pytest.approx(0.25, abs=0.08)
    assert torch.equal(PartlyRounded(inner, 1.0, 8)(), rounded)


def test_additive_noise_is_as_strong_as_rounding_and_has_no_mean() -> None:
    torch.manual_seed(0)
    inner = grid(some(4, 4000))
    noise, error = Noisy(inner)() - inner.source(), inner() - inner.source()
    assert noise.detach().square().mean(1).numpy() == pytest.approx(
        error.detach().square().mean(1).numpy(), rel=0.08
    )
    assert float(noise.detach().mean().abs()) < 3 * float(noise.detach().std()) / 16_000**0.5


def test_wider_grids_start_where_learned_steps_start() -> None:
    narrow, wide = grid(some(4, 50), 2), grid(some(4, 50), 2)
    wide.widen(4)
    assert wide.form == Format(4)
    assert torch.allclose(wide.scale * 7**0.5, narrow.scale * 1**0.5)
    wide.widen(2)
    assert torch.allclose(wide.scale, narrow.scale)
    assert wide.step_gradient == pytest.approx(narrow.step_gradient)


def test_folding_for_training_leaves_outputs_and_trains_the_same_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()
    model[1].running_var.uniform_(0.5, 2)
    nn.init.uniform_(model[1].weight, 0.5, 2)
    inputs = some(3, 2, 5, 5)
    task = classification("none", inputs, *[BatchList(())] * 3)
    folded, once = FoldForTraining()(model, task), FoldBatchNorm()(model, task)
    assert isinstance(folded, Reparametrized)
    assert torch.allclose(folded(inputs), model(inputs), atol=1e-5)
    assert torch.allclose(folded(inputs), once(inputs), atol=1e-5)
    weight = folded.reparams["0.weight"]
    weight().sum().backward()
    assert all(value.grad is not None for value in weight.parameters())
    assert len(list(weight.parameters())) == 2


def test_a_weight_that_jumps_to_and_fro_is_frozen_and_others_are_not() -> None:
    quantized = FakeQuantized(Plain(torch.tensor([[0.6, 3.0, 7.0]])), Format(4), PerTensor(), MinMax())
    hook = FreezeOscillating(threshold=0.2, momentum=0.2, begin=0.0).hook()
    weight = quantized.source.weight
    pinned = []
    for step in range(40):
        with torch.no_grad():  # an optimizer that throws the first weight over a threshold each time
            weight[0, 0] = 0.6 if step % 2 else 0.4
        hook(State(step, 40, quantized, torch.zeros(()), 0.1))
        pinned.append(float(weight.detach()[0, 0]))
    assert set(pinned[-10:]) <= {0.0, 1.0}
    assert len(set(pinned[-10:])) == 1
    assert weight.detach()[0, 1:].tolist() == [3.0, 7.0]


def test_damping_is_zero_on_the_grid_and_pulls_to_it() -> None:
    on, off = grid(torch.tensor([[1.0, 2.0, 3.0]])), grid(torch.tensor([[1.2, 2.0, 3.0]]))
    assert float(rounding_energy(on).detach()) == 0.0
    energy = rounding_energy(off)
    energy.backward()
    assert float(energy.detach()) == pytest.approx(0.04, rel=1e-4)
    assert off.source.weight.grad.tolist()[0] == pytest.approx([0.4, 0.0, 0.0], abs=1e-5)
