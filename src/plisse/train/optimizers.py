"""Optimizers as printable values, and the torch optimizer that each one stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plisse.errors import InputError


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum. lr: peak learning rate, which the schedule scales."""

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameter_groups(model, self.weight_decay),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019). lr: peak learning rate."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas)


Optimizer = SGD | AdamW


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: matrices and filters decay; biases, norms and steps do not.

    Raises InputError where nothing can be trained.

    >>> [len(group["params"]) for group in parameter_groups(nn.Linear(3, 2), 0.1)]
    [1, 1]
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError(
            f"a {type(model).__name__} without trainable parameters", expected="requires_grad on some"
        )
    decaying = [parameter for parameter in trainable if parameter.dim() > 1]
    others = [parameter for parameter in trainable if parameter.dim() <= 1]
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
