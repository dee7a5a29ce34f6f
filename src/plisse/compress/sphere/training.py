"""Training in the reduced space: three ways to stay on the sphere, all under the one `fit`.

bounds = threshold_bounds(model, task, Box(-1.0, 1.0))
reduced = constrained(uniform_start(model, bounds, seed=0), bounds, Normalized())
fit(reduced.model, task.objective, task.train, steps=1000, hooks=reduced.hooks)
network = baked(reduced.model)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.sphere.domain import Domain, Observed, in_double, input_intervals
from plisse.compress.sphere.intervals import apply
from plisse.compress.sphere.reparams import Clamped, OnSphere, Squashed, Tangent, on_sphere
from plisse.compress.sphere.units import find_units, nothing_moves
from plisse.core import modules
from plisse.core.batch import call
from plisse.core.hooks import before_calls
from plisse.core.reparam import Plain, Reparam, Reparametrized, plain
from plisse.errors import InputError
from plisse.train.run import Hook, State
from plisse.train.task import Task

NEAR = 1e-3  # how far the norm of a row may be from 1 to count as on the sphere


@dataclass(frozen=True)
class Normalized:
    """Parametrized: W = V / |V|. thresholds: "clamped" to the interval, or "squashed" into it by tanh."""

    thresholds: Literal["clamped", "squashed"] = "clamped"


@dataclass(frozen=True)
class Projected:
    """Projected gradient: an ordinary step, then rows are divided by their norms and thresholds clamped."""


@dataclass(frozen=True)
class Riemannian:
    """As `Projected`, but the gradient loses its radial part before the step."""


Method = Normalized | Projected | Riemannian


@dataclass(frozen=True)
class Project:
    """A hook for `fit`: put the named layers back on the sphere and into the interval, in place."""

    bounds: Mapping[str, float]

    def __call__(self, state: State) -> None:
        with torch.no_grad():
            for name, bound in self.bounds.items():
                weight = _free(state.model, f"{name}.weight".lstrip("."))
                weight.copy_(on_sphere(weight))
                _free(state.model, f"{name}.bias".lstrip(".")).clamp_(-bound, bound)


@dataclass(frozen=True, eq=False)
class Reduced:
    """A network to give to `fit`, and the hooks that go with it."""

    model: nn.Module
    hooks: tuple[Hook, ...]


def constrained(model: nn.Module, bounds: Mapping[str, float], method: Method) -> Reduced:
    """A copy of `model` whose training stays in the reduced space.

    bounds: layer to the bound X of its thresholds, -X <= b <= X. Other layers are free. A layer without bias
    gets one; the notes of the network say so. Thresholds outside their interval are clamped.
    Raises InputError for a bound that is no number above 0, for rows whose norm is not 1, and for a network
    with computed weights.

    >>> layer = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> reduced = constrained(uniform_start(layer, {"0": 1.5}), {"0": 1.5}, Riemannian())
    >>> sorted(reduced.model.reparams), len(reduced.hooks)
    (['0.weight'], 1)
    """
    _check(model, bounds)
    copy = modules.clone(model)
    notes = [f"{name!r} got a bias, its threshold" for name in bounds if _with_bias(copy, name)]
    reparams: dict[str, Reparam] = {}
    for name, bound in bounds.items():
        weight, bias = _free(copy, _of(name, "weight")), _free(copy, _of(name, "bias"))
        if not bool(((weight.flatten(1).norm(dim=1) - 1).abs() < NEAR).all()):
            raise InputError(
                f"{name!r} with rows that are not on the unit sphere",
                expected="rows of norm 1",
                hint="uniform_start(model, bounds), or Canonicalize() for a trained network",
            )
        with torch.no_grad():
            weight.copy_(on_sphere(weight))
            bias.clamp_(-bound, bound)
        if isinstance(method, Normalized):
            reparams[_of(name, "weight")] = OnSphere(Plain(weight))
            reparams[_of(name, "bias")] = _threshold(bias, bound, method)
        elif isinstance(method, Riemannian):
            reparams[_of(name, "weight")] = Tangent(Plain(weight))
    hooks = () if isinstance(method, Normalized) else (Project(dict(bounds)),)
    return Reduced(with_notes(Reparametrized(copy, reparams) if reparams else copy, notes), hooks)


def uniform_start(model: nn.Module, bounds: Mapping[str, float], seed: int = 0) -> nn.Module:
    """A copy in which the named layers start with directions uniform on the sphere and thresholds uniform in
    [-X, X], so that the kinks of their neurons lie all over the domain. Other layers stay."""
    _check(model, bounds)
    copy = modules.clone(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, bound in bounds.items():
            _with_bias(copy, name)
            weight, bias = _free(copy, _of(name, "weight")), _free(copy, _of(name, "bias"))
            weight.copy_(on_sphere(torch.randn(weight.shape, generator=generator)))
            bias.copy_(bound * (2 * torch.rand(bias.shape, generator=generator) - 1))
    return copy


def threshold_bounds(model: nn.Module, task: Task, domain: Domain) -> dict[str, float]:
    """X of every layer that may be constrained: the largest norm of what one of its neurons reads.

    Over a box: X = sqrt(sum over inputs of max(low^2, high^2)); behind a layer that is constrained too, with
    bound X', every value lies between 0 and 2 X', so X = 2 X' sqrt(fan-in) whatever is learned. `Observed`:
    the largest norm over the calibration batches in the network as it is, which training may exceed.
    Raises GraphError where no layer may be constrained, InputError where X is not finite.
    """
    units, left = find_units(model, task.example)
    if not units:
        raise nothing_moves(model, left)
    names = [unit.first for unit in units]
    precise = modules.clone(model).double()
    found = _norms_seen(precise, names, domain, task) if isinstance(domain, Observed) else {}
    if not isinstance(domain, Observed):
        before = {unit.second: unit.first for unit in units}
        entering = input_intervals(precise, domain, task)
        for name in names:
            layer: Any = precise.get_submodule(name)
            if name in before:
                found[name] = 2 * found[before[name]] * math.sqrt(layer.weight[0].numel())
            else:
                found[name] = _largest_norm(layer, torch.maximum(*(end.square() for end in entering[name])))
    _check(model, found)
    return found


def _norms_seen(model: nn.Module, names: list[str], domain: Observed, task: Task) -> dict[str, float]:
    if not len(task.calibration):
        raise InputError("no calibration batch", expected="at least one, to observe", hint="Box(low, high)")
    found = dict.fromkeys(names, 0.0)

    def see(name: str, layer: Any, inputs: tuple[Any, ...]) -> None:
        found[name] = max(found[name], (1 + domain.margin) * _largest_norm(layer, inputs[0].square()))

    layers = {name: model.get_submodule(name) for name in names}
    with before_calls(layers, see), modules.evaluating(model), torch.no_grad():
        for batch in task.calibration:
            call(model, in_double(batch.inputs))
    return found


def _largest_norm(layer: Any, squares: Tensor) -> float:
    """Over all places; squares: of what enters the layer."""
    return float(apply(layer, squares, torch.ones_like(layer.weight)).max().sqrt())


def _threshold(bias: Tensor, bound: float, method: Normalized) -> Reparam:
    if method.thresholds == "squashed":
        return Squashed(Plain(Squashed.inverse(bias.detach(), bound)), bound)
    return Clamped(Plain(bias), bound)


def _with_bias(model: nn.Module, name: str) -> bool:
    """In place: a bias of zeros where there is none; whether one was made."""
    layer: Any = model.get_submodule(name)
    if layer.bias is not None:
        return False
    layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
    return True


def _free(model: nn.Module, name: str) -> Tensor:
    """The tensor that training changes: a plain one, or the source of the one that is computed."""
    if isinstance(model, Reparametrized) and name in model.reparams:
        found: Tensor = model.reparams[name].source.weight  # type: ignore[union-attr,assignment]
        return found
    return modules.tensor(plain(model), name)


def _of(layer: str, tensor: str) -> str:
    return f"{layer}.{tensor}".lstrip(".")


def _check(model: nn.Module, bounds: Mapping[str, float]) -> None:
    if isinstance(model, Reparametrized):
        raise InputError("a network with computed weights", expected="a plain one", hint="baked(model)")
    layers = dict(model.named_modules())
    for name, bound in bounds.items():
        if not hasattr(layers.get(name), "weight"):
            raise InputError(f"no layer {name!r} with weights", expected=f"one of {', '.join(layers)}")
        if not 0 < bound < math.inf:
            raise InputError(
                f"a bound of {bound} for the thresholds of {name!r}",
                expected="a number above 0",
                hint="threshold_bounds(model, task, Box(low, high))",
            )
