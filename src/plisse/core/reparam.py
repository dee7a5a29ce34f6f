"""Effective weights as differentiable functions of stored tensors, and the network that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plisse.core import modules
from plisse.core.grids import on_its_grid
from plisse.core.stored import Stored, raw


class Reparam(nn.Module):
    """Contract: `forward()` gives the effective weight, differentiable in the parameters of this module;
    `stored()` gives symbols whose values equal `forward()` exactly."""

    def forward(self) -> Tensor:
        raise NotImplementedError

    def stored(self) -> Stored:
        raise NotImplementedError


class Plain(Reparam):
    """The weight itself, as a parameter. The innermost source of other reparametrizations."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self) -> Tensor:
        return self.weight

    def stored(self) -> Stored:
        return raw(self.weight.detach().cpu().numpy())


class Fixed(Reparam):
    """A tensor that is not trained, such as a running statistic. The innermost source for buffers."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach().clone())

    def forward(self) -> Tensor:
        return self.value

    def stored(self) -> Stored:
        array = self.value.cpu().numpy()
        return raw(array, str(array.dtype))


class Reparametrized(nn.Module):
    """A plain network called with computed weights (and buffers, where named); the network's own copies of
    these are frozen.

    >>> model = nn.Linear(2, 1)
    >>> wrapped = Reparametrized(model, {"weight": Plain(torch.ones(1, 2))})
    >>> wrapped.baked().weight
    Parameter containing:
    tensor([[1., 1.]], requires_grad=True)
    """

    def __init__(self, model: nn.Module, reparams: Mapping[str, Reparam]) -> None:
        super().__init__()
        self.model = model
        self.table = nn.ModuleDict({_key(name): reparam for name, reparam in reparams.items()})
        self.places = modules.places(model, reparams)
        for name in reparams:
            modules.tensor(model, name).requires_grad_(False)

    @property
    def reparams(self) -> dict[str, Reparam]:
        """Dotted tensor name to its reparametrization."""
        return {key.replace("|", "."): value for key, value in self.table.items()}  # type: ignore[misc]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        made = {name: reparam() for name, reparam in self.reparams.items()}
        weights = {place: made[name] for name, places in self.places.items() for place in places}
        return functional_call(self.model, weights, args, kwargs, tie_weights=False)

    def baked(self) -> nn.Module:
        """A plain copy of the network with every effective weight written into it."""
        model = modules.clone(self.model)
        with torch.no_grad():
            for name, reparam in self.reparams.items():
                value = torch.from_numpy(reparam.stored().values().copy())
                modules.set_tensor(model, name, value)
                target = modules.tensor(model, name)
                target.requires_grad_(isinstance(target, nn.Parameter))
        return model


def reparametrize(model: nn.Module, reparams: Mapping[str, Reparam]) -> Reparametrized:
    """A copy of `model` in which the named weights are computed; others that were computed stay so."""
    copy = modules.clone(model)
    if isinstance(copy, Reparametrized):
        return Reparametrized(copy.model, {**copy.reparams, **reparams})
    return Reparametrized(copy, reparams)


def source(model: nn.Module, name: str) -> Reparam:
    """A fresh copy of what computes the tensor `name` now: its reparametrization, or the plain parameter or
    buffer."""
    if isinstance(model, Reparametrized) and name in model.reparams:
        return modules.clone(model.reparams[name])  # type: ignore[return-value]
    value = modules.tensor(plain(model), name)
    return Plain(value) if isinstance(value, nn.Parameter) else Fixed(value)


def plain(model: nn.Module) -> nn.Module:
    """The network under a `Reparametrized`, or the network itself. Its computed weights are stale."""
    return model.model if isinstance(model, Reparametrized) else model


def baked(model: nn.Module) -> nn.Module:
    """A plain network that computes the same: a baked copy, or the plain network itself."""
    return model.baked() if isinstance(model, Reparametrized) else model


def effective_weight(model: nn.Module, name: str) -> Tensor:
    """The weight `name` as the network uses it, detached."""
    with torch.no_grad():
        return source(model, name)().detach()


def stored_state(model: nn.Module) -> dict[str, Stored]:
    """What every tensor of the network is stored as: reparametrized ones as they say, others raw, or on the
    grid that was noted for them (core/grids)."""
    reparams = model.reparams if isinstance(model, Reparametrized) else {}
    result = {}
    for name, value in plain(model).state_dict().items():
        if name in reparams:
            result[name] = reparams[name].stored()
        else:
            kind = str(value.dtype).removeprefix("torch.")
            array = (value.float() if kind == "bfloat16" else value).detach().cpu().numpy()
            result[name] = on_its_grid(plain(model), name, array) or raw(array, kind)
    return result


def _key(name: str) -> str:
    return name.replace(".", "|")
