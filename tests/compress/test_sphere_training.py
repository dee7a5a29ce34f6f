"""Reparametrizations on the sphere, and training that stays there under `fit`."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plisse.compress.notes import notes_of
from plisse.compress.sphere.domain import Box, CalibrationBox, Observed
from plisse.compress.sphere.reparams import Clamped, OnSphere, Squashed, Tangent, on_sphere
from plisse.compress.sphere.shared import unit_rows
from plisse.compress.sphere.training import (
    Normalized,
    Project,
    Projected,
    Riemannian,
    constrained,
    threshold_bounds,
    uniform_start,
)
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import Plain, Reparametrized, baked
from plisse.errors import GraphError, InputError
from plisse.train.loop import fit
from plisse.train.optimizers import SGD, AdamW
from plisse.train.task import Loss, classification

METHODS = [Normalized(), Normalized("squashed"), Projected(), Riemannian()]
BOUNDS = {"0": 1.5, "2": 4.0}


def squared_error(model, batch):
    return Loss(F.mse_loss(model(batch.inputs), batch.target))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))


def batches():
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(128, 2, generator=generator) * 2 - 1
    return BatchList((Batch(points, torch.sin(3 * points[:, :1]) * points[:, 1:]),))


def task():
    data = batches()
    return classification("made", data[0].inputs, data, data, data)


def values(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 3), (1, 10), (3, 1)], ids=str)
@pytest.mark.parametrize("kind", [OnSphere, Tangent])
class TestOnTheSphere:
    def test_what_is_stored_is_what_is_computed(self, kind, shape):
        reparam = kind(Plain(on_sphere(values(shape))))
        assert torch.equal(torch.from_numpy(reparam.stored().values().copy()), reparam().detach())
        assert unit_rows(reparam().detach())

    def test_gradients_are_tangent(self, kind, shape):
        weight = on_sphere(values(shape).double())
        reparam = kind(Plain(weight))
        (reparam() * values(shape, 1).double()).sum().backward()
        gradient = reparam.source.weight.grad
        assert float((gradient * weight).flatten(1).sum(1).abs().max()) < 1e-12
        free = values(shape, 1).double()
        tangent = free - (free * weight).flatten(1).sum(1).reshape(-1, *[1] * (len(shape) - 1)) * weight
        torch.testing.assert_close(gradient, tangent)

    def test_copies_are_independent(self, kind, shape):
        reparam = kind(Plain(on_sphere(values(shape))))
        other = copy.deepcopy(reparam)
        first = reparam().detach().clone()
        with torch.no_grad():
            other.source.weight.neg_()
        assert torch.equal(reparam(), first)
        assert not torch.equal(other(), first)


def test_the_length_of_v_changes_nothing_but_the_step():
    weight, free = values((3, 4)).double(), values((3, 4), 1).double()
    gradients = []
    for length in (1.0, 10.0):
        reparam = OnSphere(Plain(length * weight))
        torch.testing.assert_close(reparam(), on_sphere(weight))
        (reparam() * free).sum().backward()
        gradients.append(reparam.source.weight.grad)
    torch.testing.assert_close(gradients[0], 10 * gradients[1])


@pytest.mark.parametrize("kind", [Clamped, Squashed])
def test_thresholds_stay_in_their_interval(kind):
    wanted = torch.tensor([-0.9, 0.0, 0.5])
    free = Squashed.inverse(wanted, 1.5) if kind is Squashed else wanted
    reparam = kind(Plain(free), 1.5)
    torch.testing.assert_close(reparam().detach(), wanted)
    assert torch.equal(torch.from_numpy(reparam.stored().values().copy()), reparam().detach())
    with torch.no_grad():
        reparam.source.weight.mul_(1e6)
    assert float(reparam().detach().abs().max()) <= 1.5
    assert bool(Squashed.inverse(torch.tensor([1.5, -2.0]), 1.5).isfinite().all())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_training_stays_in_the_reduced_space_and_learns(method):
    start = uniform_start(net(), BOUNDS, seed=3)
    state = copy.deepcopy(start.state_dict())
    reduced = constrained(start, BOUNDS, method)
    with torch.no_grad():
        before = float(squared_error(reduced.model, batches()[0]).total)
        torch.testing.assert_close(reduced.model(batches()[0].inputs), start(batches()[0].inputs))
    fit(reduced.model, squared_error, batches(), steps=150, optimizer=AdamW(lr=0.02), hooks=reduced.hooks)
    network = baked(reduced.model)
    for name, bound in BOUNDS.items():
        layer = network.get_submodule(name)
        assert unit_rows(layer.weight.detach())
        assert float(layer.bias.detach().abs().max()) <= bound
        assert not torch.equal(layer.weight, state[f"{name}.weight"])
    with torch.no_grad():
        assert float(squared_error(network, batches()[0]).total) < 0.2 * before
    assert all(torch.equal(value, state[name]) for name, value in start.state_dict().items())


def test_normalized_and_riemannian_take_the_same_first_step_of_gradient_descent():
    """V / |V| has the gradient of the tangent space where |V| = 1; after the step both are normalized."""
    start = uniform_start(net(), BOUNDS)
    ends = []
    for method in (Normalized(), Riemannian()):
        reduced = constrained(start, BOUNDS, method)
        fit(reduced.model, squared_error, batches(), steps=1, optimizer=SGD(lr=0.1), hooks=reduced.hooks)
        ends.append(baked(reduced.model).state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-5, atol=1e-6)


class Interrupt:
    """A hook that breaks off while `at` is set."""

    at = -1

    def __call__(self, state):
        if state.step == Interrupt.at:
            raise InputError("an interruption")


def test_runs_can_be_resumed(tmp_path, monkeypatch):
    ends = []
    for at in (-1, 12):
        path = tmp_path / f"{at}.safetensors"
        monkeypatch.setattr(Interrupt, "at", at)
        for attempt in range(1 + (at > 0)):
            reduced = constrained(uniform_start(net(), BOUNDS), BOUNDS, Riemannian())
            hooks = (*reduced.hooks, Interrupt())
            with pytest.raises(InputError) if at > 0 and attempt == 0 else nullcontext():
                fit(
                    *(reduced.model, squared_error, batches()),
                    **{"steps": 20, "hooks": hooks, "checkpoint": path, "checkpoint_every": 5},
                )
            monkeypatch.setattr(Interrupt, "at", -1)
        ends.append(reduced.model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_start_is_uniform():
    wide = nn.Sequential(nn.Linear(2, 4000), nn.ReLU(), nn.Linear(4000, 1))
    start = uniform_start(wide, {"0": 3.0}, seed=1)
    weight, bias = start[0].weight.detach(), start[0].bias.detach()
    angles = torch.atan2(weight[:, 1], weight[:, 0])
    for sample, low, high in ((angles, -math.pi, math.pi), (bias, -3.0, 3.0)):
        counts = torch.histc(sample, 8, low, high)
        assert float((counts - 500).abs().max()) < 90
    assert torch.equal(start[2].weight, wide[2].weight)


def test_bounds_follow_the_domain():
    bounds = threshold_bounds(net(), task(), Box(-1.0, 1.0))
    assert bounds == pytest.approx({"0": math.sqrt(2), "2": 2 * math.sqrt(2) * 4})
    observed = threshold_bounds(net(), task(), Observed())
    assert observed["0"] <= bounds["0"]
    assert observed["2"] < bounds["2"]
    shifted = threshold_bounds(net(), task(), Box((-3.0, -1.0), (2.0, 1.0)))
    assert shifted["0"] == pytest.approx(math.sqrt(10))
    images = torch.rand(4, 2, 8, 8)
    data = BatchList((Batch(images),))
    conv = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3))
    convs = classification("made", images, data, data, data)
    assert threshold_bounds(conv, convs, Box(0.0, 1.0))["0"] == pytest.approx(math.sqrt(18))
    assert threshold_bounds(conv, convs, CalibrationBox())["0"] <= math.sqrt(18)


def test_a_layer_without_bias_gets_one():
    plain = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1))
    start = uniform_start(plain, {"0": 1.0})
    assert start[0].bias is not None
    assert plain[0].bias is None
    with torch.no_grad():
        plain[0].weight.copy_(on_sphere(plain[0].weight))
    reduced = constrained(plain, {"0": 1.0}, Projected())
    assert notes_of(reduced.model) == ("'0' got a bias, its threshold",)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bad_bounds_are_refused(bound):
    with pytest.raises(InputError, match="bound"):
        constrained(net(), {"0": bound}, Projected())


def test_other_bad_input_is_refused():
    with pytest.raises(InputError, match="not on the unit sphere"):
        constrained(net(), BOUNDS, Normalized())
    with pytest.raises(InputError, match="no layer '9'"):
        uniform_start(net(), {"9": 1.0})
    with pytest.raises(InputError, match="no layer '1'"):
        uniform_start(net(), {"1": 1.0})
    with pytest.raises(InputError, match="computed"):
        constrained(Reparametrized(net(), {"0.weight": Plain(torch.ones(16, 2))}), BOUNDS, Projected())
    with pytest.raises(GraphError, match="scale can move"):
        threshold_bounds(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), task(), Box())
    empty = classification("none", batches()[0].inputs, *[BatchList(())] * 3)
    for domain in (Observed(), CalibrationBox()):
        with pytest.raises(InputError, match="calibration"):
            threshold_bounds(net(), empty, domain)


def test_the_hook_prints_and_compares():
    assert Project({"0": 1.0}) == Project({"0": 1.0})
    assert repr(Riemannian()) == "Riemannian()"
