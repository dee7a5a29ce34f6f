"""From a head to a network of the right structure, without trusting the head.

Every argument of an edit is checked against what such layers can have, and the bytes of the layer are
computed before memory for it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from plisse.bitstream.head import Head, names_check, shown
from plisse.core import edits as core_edits
from plisse.core import modules
from plisse.core.edits import Edit
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.errors import FormatError, GraphError, InputError

SLACK = 32 << 20
MAX_SIDES = 8
MAX_DEPTH = 32
FLAGS = {"bias", "affine", "track_running_stats", "symmetric", "batch_first", "bidirectional"}
RATIOS = {"eps", "momentum", "dropout"}
TEXTS = {"padding", "padding_mode", "unit", "kind"}
OPTIONAL = {"momentum", "padding_idx"}
LOWEST = {"padding": 0, "padding_idx": -core_edits.LIMIT, "axis": -1, "channels": 0, "seed": 0}
HIGHEST = {"bits": 16, "cell_bits": 16, "num_layers": 64}

Build = Callable[[Origin], nn.Module]


def head_of(model: nn.Module, skeleton: nn.Module, notes: Mapping[str, Any]) -> tuple[Head, nn.Module]:
    """The head for `model` (a plain network), and the rebuilt network that a reader of it will get.

    skeleton: a fresh network of the model's origin; stays as it is.
    Raises GraphError where edits cannot turn the skeleton into the structure of `model`.
    """
    edits = _shortened(skeleton, core_edits.difference(skeleton, model))
    draft = Head(origin_of(model), edits, 0, 0, notes)
    try:
        rebuilt = rebuild(draft, lambda origin: modules.clone(skeleton))
    except FormatError as error:
        raise GraphError(f"a network that a file cannot hold: {error.came}") from error
    _check_same(rebuilt, model)
    names = list(rebuilt.state_dict())
    return Head(draft.origin, edits, names_check(names), len(names), notes), rebuilt


def rebuild(head: Head, build: Build) -> nn.Module:
    """The network of the right structure, in eval mode, with fresh weights; `build` makes the skeleton.

    Raises FormatError for an edit that does not fit the skeleton or is larger than the skeleton allows, and
    whatever `build` raises.
    """
    model = with_origin(build(head.origin), head.origin)
    room = state_bytes(model) + SLACK
    for edit in head.edits:
        try:
            full = Edit(edit.name, edit.layer, {**_known(model, edit), **edit.arguments})
            room -= _checked_bytes(model, full, room)
            core_edits.apply(model, (full,))
        except (
            InputError,
            ArithmeticError,
            LookupError,
            AttributeError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as e:
            came = e.came if isinstance(e, InputError) else str(e)
            raise FormatError(
                f"{edit.layer} at {edit.name!r}: {shown(came, 200)}",
                offset=0,
                expected="an edit that fits the skeleton",
            ) from e
    return model.eval()


def state_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, tied ones once."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def _shortened(skeleton: nn.Module, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """`edits` without the arguments that the skeleton's layers have too."""

    def shorten(edit: Edit) -> Edit:
        known = _known(skeleton, edit)
        changed = {k: v for k, v in edit.arguments.items() if k not in known or known[k] != v}
        return Edit(edit.name, edit.layer, changed)

    return tuple(shorten(edit) for edit in edits)


def _known(model: nn.Module, edit: Edit) -> Mapping[str, Any]:
    """The arguments of the layer that stands at the edit's name now, if it has the edit's type."""
    try:
        now = core_edits.describe(edit.name, model.get_submodule(edit.name))
    except AttributeError:
        return {}
    return now.arguments if now is not None and now.layer == edit.layer else {}


def _checked_bytes(model: nn.Module, edit: Edit, room: int) -> int:
    """Bytes of the layer that the edit would build, found without memory for it; raises if unfit."""
    _check_place(model, edit)
    for key, value in edit.arguments.items():
        if not _is_argument(key, value):
            raise ValueError(f"argument {key}={shown(value)}")
    kind, describe = core_edits.LAYERS[edit.layer]
    with torch.device("meta"):
        layer = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in edit.arguments.items()})
    if unknown := set(edit.arguments) - set(describe(layer)):
        raise ValueError(f"argument {min(unknown)!r} belongs in no file")
    if (size := state_bytes(layer)) > room:
        raise ValueError(f"{size} bytes where {room} are allowed")
    return size


def _check_place(model: nn.Module, edit: Edit) -> None:
    """A submodule that exists, or a new child that hides no attribute of its parent, not too deep down."""
    if edit.name.count(".") >= MAX_DEPTH:
        raise ValueError(f"a name of more than {MAX_DEPTH} parts")
    parent_name, _, child = edit.name.rpartition(".")
    parent = model.get_submodule(parent_name)
    place = core_edits.ATTACHED.get(edit.layer)
    if place != (child if child in core_edits.ATTACHED.values() else None):
        raise ValueError(f"{edit.layer} belongs at {place!r}" if place else f"{child!r} is no layer")
    if child not in parent._modules and hasattr(parent, child):
        raise ValueError(f"{child!r} is no layer")


def _is_argument(key: str, value: Any) -> bool:
    """Sizes are small whole numbers or lists of them, flags are flags, ratios lie in 0 to 1."""
    if value is None:
        return key in OPTIONAL
    if key in FLAGS:
        return isinstance(value, bool)
    if key in RATIOS:
        return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1
    if isinstance(value, str):
        return key in TEXTS
    top = HIGHEST.get(key, core_edits.LIMIT)
    sides = value if isinstance(value, (list, tuple)) else [value]
    whole = all(type(side) is int and LOWEST.get(key, 1) <= side <= top for side in sides)
    return whole and 0 < len(sides) <= MAX_SIDES


def _check_same(rebuilt: nn.Module, model: nn.Module) -> None:
    """What a reader will get has the modules and tensors of `model`."""
    kinds = [{name: type(m) for name, m in network.named_modules()} for network in (rebuilt, model)]
    shapes = [{name: (v.shape, v.dtype) for name, v in n.state_dict().items()} for n in (rebuilt, model)]
    for after, before in (kinds, shapes):
        for name in [*before, *after]:
            if before.get(name) != after.get(name):
                raise GraphError(
                    f"{name!r}, which is {before.get(name, 'nothing')} in the network "
                    f"and {after.get(name, 'nothing')} in its skeleton with edits",
                    expected=f"changes made of {', '.join(core_edits.LAYERS)}",
                )
