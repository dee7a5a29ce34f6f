"""Interval bounds through a network, operator by operator (interval bound propagation, Gowal et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from plisse.compress.pairs import LAYERS
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.hooks import removed_after

Interval = tuple[Tensor, Tensor]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_RISING = (
    "relu leaky_relu hardtanh clamp clamp_min clamp_max sigmoid tanh elu softplus sign heaviside gt ge add "
    "cat stack view _unsafe_view reshape flatten permute transpose t expand unsqueeze squeeze slice select "
    "clone contiguous alias detach _to_copy constant_pad_nd max_pool1d max_pool2d max_pool3d "
    "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d mean sum amax amin maximum minimum split "
    "split_with_sizes unbind pixel_shuffle roll flip upsample_nearest2d"
)
RISING = frozenset(_RISING.split())
FALLING = frozenset(["neg", "lt", "le"])
WITHIN = {"sin": (-1.0, 1.0), "cos": (-1.0, 1.0), "_softmax": (0.0, 1.0)}
DIPS = {"gelu": -0.17, "silu": -0.2785, "leaky_relu": 0.0}
"""Functions that fall, then rise, and their smallest value, rounded down (leaky: with a negative slope)."""


class Propagation(TorchDispatchMode):
    """Runs a float64 network in evaluation mode and keeps, beside each tensor that depends on the inputs, the
    interval [low, high] that holds it for all inputs between `low` and `high`. What it knows no rule for may
    be anything.

    inputs, outputs: the intervals of what enters and leaves every linear and convolution layer (of its last
    call), with the shape of the value.
    """

    def __init__(self, model: nn.Module, example: Inputs, low: Inputs, high: Inputs) -> None:
        super().__init__()
        self.inputs: dict[str, Interval] = {}
        self.outputs: dict[str, Interval] = {}
        self._known: dict[int, Interval] = {}
        self._alive: list[Tensor] = []  # so that no id is used twice
        self._inside = 0
        for value, *bounds in zip(*map(tree_leaves, (example, low, high)), strict=True):
            self._keep(value, (bounds[0], bounds[1]))
        with removed_after(self._hooks(model)), modules.evaluating(model), torch.no_grad(), self:
            call(model, example)
        self._alive.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        depends = any(id(v) in self._known for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor))
        inplace = name.endswith("_") and not name.endswith("__")
        bounds = self._bounds(func, name.rstrip("_") if inplace else name, args, kwargs) if depends else None
        result = func(*args, **kwargs)
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        self._alive.extend(made)
        if inplace and depends:
            self._forget(made[0])
        for i, value in enumerate(made if depends else []):
            fits = bounds is not None and bounds[0][i].shape == value.shape
            self._keep(value, (bounds[0][i], bounds[1][i]) if fits and bounds else _anything(value))
        return result

    def _bounds(
        self, func: Any, name: str, args: Any, kwargs: Any
    ) -> tuple[list[Tensor], list[Tensor]] | None:
        """Lower and upper bounds of every tensor that an operator gives; None where no rule is known."""

        def run(*sides: int) -> list[Tensor]:
            """The operator on the bounds 0 (low) or 1 (high); one for each argument, or one for all."""
            taken = [
                tree_map(lambda v, side=side: self._side(v, side), value)
                for value, side in zip(args, sides * len(args) if len(sides) == 1 else sides, strict=False)
            ]
            return [v for v in tree_leaves(func(*taken, **kwargs)) if isinstance(v, Tensor)]

        try:
            if name in RISING and (name != "add" or kwargs.get("alpha", 1) >= 0) and _rises(name, args):
                return run(0), run(1)
            if name in FALLING:
                return run(1), run(0)
            if name == "sub" and kwargs.get("alpha", 1) >= 0 and len(args) == 2:
                return run(0, 1), run(1, 0)
            if name in ("mul", "div") and (name == "mul" or not self._depends(args[1])):
                return _ends([run(i, j)[0] for i in (0, 1) for j in (0, 1)])
            if name in DIPS:
                low, high = _ends([run(0)[0], run(1)[0]])
                return [low[0].clamp_max(DIPS[name])], high
            if name in WITHIN:
                value = run(0)[0]
                return [torch.full_like(value, end) for end in WITHIN[name][:1]], [
                    torch.full_like(value, WITHIN[name][1])
                ]
        except (RuntimeError, IndexError, TypeError, NotImplementedError):
            return None
        return None

    def _depends(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._known

    def _side(self, value: Any, side: int) -> Any:
        """A copy of one bound of a tensor, the tensor itself where it depends on nothing."""
        return self._known[id(value)][side].clone() if self._depends(value) else value

    def _keep(self, value: Tensor, bounds: Interval) -> None:
        low, high = (bound.double() for bound in bounds)
        low, high = (
            low.nan_to_num(-math.inf, math.inf, -math.inf),
            high.nan_to_num(math.inf, math.inf, -math.inf),
        )
        self._known[id(value)] = low, high
        self._alive.append(value)

    def _forget(self, changed: Tensor) -> None:
        """After a change in place: all other tensors in the same memory may be anything."""
        for value in self._alive:
            if (
                value is not changed
                and value.untyped_storage().data_ptr() == changed.untyped_storage().data_ptr()
            ):
                self._known[id(value)] = _anything(value)

    def _hooks(self, model: nn.Module) -> Iterator[Any]:
        for name, module in model.named_modules():
            if isinstance(module, (*LAYERS, *BATCH_NORMS)):
                yield module.register_forward_pre_hook(lambda _, __: self._enter())
                yield module.register_forward_hook(
                    lambda layer, inputs, result, name=name: self._leave(name, layer, inputs, result)  # type: ignore[misc]
                )

    def _enter(self) -> None:
        self._inside += 1

    def _leave(self, name: str, layer: Any, inputs: tuple[Any, ...], result: Tensor) -> None:
        if self._inside == 1 and self._depends(inputs[0]):
            entering = self._known[id(inputs[0])]
            norm = isinstance(layer, BATCH_NORMS)
            leaving = _both(layer, *entering) if norm else through(layer, *entering)
            self._keep(result, leaving)
            if not norm:
                self.inputs[name], self.outputs[name] = entering, leaving
        self._inside -= 1


def through(layer: Any, low: Tensor, high: Tensor) -> Interval:
    """The interval of what a linear or convolution layer gives: W+ low + W- high + b to W+ high + W- low + b.

    >>> layer = nn.Linear(2, 1).double()
    >>> _ = nn.init.constant_(layer.weight, -2), nn.init.zeros_(layer.bias)
    >>> [float(end.detach()) for end in through(layer, torch.zeros(2).double(), torch.ones(2).double())]
    [-4.0, 0.0]
    """
    weight = layer.weight.detach()
    rising, falling = weight.clamp_min(0), weight.clamp_max(0)
    ends = []
    for with_rising, with_falling, infinity in ((low, high, -math.inf), (high, low, math.inf)):
        finite = [_zero_infinite(value) for value in (with_rising, with_falling)]
        end = apply(layer, finite[0], rising) + apply(layer, finite[1], falling)
        if not (with_rising.isfinite().all() and with_falling.isfinite().all()):
            reached = apply(layer, with_rising.isinf().double(), (rising > 0).double())
            reached += apply(layer, with_falling.isinf().double(), (falling < 0).double())
            end = end.masked_fill(reached > 0, infinity)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        bias = 0.0 if layer.bias is None else layer.bias.detach()
        ends.append((end.movedim(axis, -1) + bias).movedim(-1, axis))
    return ends[0], ends[1]


def apply(layer: Any, value: Tensor, weight: Tensor) -> Tensor:
    """A layer's product with another weight, without bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(value, weight)
    result: Tensor = layer._conv_forward(value, weight, None)
    return result


