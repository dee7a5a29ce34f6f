"""Structured pruning: choose channels by importance, cut them, or search for how many may stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.prune.cutting import ChannelGroup, Cuts, cut_channels
from plisse.compress.prune.groups import channel_graph
from plisse.compress.prune.importance import group_scores
from plisse.compress.prune.patterns import Scope
from plisse.core.batch import Inputs
from plisse.core.reparam import baked
from plisse.cost.budget import Cost
from plisse.errors import BudgetError, InputError
from plisse.train.task import Task

LEAST_SHARE = 0.1


def choose_channels(
    scores: Mapping[str, Tensor], keep: float, *, round_to: int = 1, scope: Scope = "layer"
) -> dict[str, tuple[int, ...]]:
    """The channels of each group that go: those with the lowest scores [C], a share 1 - keep of them.

    scope "layer": of every group; "global": of all groups ranked together, at least a tenth of each stays.
    round_to: the number that stays in a group is a multiple of this, where the group has that many.
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep}", expected="a share above 0 and at most 1")
    stay = {root: keep * len(score) for root, score in scores.items()}
    if scope == "global":
        stay = _global_counts(scores, keep)
    return {
        root: _lowest(score, _rounded(stay[root], len(score), round_to)) for root, score in scores.items()
    }


def prune_channels(
    model: nn.Module,
    example: Inputs,
    *,
    keep: float,
    round_to: int = 1,
    scope: Scope = "layer",
    importance: str = "magnitude",
    ignore: Sequence[str] = (),
    task: Task | None = None,
) -> nn.Module:
    """A plain copy of `model` with a share `keep` of the channels of every group that can be cut.

    The output layer stays as it is, as do groups that the trace cannot follow: `notes_of` the result names
    them. task: needed by importances that look at gradients.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [layer for layer in prune_channels(net, torch.zeros(2, 4), keep=0.5)][0]
    Linear(in_features=4, out_features=4, bias=True)
    """
    plan = _Plan(model, example, round_to, scope, importance, ignore, task)
    return plan.network(plan.cuts(keep))


def channels_for(
    model: nn.Module,
    example: Inputs,
    admits: Callable[[nn.Module], bool],
    *,
    round_to: int = 1,
    scope: Scope = "layer",
    importance: str = "magnitude",
    ignore: Sequence[str] = (),
    task: Task | None = None,
    probes: int = 8,
    cost: Callable[[nn.Module], Cost] | None = None,
) -> nn.Module:
    """The largest network that `admits`, by bisection over the share of channels that stays; no training.

    probes: networks tried at most, besides the whole and the smallest one. cost: what to report of the
    smallest network when even that is refused. Raises BudgetError in that case.
    """
    plan = _Plan(model, example, round_to, scope, importance, ignore, task)
    whole = plan.network({})
    if admits(whole):
        return whole
    low, high = 0.0, 1.0
    best = plan.network(plan.cuts(1e-9))
    if not admits(best):
        raise BudgetError(
            "a bound that not even the narrowest network keeps",
            expected="a wider bound",
            closest=None if cost is None else cost(best),
        )
    tried = {}
    for _ in range(probes):
        keep = (low + high) / 2
        cuts = plan.cuts(keep)
        key = tuple(sorted((root, len(gone)) for root, gone in cuts.items()))
        if key not in tried:
            network = plan.network(cuts)
            tried[key] = admits(network)
            best = network if tried[key] else best
        low, high = (keep, high) if tried[key] else (low, keep)
    return best


class _Plan:
    """The parsed graph and the scores of one network, from which any number of networks can be cut."""

    def __init__(
        self,
        model: nn.Module,
        example: Inputs,
        round_to: int,
        scope: Scope,
        importance: str,
        ignore: Sequence[str],
        task: Task | None,
    ) -> None:
        self.model = baked(model)
        self.graph = channel_graph(self.model, example, ignore)
        self.scores = group_scores(importance, self.model, self.graph.groups, task)
        self.round_to, self.scope = round_to, scope

    def cuts(self, keep: float) -> dict[str, tuple[int, ...]]:
        chosen = choose_channels(self.scores, keep, round_to=self.round_to, scope=self.scope)
        return {
            group.root: _without_emptying(group, chosen[group.root], self.scores[group.root])
            for group in self.graph.groups
        }

    def network(self, cuts: Cuts) -> nn.Module:
        return with_notes(cut_channels(self.model, self.graph.groups, cuts), self.graph.notes)


def _without_emptying(group: ChannelGroup, gone: tuple[int, ...], score: Tensor) -> tuple[int, ...]:
    """Every layer that has only a part of the group's channels (concatenation) keeps its best one."""
    left = set(gone)
    for member in group.members:
        if left.issuperset(member.channels):
            left.discard(max(member.channels, key=lambda channel: float(score[channel])))
    return tuple(sorted(left))


def _global_counts(scores: Mapping[str, Tensor], keep: float) -> dict[str, float]:
    """How many channels of each group are among the highest overall, after every group got its tenth."""
    flat, owner = [], []
    counts: dict[str, float] = {}
    for root, score in scores.items():
        counts[root] = _least(len(score), 1)
        rest = score.sort(descending=True).values[int(counts[root]) :]
        flat.append(rest)
        owner += [root] * len(rest)
    total = sum(len(score) for score in scores.values())
    wanted = max(round(keep * total) - int(sum(counts.values())), 0)
    for index in torch.cat(flat).argsort(descending=True, stable=True)[:wanted].tolist():
        counts[owner[index]] += 1
    return counts


def _least(size: int, round_to: int) -> int:
    return min(size, max(math.ceil(LEAST_SHARE * size / round_to), 1) * round_to)


def _rounded(count: float, size: int, round_to: int) -> int:
    """The nearest multiple of round_to (halves go up), at least a tenth of the group and one multiple."""
    return min(max(math.floor(count / round_to + 0.5) * round_to, _least(size, round_to)), size)


def _lowest(score: Tensor, stay: int) -> tuple[int, ...]:
    return tuple(sorted(score.argsort(stable=True)[: len(score) - stay].tolist()))
