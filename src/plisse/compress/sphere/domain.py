"""Where a network's inputs lie, and which values its layers can give there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.sphere.intervals import Interval, Propagation
from plisse.core import modules
from plisse.core.batch import Batches, Inputs, call, first_tensor, map_inputs
from plisse.core.hooks import after_calls
from plisse.errors import InputError
from plisse.train.task import Task

Numbers = float | tuple[float, ...]
SAMPLES = 2  # of the example that is traced; intervals are the same for all


@dataclass(frozen=True)
class Box:
    """All inputs between `low` and `high`: one number, or one per entry of axis 1 (channels, features).

    What follows from it is exact for every input within.
    """

    low: Numbers = -1.0
    high: Numbers = 1.0

    def __post_init__(self) -> None:
        low, high = (torch.tensor(end, dtype=torch.float64) for end in (self.low, self.high))
        if not bool(low.isfinite().all() & high.isfinite().all()):
            raise InputError(
                f"an unbounded domain, Box({self.low}, {self.high})",
                expected="finite numbers",
                hint="Box(0.0, 1.0), CalibrationBox() where there is calibration data, or Unbounded()",
            )
        if (low.dim() == high.dim() == 1 and len(low) != len(high)) or bool((low > high).any()):
            raise InputError(f"Box({self.low}, {self.high})", expected="low <= high, equally many")


@dataclass(frozen=True)
class CalibrationBox:
    """The smallest box that holds the task's calibration inputs and its example, by entries of axis 1.

    margin: widens it, as a share of its width, 0 or more. Exact for every input within that box.
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        _check_margin(self.margin)