def _both(layer: Any, low: Tensor, high: Tensor) -> Interval:
    """Of a map that rises or falls in each channel: infinite where its inputs are."""
    ends = [nn.Module.__call__(_plain(layer), _zero_infinite(end)) for end in (low, high)]
    unbounded = low.isinf() | high.isinf()
    return (
        torch.minimum(*ends).masked_fill(unbounded, -math.inf),
        torch.maximum(*ends).masked_fill(unbounded, math.inf),
    )


def _plain(norm: Any) -> nn.Module:
    """A batch norm in evaluation mode without the hooks of this one."""
    copy = type(norm)(norm.num_features, norm.eps, affine=norm.affine).double().eval()
    copy.load_state_dict(norm.state_dict())
    return copy


def _rises(name: str, args: Any) -> bool:
    if name == "leaky_relu":
        return len(args) < 2 or args[1] >= 0
    return True


def _ends(corners: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Least and greatest of the corners, anything where one of them is no number."""
    stacked = torch.stack(corners)
    unknown = stacked.isnan().any(0)
    low, high = (
        stacked.amin(0).masked_fill(unknown, -math.inf),
        stacked.amax(0).masked_fill(unknown, math.inf),
    )
    return [low], [high]


def _anything(value: Tensor) -> Interval:
    shape = value.shape
    return torch.full(shape, -math.inf).double(), torch.full(shape, math.inf).double()


def _zero_infinite(value: Tensor) -> Tensor:
    return value.masked_fill(value.isinf(), 0.0)
