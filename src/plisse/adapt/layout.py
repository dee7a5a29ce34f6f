"""The elastic section of a file: which points it holds, and how the tensors of its stages belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from plisse.adapt.bits import BitsOf, CodedPlanes, Planes
from plisse.adapt.channels import ChannelPlan, Rule, Run
from plisse.adapt.elastic import AXES, Point, Range, Space
from plisse.adapt.recipes import KINDS, Recipe, recipe_of
from plisse.adapt.subspace import Subspace
from plisse.adapt.width import SizesOf
from plisse.bitstream.head import MAX_JSON, canonical_json, read_json, shown
from plisse.bitstream.squeeze import expanded, squeezed
from plisse.core import modules
from plisse.core.fakequant import InputQuantizer
from plisse.errors import FormatError, InputError

MAX_POINTS = 4096
SIZES = {"in_channels", "out_channels", "groups", "in_features", "out_features", "num_features"}
SIZES |= {"num_channels", "num_groups", "num_attention_heads", "all_head_size"}
KEYS = {"start", "end", "axis", "whole", "points", "plan", "top", "quantizers", "tensors"}


@dataclass(frozen=True, eq=False)
class Layout:
    """space: of all points in the file. tensors: recipe of each tensor that depends on the point, by name.
    ends: values of alpha 0 and 1 on lines. plan: of channels, for width. top, quantizers: bits of whole
    codes, and what rounds activations, for bits."""

    space: Space
    tensors: Mapping[str, Recipe]
    ends: tuple[float, float]
    plan: ChannelPlan | None = None
    top: int = 8
    quantizers: tuple[str, ...] = ()

    def sizes(self) -> Any:
        """What gives the sizes of layers at a point."""
        return SizesOf(self.plan) if self.plan is not None else BitsOf(self.quantizers)

    def first(self, n: int) -> Space:
        """The space of the n cheapest points."""
        points = self.space.points[:n]
        (bounds,) = self.space.ranges
        values = [point.value for point in points]
        return Space((Range(bounds.axis, min(values), max(values), bounds.whole),), points)


def layout_of(subspace: Subspace) -> Layout:
    """The layout that `subspace` is written with."""
    sizes = subspace.sizes
    plan = sizes.plan if isinstance(sizes, SizesOf) else None
    quantizers = sizes.quantizers if isinstance(sizes, BitsOf) else ()
    reparams = subspace.wrapped.reparams
    tops = [reparam.top for reparam in reparams.values() if isinstance(reparam, (Planes, CodedPlanes))]
    order = [name for name in subspace.wrapped.model.state_dict() if name in reparams]
    recipes = {name: recipe_of(reparams[name]) for name in order}
    return Layout(subspace.space, recipes, subspace.dial.ends, plan, tops[0] if tops else 8, quantizers)


def encode_layout(layout: Layout) -> bytes:
    """The payload of the elastic section."""
    (bounds,) = layout.space.ranges
    data = {
        "axis": bounds.axis,
        "start": layout.ends[0],
        "end": layout.ends[1],
        "whole": bounds.whole,
        "points": [point.value for point in layout.space.points],
        "plan": None if layout.plan is None else _plan_data(layout.plan),
        "top": layout.top,
        "quantizers": list(layout.quantizers),
        "tensors": [[name, recipe] for name, recipe in layout.tensors.items()],
    }
    raw = canonical_json(data)
    if len(raw) > MAX_JSON or len(layout.space.points) > MAX_POINTS:
        raise InputError(f"{len(raw)} bytes of layout", expected=f"at most {MAX_JSON}, {MAX_POINTS} points")
    return squeezed(raw)


def decode_layout(payload: bytes, network: nn.Module) -> Layout:
    """The inverse of `encode_layout`, checked against the network that the file is about.

    Raises FormatError for anything that does not fit it.
    """
    data = read_json(expanded(payload, MAX_JSON))
    _check(isinstance(data, dict) and set(data) == KEYS, data, f"the keys {', '.join(sorted(KEYS))}")
    try:
        space = _space(data)
        plan = None if data["plan"] is None else _plan(data["plan"], network)
        tensors = {str(name): _recipe(recipe) for name, recipe in data["tensors"]}
        top, quantizers = int(data["top"]), tuple(map(str, data["quantizers"]))
        _check(2 <= top <= 8 and all(_rounds(network, name) for name in quantizers), quantizers, "quantizers")
        known = set(network.state_dict())
        _check(set(tensors) <= known, sorted(set(tensors) - known)[:3], "tensors of the network")
    except FormatError:
        raise
    except (InputError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"a layout that cannot be read ({shown(str(error))})", offset=0) from error
    fits = bool(plan) == (data["axis"] == "width")
    _check(fits, data["axis"], "a plan of channels for width, and for nothing else")
    return Layout(space, tensors, (float(data["start"]), float(data["end"])), plan, top, quantizers)


def _space(data: Any) -> Space:
    values = data["points"]
    fine = isinstance(values, list) and 0 < len(values) <= MAX_POINTS and data["axis"] in AXES
    _check(fine and all(isinstance(value, float) for value in values), values, "1 to 4096 points on an axis")
    rising = data["axis"] != "sparsity"
    _check(len(set(values)) == len(values) and values == sorted(values, reverse=not rising), values, "order")
    _check(
        min(values) >= 0 and max(values) <= (8 if data["axis"] == "bits" else 1), values, "values in range"
    )
    bounds = Range(str(data["axis"]), min(values), max(values), bool(data["whole"]))
    return Space((bounds,), tuple(Point(bounds.axis, value) for value in values))


def _plan_data(plan: ChannelPlan) -> dict[str, Any]:
    rules = [
        [rule.layer, list(map(list, rule.tensors)), list(map(list, rule.sizes)),
         [[run.block, run.first, run.count, run.repeat] for run in rule.runs]]
        for rule in plan.rules
    ]  # fmt: skip
    return {"blocks": list(plan.blocks), "round_to": plan.round_to, "rules": rules}


def _plan(data: Any, network: nn.Module) -> ChannelPlan:
    blocks = tuple(_whole(size, 1) for size in data["blocks"])
    rules = []
    for layer, tensors, sizes, runs in data["rules"]:
        rule = Rule(
            str(layer),
            tuple((str(name), _whole(dim, 0)) for name, dim in tensors),
            tuple((str(name), _whole(unit, 1)) for name, unit in sizes),
            tuple(Run(_whole(b, -1), _whole(f, 0), _whole(c, 1), _whole(r, 1)) for b, f, c, r in runs),
        )
        _check_rule(rule, blocks, network)
        rules.append(rule)
    return ChannelPlan(blocks, tuple(rules), _whole(data["round_to"], 1))


def _check_rule(rule: Rule, blocks: tuple[int, ...], network: nn.Module) -> None:
    """A rule speaks of every entry of dimensions that exist, and of sizes that layers have."""
    sides = [modules.tensor(network, f"{rule.layer}.{name}").shape[dim] for name, dim in rule.tensors]
    _check(all(side == rule.entries for side in sides), rule.layer, f"{rule.entries} entries")
    layer = network.get_submodule(rule.layer)
    fine = all(name in SIZES and isinstance(getattr(layer, name), int) for name, _ in rule.sizes)
    _check(fine, rule.sizes, "sizes of the layer")
    for run in rule.runs:
        inside = run.block < 0 or (run.block < len(blocks) and run.first + run.count <= blocks[run.block])
        _check(inside, rule.layer, "channels of a block")


def _whole(value: Any, low: int) -> int:
    _check(type(value) is int and low <= value < 1 << 31, value, f"a whole number from {low}")
    return int(value)


def _recipe(data: Any, depth: int = 0) -> Recipe:
    fine = isinstance(data, list) and data and data[0] in KINDS and len(data) - 1 == KINDS[data[0]]
    _check(bool(fine) and depth < 4, data, "a recipe of known kinds")
    return [data[0], *(_recipe(inner, depth + 1) for inner in data[1:])]


def _rounds(network: nn.Module, name: str) -> bool:
    return isinstance(network.get_submodule(name), InputQuantizer)


def _check(fine: bool, came: Any, expected: str) -> None:
    if not fine:
        raise FormatError(f"{shown(came)} in the layout", offset=0, expected=expected)
