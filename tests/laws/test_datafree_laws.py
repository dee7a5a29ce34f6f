"""Laws of compression without data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from plisse.compress.datafree.divergence import DIVERGENCES, KL, MomentDivergence, ReverseKL, SymmetricKL
from plisse.compress.datafree.priors import Domain, Smooth, White
from plisse.compress.datafree.schemes import SCHEMES, AllImages, BatchNormStatistics
from plisse.compress.datafree.statistics import EPS, bns, moments, observing, targets
from plisse.compress.datafree.stopping import Floor, Never
from plisse.compress.datafree.synthesize import Effort, synthesize
from plisse.data.images import UNIT, Normalization
from plisse.train.intermediate import growing_weights

EACH = pytest.mark.parametrize("divergence", [kind() for kind in DIVERGENCES], ids=repr)


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
    )
    for _ in range(40):
        model(1.2 * torch.randn(16, 3, 6, 6))
    return model.eval()


def gaussians(n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, other = torch.randn(2, n, generator=generator)
    std, wanted = 0.3 + torch.rand(2, n, generator=generator)
    return mean, std, other, wanted


@EACH
def test_a_divergence_is_zero_at_equality_and_positive_elsewhere(divergence: MomentDivergence) -> None:
    mean, std, other, wanted = gaussians()
    assert torch.allclose(divergence(mean, std, mean, std), torch.zeros(6), atol=1e-6)
    assert (divergence(mean, std, other, wanted) > 1e-3).all()


@EACH
def test_a_divergence_does_not_see_units(divergence: MomentDivergence) -> None:
    mean, std, other, wanted = gaussians()
    moved = divergence(3 * mean + 1, 3 * std, 3 * other + 1, 3 * wanted)
    torch.testing.assert_close(moved, divergence(mean, std, other, wanted), rtol=1e-4, atol=1e-5)


def test_both_directions_are_the_closed_forms_of_two_gaussians() -> None:
    mean, std, other, wanted = gaussians()
    sample, reference = Normal(mean, std), Normal(other, wanted)
    there, back = kl_divergence(sample, reference), kl_divergence(reference, sample)
    torch.testing.assert_close(KL()(mean, std, other, wanted), there)
    torch.testing.assert_close(ReverseKL()(mean, std, other, wanted), back)
    torch.testing.assert_close(SymmetricKL()(mean, std, other, wanted), (there + back) / 2)


@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 3), (9, 4, 3, 2)])
def test_moments_of_batches_together_are_those_of_the_concatenated_batch(shape: tuple[int, ...]) -> None:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 3
    whole, parts = moments(values), [moments(part) for part in values.split([2, 3, 4])]
    joined = parts[0].joined(parts[1]).joined(parts[2])
    assert joined.n == whole.n == values.numel() // 4
    torch.testing.assert_close(joined.mean, whole.mean)
    torch.testing.assert_close(joined.variance, whole.variance)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("alone", [False, True])
def test_moments_and_their_gradients_are_those_of_torch(order: torch.memory_format, alone: bool) -> None:
    values = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0)).to(memory_format=order)
    axes = (2, 3) if alone else (0, 2, 3)
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    found = moments(ours, alone)
    variance, mean = torch.var_mean(theirs, axes, correction=0)
    torch.testing.assert_close((found.mean, found.variance), (mean, variance))
    (found.mean.sin().sum() + found.variance.exp().sum()).backward()
    (mean.sin().sum() + variance.exp().sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_data_that_statistics_were_taken_from_have_none_of_the_loss() -> None:
    model = net()
    images = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    model[1].momentum = 1.0
    model.train()(images)
    wanted = targets(model.eval())
    with observing(model, wanted) as table:
        model(images)
    assert float(bns(table, wanted).detach()) < 1e-6
    assert float((wanted["1"][1].square() - EPS - model[1].running_var).abs().max()) < 1e-6


@pytest.mark.parametrize(
    "domain", [Domain(), Domain(UNIT, 16), Domain(Normalization((0.5,), (0.1,)), 1)], ids=repr
)
def test_the_grid_of_pixels_is_idempotent_and_nearest(domain: Domain) -> None:
    inputs = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    once = domain.on_grid(inputs)
    assert torch.equal(domain.on_grid(once), once)
    symbols = domain.symbols(once)
    assert torch.equal(symbols, symbols.round())
    assert float(symbols.min()) >= 0
    assert float(symbols.max()) <= domain.white
    inside = domain.clamped(inputs)
    apart = (domain.pixels(inside) - domain.pixels(once)).abs().max()
    assert float(apart) <= 0.5 / domain.white + 1e-6


def test_smoothing_keeps_constants_and_means_and_charges_noise_most() -> None:
    prior = Smooth(1.0)
    constant = torch.full((2, 3, 7, 6), 1.7)
    torch.testing.assert_close(prior.blurred(constant), constant)
    assert float(prior(constant)) < 1e-10
    noise = White()(8, (3, 16, 16), torch.Generator().manual_seed(0))
    assert float(prior(noise)) > 10 * float(prior(prior.blurred(prior.blurred(noise))))


@pytest.mark.parametrize("n", [1, 2, 7, 19])
def test_weights_of_depths_grow_and_sum_to_one(n: int) -> None:
    weights = growing_weights(n)
    assert float(weights.sum()) == pytest.approx(1)
    assert (weights.diff() > 0).all()
    assert float(weights[0]) == pytest.approx(2 / (n * n + n))


def test_one_seed_gives_one_set_of_images_whatever_was_drawn_before() -> None:
    def images(seed: int) -> Tensor:
        torch.rand(seed + 3)
        return synthesize(net(), shape=(3, 6, 6), n=12, effort=Effort(6, batch=8), seed=seed).images

    first, again, other = images(0), images(0), images(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("over", ["EachBatch", "AllImages"])
def test_a_resumed_synthesis_ends_with_the_same_images(tmp_path: Path, over: str) -> None:
    scheme = BatchNormStatistics(over=AllImages()) if over == "AllImages" else SCHEMES["bns+inception"]
    given = {"shape": (3, 6, 6), "n": 24, "scheme": scheme, "effort": Effort(5, Stopping(2), batch=8)}
    with pytest.raises(KeyboardInterrupt):
        synthesize(net(), checkpoint=tmp_path / "made", **given)
    patient = {**given, "effort": Effort(5, Stopping(None), batch=8)}
    resumed = synthesize(net(), checkpoint=tmp_path / "made", **patient)
    whole = synthesize(net(), **patient)
    assert torch.equal(resumed.images, whole.images)
    assert resumed.report.iterations == whole.report.iterations
    again = synthesize(net(), checkpoint=tmp_path / "made", **patient)
    assert torch.equal(again.images, whole.images)


class Stopping:
    """Breaks a run off in batch `at`; all print alike, so that they count as the same run."""

    def __init__(self, at: int | None) -> None:
        self.left = None if at is None else 5 * at + 2

    def __call__(self, values: object) -> bool:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return False

    def __repr__(self) -> str:
        return "Stopping()"


def test_images_of_a_batch_do_not_depend_on_how_many_there_are() -> None:
    few, many = (
        synthesize(net(), shape=(3, 6, 6), n=n, effort=Effort(4, Never(), batch=8)).images for n in (8, 16)
    )
    assert torch.equal(few, many[:8])


def test_optimization_lowers_what_it_minimises() -> None:
    values = [
        synthesize(net(), shape=(3, 6, 6), n=32, effort=Effort(steps, Never())).report.mean_bns
        for steps in (1, 40)
    ]
    assert values[1] < 0.3 * values[0]


def test_a_floor_ends_early_and_is_reached() -> None:
    made = synthesize(net(), shape=(3, 6, 6), n=32, effort=Effort(200, Floor(0.05, window=2)))
    assert made.report.iterations[0] < 200
    assert made.report.mean_bns < 0.08
