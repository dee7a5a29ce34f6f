"""How much a weight matters: one score per weight, higher is more important."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from plisse.compress.prune.cutting import ChannelGroup
from plisse.core import modules
from plisse.core.reparam import baked, effective_weight
from plisse.errors import InputError
from plisse.train.task import Task

Importance = Literal["magnitude", "taylor"]

TAYLOR_BATCHES = 4


def magnitude(model: nn.Module, names: Sequence[str], task: Task | None) -> dict[str, Tensor]:
    """|w|: the removal that moves the weights least (Han et al. 2015)."""
    return {name: effective_weight(model, name).abs() for name in names}


def taylor(model: nn.Module, names: Sequence[str], task: Task | None) -> dict[str, Tensor]:
    """|w dL/dw|: the first-order change of the loss when w becomes zero (Molchanov et al. 2019).

    L is the task's objective, averaged over its first training batches, in evaluation mode.
    """
    if task is None:
        raise InputError(
            "importance 'taylor' without a task", expected="a task", hint="importance='magnitude'"
        )
    network = modules.clone(baked(model)).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for index in range(min(TAYLOR_BATCHES, len(task.train))):
        task.objective(network, task.train[index]).total.backward()
    scores = {}
    for name in names:
        weight = modules.tensor(network, name)
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        scores[name] = (weight * gradient).detach().abs()
    return scores


IMPORTANCE: dict[str, Callable[[nn.Module, Sequence[str], Task | None], dict[str, Tensor]]] = {
    "magnitude": magnitude,
    "taylor": taylor,
}


def weight_scores(
    importance: str, model: nn.Module, names: Sequence[str], task: Task | None
) -> dict[str, Tensor]:
    """Scores of the named tensors by one of IMPORTANCE."""
    if importance not in IMPORTANCE:
        raise InputError(f"importance {importance!r}", expected=f"one of {', '.join(IMPORTANCE)}")
    return IMPORTANCE[importance](model, names, task)


def group_scores(
    importance: str, model: nn.Module, groups: Sequence[ChannelGroup], task: Task | None = None
) -> dict[str, Tensor]:
    """One score per channel of every group, by the group's root; the mean over a group is 1.

    A channel's score in one layer is the squared norm of the weight scores that it touches there; layers of
    a group are brought to the same mean and averaged, so that a wide layer does not outvote the others (group
    importance, Fang et al. 2023, DepGraph).
    """
    weights = {f"{m.layer}.weight" for group in groups for m in group.members if m.has_weight}
    scores = weight_scores(importance, model, sorted(weights), task)
    return {group.root: _channel_scores(group, scores) for group in groups}


def _channel_scores(group: ChannelGroup, scores: dict[str, Tensor]) -> Tensor:
    total = torch.zeros(group.size)
    counted = [member for member in group.members if member.has_weight]
    for member in counted:
        score = scores[f"{member.layer}.weight"].float().cpu().square()
        per_index = score.movedim(member.dim, 0).flatten(1).sum(1) if score.dim() > 1 else score
        share = torch.zeros(group.size).index_add(
            0, torch.tensor(member.channels), per_index[torch.tensor(member.indices)]
        )
        total += share / share.mean().clamp_min(1e-30)
    return total / max(len(counted), 1)
