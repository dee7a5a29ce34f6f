"""Reparametrizations of a subspace as data, and the pieces that their tensors are stored in.

A recipe is a list: ["value"] a tensor; ["table"] one row per listed point; ["line", a, b]; ["sliced", a] the
channels that compute at a width; ["topk", a] with thresholds; ["planes"] codes; ["steps", a] planes over a
line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plisse.adapt.bits import Chosen, CodedPlanes, Planes
from plisse.adapt.channels import ChannelPlan, Rule
from plisse.adapt.elastic import Point
from plisse.adapt.pieces import (
    Indexed,
    Leaf,
    Nested,
    NestedPlaces,
    NestedValues,
    Planed,
    growing,
    rows,
    whole,
)
from plisse.adapt.reparams import Dial, Held, Line, Tabled
from plisse.adapt.sparsity import TopK
from plisse.adapt.statistics import filled_rows
from plisse.adapt.subspace import settled
from plisse.adapt.width import Sliced
from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, Uniform, raw
from plisse.errors import InputError

Recipe = list[Any]
Slicing = dict[int, Rule] | None
KINDS = {"value": 0, "table": 0, "line": 2, "sliced": 1, "topk": 1, "planes": 0, "steps": 1}
"""Kind to how many recipes it holds."""


@dataclass(frozen=True, eq=False)
class Frame:
    """What recipes are read with. points: of the file, or those of them that came. plan: for "sliced"."""

    dial: Dial
    points: tuple[Point, ...]
    plan: ChannelPlan | None = None
    top: int = 8


def recipe_of(reparam: Reparam) -> Recipe:
    """The recipe of a reparametrization; those that compute a plain tensor are a value."""
    if isinstance(reparam, Sliced):
        return ["sliced", recipe_of(reparam.source)]
    if isinstance(reparam, TopK):
        return ["topk", recipe_of(reparam.source)]
    if isinstance(reparam, Line):
        return ["line", recipe_of(reparam.start), recipe_of(reparam.end)]
    if isinstance(reparam, Planes):
        return ["steps", recipe_of(reparam.source)]
    if isinstance(reparam, (Tabled, Chosen)):
        return ["table"]
    return ["planes"] if isinstance(reparam, CodedPlanes) else ["value"]


def blank(recipe: Recipe, shape: tuple[int, ...], frame: Frame, slicing: Slicing = None) -> list[Leaf]:
    """The leaves of a tensor of full `shape`, empty."""
    kind, *inner = recipe
    if kind == "sliced":
        return blank(inner[0], shape, frame, slicing)
    if kind == "line":
        return [leaf for each in inner for leaf in blank(each, shape, frame, slicing)]
    if kind == "table":
        table = (len(frame.points), *shape)
        kept = None if slicing is None else (lambda stage: _kept(slicing, frame, stage)[0])
        return [Indexed(table, rows(table, kept))]
    if kind == "topk":
        shared = Nested(shape)
        nested: list[Leaf] = [NestedPlaces(shared), NestedValues(shared)]
        below = nested if inner[0] == ["value"] else blank(inner[0], shape, frame)
        return [*below, Indexed((len(frame.points),), rows((len(frame.points),)))]
    if kind == "planes":
        return [Planed(shape, [int(point.settings["bits"]) for point in frame.points], frame.top)]
    if kind == "steps":
        return [*blank(inner[0], shape, frame), Indexed((1,), whole((1,)))]
    entries = whole(shape) if slicing is None else growing(shape, lambda stage: _kept(slicing, frame, stage))
    return [Indexed(shape, entries)]


def fill(recipe: Recipe, reparam: Any, leaves: Iterator[Any]) -> None:
    """Put what a reparametrization holds into its leaves, in place."""
    kind, *inner = recipe
    if kind == "sliced":
        fill(inner[0], reparam.source, leaves)
    elif kind == "line":
        fill(inner[0], reparam.start, leaves)
        fill(inner[1], reparam.end, leaves)
    elif kind == "table":
        next(leaves).stored = _table(reparam)
    elif kind == "topk":
        thresholds = reparam.thresholds.cpu().numpy()
        if not thresholds.size:
            raise InputError("a sparse subspace without thresholds", expected="finish(subspace, task) before")
        if inner[0] == ["value"]:
            shared = next(leaves).of
            shared.stored, shared.thresholds = reparam.source.stored(), thresholds
            next(leaves)
        else:
            fill(inner[0], reparam.source, leaves)
        next(leaves).stored = raw(thresholds)
    elif kind == "planes":
        codes = reparam.codes.cpu().numpy().astype(np.int32)
        next(leaves).stored = Stored(codes, codes.shape, Uniform(np.array([reparam.scale], np.float32)))
    elif kind == "steps":
        fill(inner[0], reparam.source, leaves)
        next(leaves).stored = raw(reparam.scale.detach().reshape(1).cpu().numpy())
    else:
        next(leaves).stored = reparam.stored()


def make(recipe: Recipe, leaves: Iterator[Any], frame: Frame, slicing: Slicing = None) -> Reparam:
    """The reparametrization that a recipe and its filled leaves stand for."""
    kind, *inner = recipe
    if kind == "sliced":
        assert slicing is not None
        assert frame.plan is not None
        return Sliced(make(inner[0], leaves, frame, slicing), slicing, frame.plan, frame.dial)
    if kind == "line":
        start = make(inner[0], leaves, frame, slicing)
        return Line(start, make(inner[1], leaves, frame, slicing), frame.dial)
    if kind == "table":
        return _tabled(next(leaves).result(), frame, slicing)
    if kind == "topk":
        if inner[0] == ["value"]:
            next(leaves)  # the places; the values stand behind them
        sparse = TopK(make(inner[0], leaves, frame), frame.dial)
        sparse.thresholds = torch.from_numpy(next(leaves).result().values().copy())
        return sparse
    if kind == "planes":
        stored = next(leaves).result()
        codes = torch.from_numpy(stored.symbols.reshape(stored.shape).astype(np.int8))
        return CodedPlanes(codes, float(stored.grid.scale[0]), frame.dial, frame.top)
    if kind == "steps":
        line = make(inner[0], leaves, frame)
        return Planes(line, frame.dial, frame.top, float(next(leaves).result().values()[0]))
    return Held(next(leaves).result())


def _kept(slicing: dict[int, Rule], frame: Frame, stage: int) -> dict[int, tuple[int, ...]]:
    assert frame.plan is not None
    return {
        dim: frame.plan.kept(rule, frame.points[stage].settings["width"]) for dim, rule in slicing.items()
    }


def _table(reparam: Any) -> Stored:
    """Rows in 16 bits where those hold them exactly."""
    values = settled(reparam).values.cpu().numpy()  # type: ignore[union-attr, operator]
    with np.errstate(over="ignore"):
        exact = np.array_equal(values.astype(np.float16).astype(np.float32), values)
    return raw(values, "float16" if exact else "float32")


def _tabled(stored: Stored, frame: Frame, slicing: Slicing) -> Tabled:
    values = torch.from_numpy(stored.values().copy())
    if slicing is not None:
        kept = [_kept(slicing, frame, stage)[0] for stage in range(len(frame.points))]
        found: Sequence[Tensor] = [row[torch.tensor(at)] for row, at in zip(values, kept, strict=True)]
        values = torch.stack(filled_rows(found, kept, values.shape[1]))
    return Tabled(values, frame.dial)
