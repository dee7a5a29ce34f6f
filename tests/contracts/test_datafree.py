"""The contracts of compression without data: schemes, divergences, stops, transforms. Add yours."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from plisse.compress.datafree.divergence import DIVERGENCES, MomentDivergence
from plisse.compress.datafree.schemes import (
    SCHEMES,
    AllImages,
    BatchNormStatistics,
    ClassLogits,
    Combination,
    EachImage,
    Observed,
    Scheme,
)
from plisse.compress.datafree.statistics import moments
from plisse.compress.datafree.stopping import Floor, Never, Plateau, Stop
from plisse.compress.datafree.synthesize import Effort, synthesize
from plisse.core.batch import Batch
from plisse.data.mixing import CutOut, MixUp, Transform

ALL_SCHEMES: list[Scheme] = [
    *SCHEMES.values(),
    ClassLogits("exp"),
    ClassLogits("linear"),
    BatchNormStatistics(over=AllImages()),
    BatchNormStatistics(over=EachImage()),
    *(BatchNormStatistics(kind()) for kind in DIVERGENCES),
    Combination((BatchNormStatistics(weight=2.0), ClassLogits("ce", 0.1))),
]
STOPS: list[Stop] = [Never(), Floor(), Floor(0.5, window=1), Plateau()]
TRANSFORMS: list[Transform] = [MixUp(), MixUp(0.2), CutOut(), CutOut(3, 0.2)]


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    for _ in range(20):
        model(torch.rand(16, 1, 6, 6))
    return model.eval()


def seen() -> tuple[Observed, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 4, 3, 3, generator=generator).requires_grad_()
    logits = torch.randn(6, 3, generator=generator).requires_grad_()
    wanted = {"layer": (torch.zeros(4), torch.ones(4))}
    found = Observed(logits, torch.arange(6) % 3, {"layer": moments(values)}, wanted)
    return found, values, logits


@pytest.mark.parametrize("scheme", ALL_SCHEMES, ids=repr)
def test_a_scheme_is_a_value(scheme: Scheme) -> None:
    assert isinstance(scheme, Scheme)
    assert scheme == copy.deepcopy(scheme)
    assert len({scheme, copy.deepcopy(scheme)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme.other = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", ALL_SCHEMES, ids=repr)
def test_a_scheme_has_the_gradient_that_it_says(scheme: Scheme) -> None:
    found, values, logits = seen()
    total = scheme(found)
    assert total.dim() == 0
    assert bool(torch.isfinite(total))
    if not scheme.optimizes:
        assert not total.requires_grad
        return
    total.backward()
    assert scheme.needs_statistics == (values.grad is not None)
    classes = "ClassLogits" in repr(scheme)
    assert classes == (logits.grad is not None)


@pytest.mark.parametrize("scheme", ALL_SCHEMES, ids=repr)
def test_a_scheme_makes_images(scheme: Scheme) -> None:
    model = net()
    state, training = copy.deepcopy(model.state_dict()), model.training
    made = synthesize(model, shape=(1, 6, 6), n=10, scheme=scheme, effort=Effort(3, batch=6))
    assert made.images.shape == (10, 1, 6, 6)
    assert made.labels.shape == (10,)
    assert sum(made.report.histogram) == 10
    assert 1 / 3 <= made.report.confidence <= 1
    assert float(made.images.min()) >= 0
    assert float(made.images.max()) <= 1
    assert model.training is training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("divergence", [kind() for kind in DIVERGENCES], ids=repr)
def test_a_divergence_is_a_value_and_pulls_towards_the_reference(divergence: MomentDivergence) -> None:
    assert isinstance(divergence, MomentDivergence)
    assert divergence == type(divergence)()
    mean, std = torch.full((2,), 0.5, requires_grad=True), torch.full((2,), 1.5, requires_grad=True)
    found = divergence(mean, std, torch.zeros(2), torch.ones(2))
    assert found.shape == (2,)
    found.sum().backward()
    assert (mean.grad > 0).all()
    assert (std.grad > 0).all()


@pytest.mark.parametrize("stop", STOPS, ids=repr)
def test_a_stop_is_a_value_and_answers_to_any_history(stop: Stop) -> None:
    assert isinstance(stop, Stop)
    assert stop == copy.deepcopy(stop)
    histories = [[], [1.0], [1.0] * 100, list(np.linspace(1, 0.001, 50))]
    assert all(stop(history) in (False, True) for history in histories)
    assert not stop([])


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_a_transform_keeps_the_shape_and_leaves_the_batch_as_it_was(transform: Transform) -> None:
    assert isinstance(transform, Transform)
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(images.clone(), torch.arange(6))
    first, again, other = (transform(batch, np.random.default_rng(seed)).inputs for seed in (0, 0, 1))
    assert torch.equal(batch.inputs, images)
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
