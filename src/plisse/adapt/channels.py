"""Which entries of which tensors compute at a width: ordered channels in blocks, over arbitrary networks.

A *block* is a set of channels that every layer sees as a whole: those of a channel group (compress/prune)
that the same layers read and write. At width w it keeps its first max(1, round(w C)) channels, so that
narrower networks are prefixes of wider ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from plisse.adapt.heads import head_groups
from plisse.compress.prune.cutting import SIDES, ChannelGroup
from plisse.compress.prune.groups import HINT, channel_graph
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.errors import GraphError, InputError

Sizes = Mapping[str, Mapping[str, int]]
"""Layer to its attributes that depend on the point."""

TOLERANCE = 1e-3
OTHERS = "sparsity or bits, which cut no channels"


@dataclass(frozen=True)
class Run:
    """`count` channels of a block from `first` on, each of them `repeat` entries in a row. block -1: entries
    that every width has, one each."""

    block: int
    first: int
    count: int
    repeat: int = 1


@dataclass(frozen=True)
class Rule:
    """One side of a layer, as runs of entries in order. tensors: name to the dimension that is counted.
    sizes: attributes of the layer that hold the count (in units of `unit` entries)."""

    layer: str
    tensors: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    runs: tuple[Run, ...]

    @property
    def entries(self) -> int:
        return sum(run.count * run.repeat for run in self.runs)


@dataclass(frozen=True)
class ChannelPlan:
    """blocks: channels of each. rules: which entries belong to which channel. round_to: the channels of a
    block are a multiple of this, where it has that many."""

    blocks: tuple[int, ...]
    rules: tuple[Rule, ...]
    round_to: int = 1

    def counts(self, width: float) -> tuple[int, ...]:
        """Channels of every block at a width."""
        return _counts(self.blocks, width, self.round_to)

    def kept(self, rule: Rule, width: float) -> tuple[int, ...]:
        """Positions of the entries of a rule's dimension that compute at a width."""
        return kept_entries(rule.runs, self.counts(width))

    def sizes(self, width: float) -> dict[str, dict[str, int]]:
        """Attributes of the layers at a width."""
        counts, found = self.counts(width), defaultdict[str, dict[str, int]](dict)
        for rule in self.rules:
            kept = len(kept_entries(rule.runs, counts))
            for attribute, unit in rule.sizes:
                found[rule.layer][attribute] = kept // unit
        return dict(found)

    def dimensions(self) -> dict[str, dict[int, Rule]]:
        """Tensor name to the rule of each of its dimensions that has one."""
        found: defaultdict[str, dict[int, Rule]] = defaultdict(dict)
        for rule in self.rules:
            for name, dim in rule.tensors:
                found[f"{rule.layer}.{name}"][dim] = rule
        return dict(found)


def channel_plan(
    model: nn.Module, example: Inputs, *, ignore: Sequence[str] = (), round_to: int = 1
) -> tuple[ChannelPlan, tuple[str, ...]]:
    """The plan of a plain network, and remarks on channels that every width keeps.

    Raises GraphError with the reasons where no channel can be cut.
    """
    if round_to < 1:
        raise InputError(f"round_to={round_to}", expected="at least 1")
    groups, notes = _groups(model, example, ignore)
    blocks: list[int] = []
    entries: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for group in groups:
        owner = _blocks_of(group, blocks)
        for member in group.members:
            side = (member.layer, member.axis)
            count = getattr(model.get_submodule(member.layer), _side(model, *side)[1][0])
            here = entries.setdefault(side, [(-1, 0)] * count)
            for index, channel in zip(member.indices, member.channels, strict=True):
                here[index] = owner[channel]
    rules = [_rule(model, layer, axis, owners) for (layer, axis), owners in entries.items()]
    return ChannelPlan(tuple(blocks), tuple(rules), round_to), notes


def _groups(
    model: nn.Module, example: Inputs, ignore: Sequence[str]
) -> tuple[list[ChannelGroup], tuple[str, ...]]:
    """Channel groups and attention heads, and remarks on those that are left alone."""
    heads, remarks = head_groups(model, example)
    heads = [group for group in heads if not any(fnmatch(group.root, pattern) for pattern in ignore)]
    try:
        graph = channel_graph(model, example, ignore)
    except GraphError as error:
        if not heads:
            hint = OTHERS if error.hint == HINT else error.hint
            raise GraphError(error.came, expected=error.expected, hint=hint) from error
        return heads, (error.came, *remarks)
    return [*graph.groups, *heads], (*graph.notes, *remarks)


def ordered(model: nn.Module, plan: ChannelPlan, scores: Sequence[Tensor]) -> nn.Module:
    """A copy of `model` that computes the same, the channels of every block in falling order of `scores`."""
    result = modules.clone(model)
    orders = [score.argsort(descending=True, stable=True).tolist() for score in scores]
    for rule in plan.rules:
        order = torch.tensor(_moved(rule.runs, orders))
        for name, dim in rule.tensors:
            value = getattr(result.get_submodule(rule.layer), name)
            if value is not None:
                with torch.no_grad():
                    value.copy_(value.index_select(dim, order.to(value.device)))
    return result


