"""Unit after unit: capture its inputs in the network rounded so far and its outputs in the original, train
what is varied, and write the choice. AdaRound, AdaQuant and block reconstruction are settings of this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from plisse.compress.notes import with_notes
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rounding.capture import Call, captured, check_calibration, limited
from plisse.compress.quantize.rounding.chosen import copied
from plisse.compress.quantize.rounding.fisher import importance
from plisse.compress.quantize.rounding.objective import Draws, Nearness, Trained
from plisse.compress.quantize.rounding.units import Unit, left_out, roundable, units
from plisse.compress.quantize.rounding.variables import Bias, Dropping, Weight
from plisse.core import modules
from plisse.core.batch import Batch, main_output
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import Reparametrized, baked, plain
from plisse.errors import InputError
from plisse.train.hardware import choose_precision
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.progress import progress_bar
from plisse.train.schedules import Cosine
from plisse.train.task import Task

CONVOLUTION = nn.Conv2d(1, 1, 1)
"""What decides the precision: every unit is trained in bf16 where the machine computes in it, since a few
bits err far more than bf16 does."""


@dataclass(frozen=True)
class Search:
    """What is varied, and for how long.

    kind: of unit, see `units`. rounder: makes the varied symbols of a weight. steps, lr, batch: of Adam with
    a cosine schedule, samples per step; learning rates are in steps of the grid. scale_rate, bias_rate,
    input_rate: of scales, biases and scales of activations, as multiples of lr; 0 leaves them. strength: of
    the penalty on undecided symbols. drop: see `Reconstruct`. fisher: weigh errors by their effect on the
    network's outputs. samples: of calibration that are used.
    """

    kind: str
    rounder: Callable[[FakeQuantized], nn.Module]
    steps: int
    lr: float
    batch: int
    scale_rate: float = 0.0
    bias_rate: float = 0.0
    input_rate: float = 0.0
    strength: float = 0.0
    drop: float = 0.0
    fisher: bool = False
    samples: int = 256
    seed: int = 0
    progress: str | None = None


def check_training(steps: int, lr: float, batch: int, samples: int) -> None:
    """Raise InputError for numbers out of range."""
    if steps < 1 or batch < 1 or samples < 1 or not lr > 0:
        raise InputError(
            f"steps={steps}, lr={lr}, batch={batch}, samples={samples}",
            expected="steps, batch and samples of at least 1, lr above 0",
        )


def searched(quantized: Reparametrized, original: nn.Module, task: Task, how: Search) -> Reparametrized:
    """A copy of `quantized` with symbols chosen unit after unit. A unit whose error on calibration did not
    fall stays as it was, with a note."""
    check_calibration(task.calibration)
    quantized = copied(quantized)
    work, goal = modules.clone(baked(quantized)).eval(), modules.clone(baked(original)).eval()
    batches = limited(task.calibration, how.samples)
    parts = units(quantized, batches[0].inputs, how.kind)
    notes = list(left_out(quantized, [name for unit in parts for name in unit.weights]))
    with progress_bar(how.progress, len(parts)) as advance:
        for unit in parts:
            ratio = _search_unit(quantized, work, goal, unit, batches, task, how)
            if ratio >= 1:
                notes.append(f"{unit.name or 'the network'!r} stays as it was: no nearer to the original")
            advance(ratio)
    with_notes(quantized, notes)
    return quantized


def _search_unit(
    quantized: Reparametrized,
    work: nn.Module,
    goal: nn.Module,
    unit: Unit,
    batches: tuple[Batch, ...],
    task: Task,
    how: Search,
) -> float:
    """Error after / error before on calibration; where it is below 1, both networks change in place."""
    calls = captured(work, unit.name, batches, unit.calls)
    wanted = captured(goal, unit.name, batches[: -(-len(calls) // unit.calls)], unit.calls)
    part = work.get_submodule(unit.name)
    trained = Trained(part, *_variables(quantized, part, unit, how))
    near = _objective(work, goal, unit, calls, wanted, batches, task, how)
    before = near.measured(_as_called(part))
    near.unit, near.mixed = max(before, 1e-20), how.drop if trained.inputs else 0.0
    _train(trained, near, how)
    before_trial = {name: value.clone() for name, value in part.state_dict().items()}
    _settle(copied(quantized), work, unit, trained)
    ratio = near.measured(_as_called(part)) / near.unit
    if ratio < 1:
        _settle(quantized, work, unit, trained)
    else:
        part.load_state_dict(before_trial)
    return ratio


def _variables(
    quantized: Reparametrized, part: nn.Module, unit: Unit, how: Search
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Of weights and biases by their names within the unit, and by those of input quantizers."""
    fakes = roundable(quantized)
    tensors: dict[str, nn.Module] = {}
    inputs: dict[str, nn.Module] = {}
    for name in unit.weights:
        layer = _local(name, unit).rpartition(".")[0]
        found: Any = part.get_submodule(layer)
        tensors[_local(name, unit)] = Weight(fakes[name], how.rounder(fakes[name]), how.scale_rate)
        bias = f"{name.rpartition('.')[0]}.bias".lstrip(".")
        if how.bias_rate > 0 and found.bias is not None and bias not in quantized.reparams:
            tensors[_local(bias, unit)] = Bias(found.bias, how.bias_rate)
        if isinstance(getattr(found, "input_quantizer", None), InputQuantizer):
            inputs[f"{layer}.input_quantizer".lstrip(".")] = Dropping(
                found.input_quantizer, how.drop, how.input_rate
            )
    return tensors, inputs


def _objective(
    work: nn.Module,
    goal: nn.Module,
    unit: Unit,
    calls: tuple[Call, ...],
    wanted: tuple[Call, ...],
    batches: tuple[Batch, ...],
    task: Task,
    how: Search,
) -> Nearness:
    divergence = task.divergence if unit.name == "" and how.kind == "network" else None
    weights = None
    if how.fisher and divergence is None and unit.calls == 1:
        weights = importance(work, goal, unit.name, batches[: len(calls)], task.divergence)
    return Nearness(calls, wanted, 1.0, weights, divergence, how.strength)


def _train(trained: Trained, near: Nearness, how: Search) -> None:
    device = next(trained.parameters()).device.type
    fit(
        trained,
        near,
        Draws(near.calls, how.batch, how.seed),
        steps=how.steps,
        optimizer=AdamW(lr=how.lr),
        schedule=Cosine(),
        precision=choose_precision("auto", CONVOLUTION, device),
        accelerator=device,
        hooks=(near.hook,),
        seed=how.seed,
        log_every=how.steps,
    )


def _settle(quantized: Reparametrized, work: nn.Module, unit: Unit, trained: Trained) -> None:
    """Write what was chosen into both networks."""
    fakes, found = roundable(quantized), trained.by_name()
    for name in unit.weights:
        found[_local(name, unit)].settle(fakes[name])
        modules.set_tensor(work, name, fakes[name]().detach())
    for network in (work, plain(quantized)):
        part = network.get_submodule(unit.name)
        for name, variable in found.items():
            if isinstance(variable, Bias):
                modules.set_tensor(part, name, variable().detach())
            elif isinstance(variable, Dropping):
                variable.settle(part.get_submodule(name))


def _as_called(part: nn.Module) -> Any:
    return lambda args, kwargs: main_output(part(*args, **kwargs))


def _local(name: str, unit: Unit) -> str:
    return name.removeprefix(f"{unit.name}.") if unit.name else name
