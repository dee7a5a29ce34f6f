"""Width: networks of ordered channels, each a prefix of the next wider one.

Source: Yu and Huang 2019 (universally slimmable networks); Nunez et al. 2021 (LCS, structured).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from plisse.adapt.channels import ChannelPlan, Rule, by_importance, channel_plan
from plisse.adapt.elastic import Point, Range, Space
from plisse.adapt.norms import without_statistics
from plisse.adapt.reparams import Dial, on_line
from plisse.adapt.subspace import Subspace
from plisse.compress.notes import with_notes
from plisse.core import modules
from plisse.core.batch import Inputs
from plisse.core.reparam import Fixed, Plain, Reparam, Reparametrized, baked
from plisse.core.stored import Raw, Stored, Uniform, raw
from plisse.errors import InputError

WIDTHS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
NORMS = ("BatchNorm1d", "BatchNorm2d", "GroupNorm")


class Sliced(Reparam):
    """The entries of the source that compute at the dial's width; a view where they are a prefix.

    dimensions: of the tensor, each with the rule of its entries.
    """

    def __init__(self, inner: Reparam, dimensions: dict[int, Rule], plan: ChannelPlan, dial: Dial) -> None:
        super().__init__()
        self.source, self.dimensions, self.plan, self.dial = inner, dimensions, plan, dial

    def forward(self) -> Tensor:
        value = self.source()
        for dim in self.dimensions:
            value = _narrowed(value, dim, self.kept(dim, self.dial.point))
        return value

    def kept(self, dim: int, point: Point) -> tuple[int, ...]:
        """Positions along `dim` that compute at a point."""
        return self.plan.kept(self.dimensions[dim], point.settings["width"])

    def stored(self) -> Stored:
        inner = self.source.stored()
        shared = isinstance(inner.grid, Raw) or (
            isinstance(inner.grid, Uniform) and inner.grid.scale.size == 1
        )
        if not shared:
            return raw(self.forward().detach().cpu().numpy())
        symbols = inner.symbols.reshape(inner.shape)
        for dim in self.dimensions:
            symbols = symbols.take(self.kept(dim, self.dial.point), dim)
        return replace(inner, symbols=symbols, shape=symbols.shape)


def width_subspace(
    model: nn.Module,
    example: Inputs,
    *,
    widths: Sequence[float] = WIDTHS,
    line: bool = False,
    order: bool = True,
    round_to: int = 1,
    ignore: Sequence[str] = (),
    statistics: bool = True,
) -> Subspace:
    """The networks of all widths of `model`, from the smallest to the largest of `widths`, which are listed.

    example: inputs of one batch, for tracing. line: the weights and biases of norms are on a line, all else
    is shared (the form that LCS uses). order: bring channels into falling order of their importance first,
    which changes nothing at width 1. round_to: channels of a layer are a multiple of this. ignore: patterns
    of layers whose channels every width keeps; so are those that tracing cannot follow, such as a residual
    stream whose shortcuts pad it (`notes_of(subspace.wrapped.model)` says which). statistics: keep batch
    norms, whose statistics are measured per width; else they become instance norms, which have none.

    Raises GraphError with the reason where nothing can be cut, InputError for widths out of range.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> subspace = width_subspace(net, torch.zeros(2, 4), widths=(0.25, 1.0))
    >>> subspace.elastic().extract(Point("width", 0.25))[0].weight.shape
    torch.Size([2, 4])
    """
    space = width_space(widths)
    network = modules.clone(baked(model))
    plan, notes = channel_plan(network, example, ignore=ignore, round_to=round_to)
    if order:
        network = by_importance(network, plan, example)
    if not statistics:
        network, plan = without_statistics(network), _with_instance_norms(network, plan)
    return sliced(with_notes(network, notes), plan, space, line=line)


def sliced(network: nn.Module, plan: ChannelPlan, space: Space, *, line: bool = False) -> Subspace:
    """The subspace of a plain network whose channels are in order."""
    dial = Dial(space)
    reparams: dict[str, Reparam] = {}
    for name, dimensions in plan.dimensions().items():
        value = modules.tensor(network, name)
        inner: Reparam = Plain(value) if isinstance(value, nn.Parameter) else Fixed(value)
        on_norm = type(network.get_submodule(name.rpartition(".")[0])).__name__ in NORMS
        if line and on_norm and isinstance(value, nn.Parameter):
            inner = on_line(inner, dial)
        reparams[name] = Sliced(inner, dimensions, plan, dial)
    return Subspace(Reparametrized(network, reparams), dial, SizesOf(plan))


def width_space(widths: Sequence[float]) -> Space:
    """Widths in rising order as a space."""
    if not widths or not all(0 < width <= 1 for width in widths) or len(set(widths)) < len(widths):
        raise InputError(f"widths {tuple(widths)}", expected="different shares above 0, at most 1")
    points = tuple(Point("width", float(width)) for width in sorted(widths))
    return Space((Range("width", points[0].value, points[-1].value),), points)


def _with_instance_norms(network: nn.Module, plan: ChannelPlan) -> ChannelPlan:
    """The plan of the same network with instance norms, of which each channel is a group."""
    rules = []
    for rule in plan.rules:
        if isinstance(network.get_submodule(rule.layer), _BatchNorm):
            tensors = tuple(pair for pair in rule.tensors if pair[0] in ("weight", "bias"))
            rule = replace(rule, tensors=tensors, sizes=(("num_channels", 1), ("num_groups", 1)))
        rules.append(rule)
    return replace(plan, rules=tuple(rules))


class SizesOf:
    """Sizes of layers at a point, by a plan."""

    def __init__(self, plan: ChannelPlan) -> None:
        self.plan = plan

    def __call__(self, point: Point) -> dict[str, dict[str, int]]:
        return self.plan.sizes(point.settings["width"])


def _narrowed(value: Tensor, dim: int, kept: tuple[int, ...]) -> Tensor:
    if len(kept) == value.shape[dim]:
        return value
    if kept[-1] + 1 == len(kept):
        return value.narrow(dim, 0, len(kept))
    return value.index_select(dim, torch.tensor(kept, device=value.device))