@dataclass(frozen=True)
class Observed:
    """Not exact: what every layer gave over the calibration batches, taken for all that it can give.

    margin: widens each range, as a share of its width, 0 or more.
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        _check_margin(self.margin)


@dataclass(frozen=True)
class Unbounded:
    """All inputs. Exact everywhere, but few thresholds have bounds then."""


Domain = Box | CalibrationBox | Observed | Unbounded


def preactivations(
    model: nn.Module, names: list[str], domain: Domain, task: Task
) -> tuple[dict[str, Interval], str]:
    """The least and greatest value [C], float64, of each channel of the layers `names`, biases included, and
    a remark on where this holds. model: in float64.

    Raises InputError where the domain needs calibration data and there is none, and where the task's example
    lies outside a box.
    """
    if isinstance(domain, Observed):
        return _observed(model, names, domain, task.calibration)
    traced, remark = _propagated(model, domain, task)
    found = {}
    for name in names:
        layer: Any = model.get_submodule(name)
        anything = torch.full((len(layer.weight),), math.inf, dtype=torch.float64)
        bounds = traced.outputs.get(name)
        found[name] = (-anything, anything) if bounds is None else _by_channel(layer, bounds)
    return found, remark


def input_intervals(model: nn.Module, domain: Domain, task: Task) -> dict[str, Interval]:
    """The interval of what enters every linear and convolution layer. model: in float64."""
    return _propagated(model, domain, task)[0].inputs


def _propagated(model: nn.Module, domain: Domain, task: Task) -> tuple[Propagation, str]:
    low, high, remark = input_box(domain, task)
    example = in_double(map_inputs(task.example, lambda value: value[:SAMPLES]))
    ends = _like(low, example, -math.inf), _like(high, example, math.inf)
    return Propagation(model, example, *ends), remark


def input_box(domain: Domain, task: Task) -> tuple[Tensor, Tensor, str]:
    """Low and high of the float inputs, one number or one per entry of axis 1, float64, and the remark."""
    if isinstance(domain, Unbounded):
        return torch.tensor(-math.inf), torch.tensor(math.inf), "exact for all inputs"
    if isinstance(domain, Box):
        low, high = (torch.tensor(end, dtype=torch.float64) for end in (domain.low, domain.high))
        _check_inside(low, high, task.example)
        return low, high, f"exact for inputs in {domain}"
    if not isinstance(domain, CalibrationBox) or not len(task.calibration):
        raise InputError(
            "an unbounded domain: no box of inputs and no calibration batch",
            expected="Box(low, high), or a task with calibration data",
            hint="Canonicalize(Box(0.0, 1.0)), or Canonicalize(Unbounded()) for scales alone",
        )
    seen = [_ends(first_tensor(inputs)) for inputs in (task.example, *(b.inputs for b in task.calibration))]
    low = torch.stack([ends[0] for ends in seen]).amin(0)
    high = torch.stack([ends[1] for ends in seen]).amax(0)
    room = domain.margin * (high - low)
    return low - room, high + room, "exact for inputs in the box of the calibration inputs"


def _observed(
    model: nn.Module, names: list[str], domain: Observed, calibration: Batches
) -> tuple[dict[str, Interval], str]:
    if not len(calibration):
        raise InputError("no calibration batch", expected="at least one, to observe", hint="Box(low, high)")
    found: dict[str, Interval] = {}
    samples = 0

    def watch(name: str, layer: Any, _: Any, output: Tensor) -> None:
        low, high = _by_channel(layer, (output, output))
        if name in found:
            low, high = torch.minimum(low, found[name][0]), torch.maximum(high, found[name][1])
        found[name] = low, high

    layers = {name: model.get_submodule(name) for name in names}
    with after_calls(layers, watch), modules.evaluating(model), torch.no_grad():
        for batch in calibration:
            call(model, in_double(batch.inputs))
            samples += len(first_tensor(batch.inputs))
    wider = {name: (low, high, domain.margin * (high - low)) for name, (low, high) in found.items()}
    bounds = {name: (low - room, high + room) for name, (low, high, room) in wider.items()}
    return bounds, f"NOT exact: thresholds are bounded by what was observed on {samples} samples"


def _by_channel(layer: Any, bounds: Interval) -> Interval:
    axis = -1 if isinstance(layer, nn.Linear) else 1
    low, high = (end.double().movedim(axis, -1).flatten(0, -2) for end in bounds)
    return low.amin(0), high.amax(0)


def _ends(value: Tensor) -> Interval:
    rows = (
        value.detach().double().movedim(1, -1).flatten(0, -2) if value.dim() > 1 else value.double()[:, None]
    )
    return rows.amin(0), rows.amax(0)


def _like(ends: Tensor, example: Inputs, beyond: float) -> Inputs:
    """One bound as a tensor for each input; of integers nothing is known."""

    def spread(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return torch.full(value.shape, beyond, dtype=torch.float64)
        if ends.numel() == 1:
            return torch.full(value.shape, float(ends), dtype=torch.float64)
        if value.dim() < 2 or value.shape[1] != len(ends):
            raise InputError(
                f"{len(ends)} bounds for inputs of shape {tuple(value.shape)}",
                expected="one number, or one per entry of axis 1",
            )
        return ends.reshape(-1, *[1] * (value.dim() - 2)).expand_as(value).clone()

    return map_inputs(example, spread)


def _check_inside(low: Tensor, high: Tensor, example: Inputs) -> None:
    value = first_tensor(example)
    if not value.is_floating_point():
        return
    ends = _ends(value)
    if (low.dim() and len(low) != len(ends[0])) or (high.dim() and len(high) != len(ends[0])):
        raise InputError(
            f"{max(low.numel(), high.numel())} bounds for inputs with {len(ends[0])} entries in axis 1",
            expected="one number, or as many",
        )
    room = 1e-6 * (high - low)
    if bool((ends[0] < low - room).any() or (ends[1] > high + room).any()):
        raise InputError(
            f"an example with values from {float(ends[0].min()):.4g} to {float(ends[1].max()):.4g}",
            expected=f"inputs between {float(low.min()):.4g} and {float(high.max()):.4g}",
            hint="give the box in the scale in which the network gets its inputs",
        )


def in_double(inputs: Inputs) -> Inputs:
    """Float inputs in float64."""
    return map_inputs(inputs, lambda value: value.double() if value.is_floating_point() else value)


def _check_margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise InputError(f"margin={margin}", expected="a share of the width, 0 or more")
