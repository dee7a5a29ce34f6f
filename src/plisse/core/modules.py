"""Walk, read and replace the modules and tensors of a network by their dotted names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from plisse.errors import WeightsError

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


def clone(model: nn.Module) -> nn.Module:
    """A deep copy with its own tensors."""
    return copy.deepcopy(model)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`, in place."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def tensor(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer with the dotted `name`."""
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute)


def set_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Write `value` into the parameter or buffer `name`, in place, same shape."""
    with torch.no_grad():
        tensor(model, name).copy_(value)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module's own training flag is as it was."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with a weight matrix (linear, convolution, embedding), as (name, module), in call order
    of definition. A module that is reached by two names is given once."""
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            yield name, module


def weight_names(model: nn.Module) -> list[str]:
    """The names of all weight matrices.

    >>> weight_names(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    ['0.weight', '2.weight']
    """
    seen: set[int] = set()
    names = []
    for name, module in weighted_layers(model):
        if id(module.weight) not in seen:
            seen.add(id(module.weight))
            names.append(f"{name}.weight" if name else "weight")
    return names


def check_finite(model: nn.Module) -> None:
    """Raise WeightsError with the first tensor that holds NaN or infinity."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise WeightsError(
                f"{bad} NaN or infinite of {value.numel()} values in {name!r}",
                expected="finite weights",
                hint="check the checkpoint, or train again with a lower learning rate",
            )