def by_importance(model: nn.Module, plan: ChannelPlan, example: Inputs) -> nn.Module:
    """`ordered` by group importance (magnitude), checked on the example.

    Raises GraphError where another order of channels is another function.
    """
    scores = [torch.zeros(size) for size in plan.blocks]
    names = [name for name, rules in plan.dimensions().items() if name.endswith(".weight")]
    for name in names:
        weight = modules.tensor(model, name).detach().float()
        for dim, rule in plan.dimensions()[name].items():
            energy = (
                weight.square().movedim(dim, 0).flatten(1).sum(1) if weight.dim() > 1 else weight.square()
            )
            _add_energy(scores, rule.runs, energy / energy.mean().clamp_min(1e-30))
    result = ordered(model, plan, scores)
    with modules.evaluating(model), modules.evaluating(result), torch.no_grad():
        before, after = call(model, example), call(result, example)
    apart = float((before - after).abs().max() / before.abs().max().clamp_min(1e-12))
    if not apart <= TOLERANCE:
        raise GraphError(
            f"a {type(model).__name__} that another order of channels changes by {apart:.1e}",
            expected="channels that no operator tells apart",
            hint="order=False, or ignore=[...] with the module's name",
        )
    return result


def kept_entries(runs: tuple[Run, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of the entries that channels below their block's count own.

    >>> kept_entries((Run(-1, 0, 1), Run(0, 0, 4, 2)), (2,))
    (0, 1, 2, 3, 4)
    """
    return _kept(runs, counts)


@cache
def _kept(runs: tuple[Run, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    kept: list[int] = []
    start = 0
    for run in runs:
        stay = run.count if run.block < 0 else min(max(counts[run.block] - run.first, 0), run.count)
        kept += range(start, start + stay * run.repeat)
        start += run.count * run.repeat
    return tuple(kept)


@lru_cache(maxsize=64)
def _counts(blocks: tuple[int, ...], width: float, round_to: int) -> tuple[int, ...]:
    return tuple(_count(width, size, round_to) for size in blocks)


def _count(width: float, size: int, round_to: int) -> int:
    """The nearest multiple of round_to, halves up, at least one; everything at width 1."""
    wanted = math.floor(width * size / round_to + 0.5) * round_to
    return size if width >= 1 else min(size, max(wanted, min(round_to, size)))


def _blocks_of(group: ChannelGroup, blocks: list[int]) -> list[tuple[int, int]]:
    """Block and place in it of every channel; channels that the same members have form a block."""
    seen_by: list[list[int]] = [[] for _ in range(group.size)]
    for number, member in enumerate(group.members):
        for channel in dict.fromkeys(member.channels):
            seen_by[channel].append(number)
    numbers: dict[tuple[int, ...], int] = {}
    owner = []
    for members in map(tuple, seen_by):
        if members not in numbers:
            numbers[members] = len(blocks)
            blocks.append(0)
        block = numbers[members]
        owner.append((block, blocks[block]))
        blocks[block] += 1
    return owner


def _side(model: nn.Module, layer: str, axis: str) -> tuple[Mapping[str, int], tuple[str, ...]]:
    side = SIDES[type(model.get_submodule(layer))][axis]
    return side.tensors, side.sizes


def _rule(model: nn.Module, layer: str, axis: str, owners: list[tuple[int, int]]) -> Rule:
    tensors, sizes = _side(model, layer, axis)
    module: Any = model.get_submodule(layer)
    present = tuple((name, dim) for name, dim in tensors.items() if getattr(module, name) is not None)
    return Rule(layer, present, tuple((attribute, 1) for attribute in sizes), _runs(owners))


def _runs(owners: list[tuple[int, int]]) -> tuple[Run, ...]:
    """The shortest runs, each with one number of repeats."""
    singles: list[list[int]] = []  # block, channel, repeats
    for block, channel in owners:
        if block >= 0 and singles and singles[-1][:2] == [block, channel]:
            singles[-1][2] += 1
        else:
            singles.append([block, channel, 1])
    runs: list[Run] = []
    for block, channel, repeat in singles:
        last = runs[-1] if runs else None
        follows = last and last.block == block and last.repeat == repeat
        if last and follows and (block < 0 or channel == last.first + last.count):
            runs[-1] = Run(block, last.first, last.count + 1, repeat)
        else:
            runs.append(Run(block, channel if block >= 0 else 0, 1, repeat))
    return tuple(runs)


def _owners(runs: tuple[Run, ...]) -> list[tuple[int, int, int]]:
    """Block, channel, and number among the channel's entries of this side, for every entry."""
    found, seen = [], defaultdict[tuple[int, int], int](int)
    for run in runs:
        for channel in range(run.first, run.first + run.count):
            for _ in range(run.repeat):
                found.append((run.block, channel, seen[run.block, channel]))
                seen[run.block, channel] += 1
    return found


def _moved(runs: tuple[Run, ...], orders: list[list[int]]) -> list[int]:
    """For every entry, the entry that comes to its place when channel orders[block][r] becomes channel r."""
    owners = _owners(runs)
    places = {owner: position for position, owner in enumerate(owners)}
    return [
        position if block < 0 else places[block, orders[block][channel], number]
        for position, (block, channel, number) in enumerate(owners)
    ]


def _add_energy(scores: list[Tensor], runs: tuple[Run, ...], energy: Tensor) -> None:
    for value, (block, channel, _) in zip(energy.tolist(), _owners(runs), strict=True):
        if block >= 0:
            scores[block][channel] += value
