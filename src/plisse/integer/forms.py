"""What an operator of a network is to an integer network."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from plisse.integer.layers import OURS
from plisse.integer.operators import Clip, Window

ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
RELUS = {F.relu, torch.relu, torch.relu_, "relu", "relu_"}
NOTHING = {F.dropout, "contiguous", "detach"}
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
POOLS: dict[Any, Any] = {
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
}
MOVES = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze,
    operator.getitem, F.pixel_shuffle, F.channel_shuffle,
    "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, by its name."""

    name: str


@dataclass(frozen=True)
class Plus:
    """Two activations of one shape are added."""


@dataclass(frozen=True)
class Pool:
    """Largest, or mean, of windows; of all pixels where there is none."""

    largest: bool
    window: Window | None
    keep: bool = True


@dataclass(frozen=True)
class Moved:
    """Values moved; `padded` where zeros come in."""

    padded: bool = False


@dataclass(frozen=True)
class Plain:
    """Runs as it is: a size (whatever the form of what it is the size of), an index, a constant, or
    (`floating`) arithmetic that has no integer form."""

    floating: bool = False
    sizes: bool = False


Kind = tuple[int, ...] | str
"""What a value is: a tensor of a shape, "tensors" (several), "size" (integers), "other"."""

Form = Layer | Plus | Pool | Moved | Plain | Clip


def does_nothing(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node gives what it gets, in evaluation mode."""
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), IDENTITIES)
    return node.target in NOTHING and len(node.all_input_nodes) == 1


def form_of(node: fx.Node, root: nn.Module, values: Mapping[str, Kind], integer: set[str]) -> Form:
    """What `node` is. values: of every node. integer: names of layers with an integer form."""
    own = values.get(node.name, "other")
    if isinstance(own, str):
        return Plain(floating=own == "tensors", sizes=own == "size")
    known = [values.get(source.name) for source in node.all_input_nodes]
    shapes = [kind for kind in known if isinstance(kind, tuple)]
    if node.op == "get_attr" or not shapes:
        return Plain()
    if node.op == "call_module":
        return _module_form(str(node.target), root.get_submodule(str(node.target)), shapes[0], integer)
    target: Any = node.target
    if target in ADDITIONS and len(shapes) == 2 and shapes[0] == shapes[1] and not node.kwargs:
        return Plus()
    if target in RELUS:
        return Clip(0.0)
    if target is F.relu6:
        return Clip(0.0, 6.0)
    if target in POOLS and len(node.all_input_nodes) == 1:
        given = {key: value for key, value in node.kwargs.items() if key != "input"}
        return _module_form("", POOLS[target](*node.args[1:], **given), shapes[0], integer)
    if target in MOVES:
        return Moved()
    if target is F.pad and _pads_zeros(node):
        return Moved(padded=True)
    if target is F.adaptive_avg_pool2d and len(shapes[0]) == 4:
        return _adaptive(node.args[1] if len(node.args) > 1 else node.kwargs["output_size"], shapes[0])
    if target in (torch.mean, "mean") and len(shapes[0]) in (3, 4):
        return _mean(node, len(shapes[0]))
    return Plain(floating=True)


def _module_form(name: str, module: Any, shape: tuple[int, ...], integer: set[str]) -> Form:
    if name in integer:
        return Layer(name)
    if isinstance(module, nn.Flatten):
        return Moved()
    if isinstance(module, (nn.ReLU, nn.ReLU6)):
        return Clip(0.0, 6.0 if isinstance(module, nn.ReLU6) else float("inf"))
    if isinstance(module, nn.Hardtanh):
        return Clip(float(module.min_val), float(module.max_val))
    if isinstance(module, nn.ZeroPad2d):
        return Moved(padded=True)
    if isinstance(module, nn.MaxPool2d) and not module.return_indices and len(shape) == 4:
        sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
        kernel, stride, padding, dilation = map(_pair, sizes)
        return Pool(True, Window(kernel, stride, padding, dilation, ceil=module.ceil_mode))
    if isinstance(module, nn.AvgPool2d) and len(shape) == 4 and _exact(module):
        kernel, stride, padding = map(_pair, (module.kernel_size, module.stride, module.padding))
        return Pool(False, Window(kernel, stride, padding))
    if isinstance(module, nn.AdaptiveAvgPool2d) and len(shape) == 4:
        return _adaptive(module.output_size, shape)
    if isinstance(module, nn.AdaptiveAvgPool1d) and len(shape) == 3 and module.output_size in (1, (1,)):
        return Pool(False, None)
    return Plain(floating=not isinstance(module, OURS))


def _exact(pool: Any) -> bool:
    """Every window counts the same number of pixels."""
    whole = _pair(pool.padding) == (0, 0) or pool.count_include_pad
    return whole and not pool.ceil_mode and pool.divisor_override is None


def _adaptive(size: Any, shape: tuple[int, ...]) -> Form:
    out = [have if want is None else int(want) for want, have in zip(_pair(size), shape[2:], strict=True)]
    if out == [1, 1]:
        return Pool(False, None)
    if any(have % want for have, want in zip(shape[2:], out, strict=True)):
        return Plain(floating=True)
    kernel = (shape[2] // out[0], shape[3] // out[1])
    return Pool(False, Window(kernel, kernel))


def _mean(node: fx.Node, dimensions: int) -> Form:
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    listed = [axes] if isinstance(axes, int) else axes
    places = [int(str(a)) % dimensions for a in listed] if isinstance(listed, (list, tuple)) else []
    if sorted(places) == list(range(2, dimensions)):
        return Pool(False, None, keep=bool(keep))
    return Plain(floating=True)


def argument(call: Any, place: int, name: str, default: Any = None) -> Any:
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def _pads_zeros(node: fx.Node) -> bool:
    fill = argument(node, 3, "value")
    return argument(node, 2, "mode", "constant") == "constant" and fill in (None, 0, 0.0)


def _pair(value: Any) -> tuple[Any, Any]:
    return (value, value) if not isinstance(value, (tuple, list)) else (value[0], value[1])
