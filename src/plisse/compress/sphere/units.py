"""Hidden neurons whose scale and threshold are free: a layer, its activation, and the next layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from plisse.compress.pairs import LAYERS, RECTIFIERS, keeps_channels
from plisse.compress.trace import Reader, Trace, sole_holders
from plisse.core.batch import Inputs
from plisse.errors import GraphError, PlisseError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
LEAKY = ("aten.leaky_relu.default", "aten.leaky_relu_.default")
NEUTRAL = ("aten.detach.default", "aten._to_copy.default", "aten.clone.default", "aten.alias.default")
STEPS = {
    "aten.gt.Scalar": (0.0, 1.0),
    "aten.ge.Scalar": (0.0, 1.0),
    "aten.lt.Scalar": (1.0, 0.0),
    "aten.le.Scalar": (1.0, 0.0),
    "aten.sign.default": (-1.0, 1.0),
    "aten.heaviside.default": (0.0, 1.0),
}
REASONS = {
    "sin": "sine: sin(s x) is no multiple of sin(x), so a scale cannot move on",
    "cos": "cosine: cos(s x) is no multiple of cos(x), so a scale cannot move on",
    "gelu": "GELU: s x is gated otherwise than x, so a scale cannot move on",
    "silu": "SiLU: s x is gated otherwise than x, so a scale cannot move on",
    "sigmoid": "sigmoid: it saturates, so a scale cannot move on",
    "tanh": "tanh: it saturates, so a scale cannot move on",
    "hardtanh": "clipping at a fixed value, so a scale cannot move on",
    "add": "a sum with other values (a shortcut): all that is added shares one scale, which stays",
}


@dataclass(frozen=True)
class Activation:
    """f(z) = below * z for z < 0 and above * z for z > 0; of a step function, the two values themselves."""

    below: float = 1.0
    above: float = 1.0
    step: bool = False

    def of(self, z: Tensor) -> Tensor:
        """f, element by element; undefined at 0 for a step."""
        low, high = (self.below, self.above) if self.step else (self.below * z, self.above * z)
        return z.new_zeros(()) + (z > 0) * high + (z < 0) * low


IDENTITY = Activation()


@dataclass(frozen=True)
class Unit:
    """Output channel i of layer `first` passes `activation` and reaches only input channel i of `second`.

    shifts: a constant added to a channel behind the activation arrives at `second` as that constant, so that
    thresholds may be moved; scales always may.
    """

    first: str
    second: str
    activation: Activation = IDENTITY
    shifts: bool = True


def find_units(model: nn.Module, example: Inputs) -> tuple[list[Unit], dict[str, str]]:
    """Units in the order in which they run, and for every other linear or convolution layer the reason why
    its scale stays.

    Between the two layers may be one rectifier, leaky rectifier or step function at 0, pooling, flattening
    and identities; nobody else may read what is between. Both are called once and hold tensors of their own.
    Raises GraphError where the network does not run on `example`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> units, left = find_units(net, torch.ones(4, 2))
    >>> [(unit.first, unit.second) for unit in units], left
    ([('0', '2')], {'2': "it makes the network's output"})
    """
    with running(model):
        trace = Trace(model, example, (*LAYERS, *NORMS))
    layers = [name for name in trace.made if isinstance(model.get_submodule(name), LAYERS)]
    units, left = [], {}
    for first in layers:
        found = _obstacle(model, trace.calls, first) or _follow(model, trace, first)
        if isinstance(found, Unit):
            units.append(found)
        else:
            left[first] = found
    return units, left


def nothing_moves(model: nn.Module, left: dict[str, str]) -> GraphError:
    """The error where no unit was found; left: why each layer keeps its scale.

    >>> nothing_moves(nn.Identity(), {}).came
    'a Identity in which no scale can move'
    """
    reasons = "; ".join(f"{name!r}: {reason}" for name, reason in left.items())[:600]
    return GraphError(
        f"a {type(model).__name__} in which no scale can move",
        expected="a layer with ReLU, leaky ReLU, a step or nothing between it and the next one; "
        + (
            reasons or "here no linear or convolution layer runs (weights outside of layers are not followed)"
        ),
        hint="leave this step out",
    )


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """What goes wrong while `model` runs becomes a GraphError."""
    try:
        yield
    except PlisseError:
        raise
    except Exception as error:
        raise GraphError(
            f"{type(error).__name__} while running {type(model).__name__}: {error}",
            expected="a network that runs on the task's example",
        ) from error


def _obstacle(model: nn.Module, calls: Counter[str], name: str) -> str:
    if calls[name] != 1:
        return f"{name!r} runs {calls[name]} times"
    if name not in sole_holders(model):
        return f"{name!r} shares its tensors"
    if list(model.get_submodule(name).children()):
        return f"{name!r} rounds or scales its inputs"
    return ""


def _follow(model: nn.Module, trace: Trace, first: str) -> Unit | str:
    """The unit that begins at `first`, or why there is none."""
    linear = isinstance(model.get_submodule(first), nn.Linear)
    unit, value = Unit(first, ""), trace.made[first]
    while True:
        readers = trace.readers[value]
        if len(readers) != 1:
            return "several read what it makes, or nobody"
        reader = readers[0]
        if reader.layer:
            return _closed(model, trace, replace(unit, second=reader.name))
        if reader.made is None:
            return "it makes the network's output" if not reader.name else refused(reader.name)
        passed = _passed(unit, trace, value, reader, linear)
        if isinstance(passed, str):
            return passed
        unit, value = passed, reader.made


def _closed(model: nn.Module, trace: Trace, unit: Unit) -> Unit | str:
    made: Any = model.get_submodule(unit.first)
    reads: Any = model.get_submodule(unit.second)
    if not isinstance(reads, LAYERS):
        return f"{unit.second!r}, a {type(reads).__name__}, reads it"
    if obstacle := _obstacle(model, trace.calls, unit.second):
        return obstacle
    shape = trace.shapes[trace.inputs[unit.second]]
    if isinstance(reads, nn.Linear):
        aligned = (isinstance(made, nn.Linear) or len(shape) == 2) and shape[-1] % len(made.weight) == 0
    else:
        aligned = not isinstance(made, nn.Linear) and reads.in_channels == len(made.weight)
    return unit if aligned else f"its channels reach {unit.second!r} in another order"


def _passed(unit: Unit, trace: Trace, value: int, reader: Reader, linear: bool) -> Unit | str:
    """The unit after one more operator, or why it ends there."""
    activation = _activation(reader)
    if activation is None:
        if reader.name in NEUTRAL:
            return unit
        if not keeps_channels(trace, value, reader, linear):
            return refused(reader.name)
        return replace(unit, shifts=unit.shifts and _even(reader))
    if unit.activation == IDENTITY:
        return replace(unit, activation=activation)
    if unit.activation.step or activation.step:
        return f"two activations in a row, the second {reader.name}"
    return replace(unit, shifts=False)


def _activation(reader: Reader) -> Activation | None:
    if reader.name in RECTIFIERS:
        return Activation(0.0, 1.0)
    if reader.name in LEAKY:
        return Activation(float(reader.arguments[0]) if reader.arguments else 0.01, 1.0)
    compares = reader.name.endswith(".Scalar")
    if reader.name in STEPS and (not compares or reader.arguments[:1] in ((0,), (0.0,))):
        return Activation(*STEPS[reader.name], step=True)
    return None


def _even(reader: Reader) -> bool:
    """Whether an operator passes a constant that is added everywhere, at padded borders too."""
    if not reader.name.startswith("aten.avg_pool"):
        return True
    _, _, padding, ceil, counts, divisor = (*reader.arguments, None, None, None, None, None, None)[:6]
    padded = any(padding) if isinstance(padding, (list, tuple)) else bool(padding)
    return not ceil and divisor is None and (not padded or counts is False)


def refused(operator: str) -> str:
    """Why an operator ends a unit.

    >>> refused("aten.sigmoid.default")
    'what it makes passes sigmoid: it saturates, so a scale cannot move on'
    """
    name = operator.removeprefix("aten.").split(".")[0].strip("_")
    return f"what it makes passes {REASONS.get(name, f'{operator}, which is not followed')}"
