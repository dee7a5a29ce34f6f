"""How much each weight matters and what each choice costs: the table that a byte budget is spent by.

For every weight tensor and every option (compress/options) the table holds the bytes that the coder writes
(without contexts, which take time and save about the same share everywhere) and the divergence from the
original outputs that this tensor alone causes. Divergence is measured with unlabelled calibration batches: of
whole weights at a few anchor steps, with a power law of the squared error between them, of every other option
as it is; it is summed over tensors, as in HAWQ-V3 (Yao et al. 2021) and CalibTIP (Hubara et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plisse.compress import options
from plisse.compress.lowrank.prefix import PrefixCache
from plisse.compress.options import FLOOR, Candidate, Option
from plisse.compress.quantize.compensate import LAYERS
from plisse.compress.quantize.rounding.capture import limited
from plisse.compress.quantize.rounding.moments import Gram, gram
from plisse.compress.quantize.rounding.units import called
from plisse.core import modules
from plisse.core.batch import Batch, call
from plisse.core.reparam import Reparametrized, baked, effective_weight, plain
from plisse.cost.allocate import Choices, lower_hull, solve
from plisse.errors import BudgetError
from plisse.train.task import Task, mean_divergence

RATIOS = tuple(2.0 ** (k / 2) for k in (-28, -20, -15, -12, *range(-10, 5)))
"""Candidate steps, in root mean squares of the tensor; beyond the last, a tensor is nearly all zeros."""

ANCHORS = (-5, -2, 0, 2, 3)
"""Where divergence is measured, in half powers of two."""

SAMPLES = 256
"""Of calibration, for what enters a layer."""

Progress = Callable[[Iterable[str]], Iterable[str]]


@dataclass(frozen=True, eq=False)
class Row:
    """What is known of one tensor: its options, and the bytes and the divergence of each."""

    options: tuple[Option, ...]
    bytes: np.ndarray
    divergence: np.ndarray

    def hull(self) -> list[int]:
        """The options worth choosing."""
        return lower_hull(self.divergence.tolist(), self.bytes.tolist())


@dataclass(frozen=True, eq=False)
class RateTable:
    """A row for every weight tensor, by name."""

    rows: Mapping[str, Row]

    @property
    def floor(self) -> float:
        """The least bytes that any choice takes."""
        return float(sum(row.bytes.min() for row in self.rows.values()))

    def choose(self, budget: float) -> dict[str, Option]:
        """The option of every tensor that loses least within `budget` bytes for all of them.

        Raises BudgetError where the cheapest options do not fit.
        """
        return {name: self.rows[name].options[i] for name, i in self._picked(budget).items()}

    def only(self, allowed: Callable[[Option], bool]) -> RateTable:
        """The table with the options that are `allowed`."""
        rows = {}
        for name, row in self.rows.items():
            kept = [i for i, option in enumerate(row.options) if allowed(option)]
            rows[name] = Row(tuple(row.options[i] for i in kept), row.bytes[kept], row.divergence[kept])
        return RateTable(rows)

    def bytes_of(self, name: str, option: Option) -> float:
        """What the table says that an option takes."""
        row = self.rows[name]
        return float(row.bytes[row.options.index(option)])

    def least(self, budget: float) -> float:
        """The least summed divergence that the table promises within `budget` bytes, or at its floor."""
        picks = self._picked(max(budget, self.floor * (1 + 1e-9)))
        return float(sum(self.rows[name].divergence[i] for name, i in picks.items()))

    def curve(self, n: int = 24) -> list[tuple[float, float]]:
        """(bytes, divergence) of the best choice at n budgets between the cheapest and the dearest."""
        high = float(sum(row.bytes.max() for row in self.rows.values()))
        points = []
        for budget in np.geomspace(self.floor * 1.001, high, n):
            try:
                picks = self._picked(float(budget))
            except BudgetError:
                continue
            size = sum(self.rows[name].bytes[i] for name, i in picks.items())
            points.append((float(size), float(sum(self.rows[n].divergence[i] for n, i in picks.items()))))
        return points

    def _picked(self, budget: float) -> dict[str, int]:
        hulls = {name: row.hull() for name, row in self.rows.items()}
        choices = Choices(
            tuple(self.rows),
            tuple(self.rows[name].divergence[hull].tolist() for name, hull in hulls.items()),
            tuple(self.rows[name].bytes[hull].tolist() for name, hull in hulls.items()),
        )
        picks = solve(choices, budget)
        return {name: hull[pick] for (name, hull), pick in zip(hulls.items(), picks, strict=True)}


def rate_table(
    model: nn.Module,
    task: Task,
    *,
    n_batches: int = 2,
    progress: Progress = lambda names: names,
) -> RateTable:
    """Measure the table for every weight tensor of `model` (which is left as it was).

    Costs one encoding per tensor and step, and one pass over `n_batches` calibration batches, from the
    tensor's layer on, per tensor and anchor.
    """
    probe = modules.clone(plain(model)).eval()
    names = tuple(modules.weight_names(probe))
    weights = {name: effective_weight(model, name).detach().float() for name in names}
    for name, weight in weights.items():
        modules.set_tensor(probe, name, weight)
    meter = _Meter(probe, task, n_batches)
    computed = model.reparams if isinstance(model, Reparametrized) else {}
    moments = _Moments(probe, task)
    rows = {}
    for name in progress(names):
        rows[name] = _row(meter, name, weights[name], moments.get(name), name not in computed)
    return RateTable(rows)


def held_apart(task: Task, n_batches: int = 2) -> list[Batch]:
    """Calibration batches that are looked at last: as far as there are enough, nothing else was fitted to."""
    count = len(task.calibration)
    return [task.calibration[i] for i in range(max(0, count - n_batches), count)]


def divergence(model: nn.Module, original: nn.Module, task: Task, batches: list[Batch]) -> float:
    """Mean divergence of the outputs of `model` from those of `original`."""
    return mean_divergence(
        task, _outputs(baked(original).eval(), batches), _outputs(baked(model).eval(), batches)
    )


class _Meter:
    """Divergence of the network with one weight replaced; what comes before its layer is not run again."""

    def __init__(self, probe: nn.Module, task: Task, n_batches: int) -> None:
        self.probe, self.task = probe, task
        count = min(n_batches, len(task.calibration))
        self.caches = [PrefixCache(probe, task.calibration[i]) for i in range(count)]
        self.holders = _holders(probe)

    def __call__(self, name: str, weight: Tensor, values: Tensor) -> float:
        modules.set_tensor(self.probe, name, values)
        outputs = [cache.rerun(self.holders.get(name, ())) for cache in self.caches]
        modules.set_tensor(self.probe, name, weight)
        return max(mean_divergence(self.task, [cache.logits for cache in self.caches], outputs), FLOOR)


def _holders(model: nn.Module) -> dict[str, list[str]]:
    """The modules that hold each parameter: several where a weight is shared."""
    named = list(model.named_parameters(remove_duplicate=False))
    layers: dict[int, list[str]] = {}
    for name, parameter in named:
        layers.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return {name: layers[id(parameter)] for name, parameter in named}


class _Moments:
    """What enters each layer of the original, found when asked for."""

    def __init__(self, probe: nn.Module, task: Task) -> None:
        self.probe, self.batches = probe, limited(task.calibration, SAMPLES)
        self.bound = modules.bound_layers(probe)
        self.calls = called(probe, self.batches[0].inputs) if self.batches else {}

    def get(self, name: str) -> Gram | None:
        """None for a weight that is not multiplied, that calibration does not reach, or of a bound layer."""
        layer = name.rpartition(".")[0]
        if (
            layer in self.bound
            or layer not in self.calls
            or not isinstance(self.probe.get_submodule(layer), LAYERS)
        ):
            return None
        return gram(self.probe, None, layer, self.batches, self.calls[layer])


def _row(meter: _Meter, name: str, weight: Tensor, found: Gram | None, free: bool) -> Row:
    unit = options.root_mean_square(weight)
    steps = [unit * ratio for ratio in RATIOS]
    nearest, sizes = zip(*(options.written(weight, step) for step in steps), strict=True)
    errors = np.array([float(((weight.numpy() - each) ** 2).sum()) for each in nearest])
    anchors = [i for i, ratio in enumerate(RATIOS) if round(2 * np.log2(ratio)) in ANCHORS]
    layer: Any = meter.probe.get_submodule(name.rpartition(".")[0])
    whole = {i: torch.from_numpy(nearest[i]) for i in anchors}
    measured = [meter(name, weight, whole[i]) for i in anchors]
    others = _others(layer, weight, found, whole, [sizes[i] for i in anchors]) if free else []
    return Row(
        (*(Option((step,)) for step in steps), *(each.option for each in others)),
        np.array([*sizes, *(each.bytes for each in others)], float),
        np.array([*_between(errors, anchors, measured), *(meter(name, weight, o.values) for o in others)]),
    )


def _others(
    layer: Any, weight: Tensor, found: Gram | None, whole: dict[int, Tensor], sizes: list[int]
) -> list[Candidate]:
    """Factors and sparse weights that lose less at the layer's output than the whole weight does."""
    if found is None or len(found.squares) > 1 or weight.numel() < 1024:
        return []
    candidates = [*options.factored(layer, found), *options.sparse(layer)]
    errors = [options.output_error(weight, each.values, found) for each in candidates]
    reference = [options.output_error(weight, values, found) for values in whole.values()]
    return options.worthwhile(candidates, errors, sizes, reference)


def _between(errors: np.ndarray, anchors: list[int], measured: list[float]) -> np.ndarray:
    """Divergence at every ratio: as measured at anchors, interpolated in log error, proportional below."""
    grown = np.maximum.accumulate(measured)
    log_error, log_anchor = np.log(errors + FLOOR), np.log(errors[anchors] + FLOOR)
    between = np.interp(log_error, log_anchor, np.log(grown))
    below = np.minimum(log_error - log_anchor[0], 0.0)
    return np.asarray(np.exp(between + below))


def _outputs(model: nn.Module, batches: list[Batch]) -> list[Tensor]:
    with torch.inference_mode():
        return [call(model, batch.inputs) for batch in batches]
