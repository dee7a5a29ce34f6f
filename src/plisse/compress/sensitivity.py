"""How much each weight matters and what each choice costs: the table that a byte budget is spent by.

For every weight tensor and every step size the table holds the bytes that the coder writes (without contexts,
which take time and save about the same share everywhere) and the divergence from the original outputs that
this tensor alone causes. Divergence is measured at a few anchor steps with unlabelled calibration batches and
interpolated between them as a power law of the squared error; it is summed over tensors, as in HAWQ-V3 (Yao
et al. 2021) and CalibTIP (Hubara et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream.symbols import encode_symbols
from plisse.compress.quantize.rated import RateQuantize
from plisse.core import modules
from plisse.core.batch import Batch, call
from plisse.core.reparam import Plain, effective_weight, plain
from plisse.core.stored import Stored
from plisse.cost.allocate import Choices, lower_hull, solve
from plisse.errors import BudgetError
from plisse.train.task import Task

RATIOS = tuple(2.0 ** (k / 2) for k in (-28, -20, -15, -12, *range(-10, 4)))
"""Candidate steps, in root mean squares of the tensor; beyond the last, a tensor is nearly all zeros."""

ANCHORS = (-5, -2, 0, 2, 3)
"""Where divergence is measured, in half powers of two."""

FLOOR = 1e-12

Progress = Callable[[Iterable[str]], Iterable[str]]


@dataclass(frozen=True, eq=False)
class RateTable:
    """names: weight tensors. steps, bytes, divergence: arrays [U, O], one column per candidate step."""

    names: tuple[str, ...]
    steps: np.ndarray
    bytes: np.ndarray
    divergence: np.ndarray

    def choose(self, budget: float) -> dict[str, float]:
        """The step of every tensor that loses least within `budget` bytes for all of them.

        Raises BudgetError where the coarsest steps do not fit.
        """
        picks = solve(self._choices(), budget)
        kept = [self._hull(u)[pick] for u, pick in enumerate(picks)]
        return {name: float(self.steps[u, kept[u]]) for u, name in enumerate(self.names)}

    def predicted(self, steps: dict[str, float]) -> tuple[float, float]:
        """Summed bytes and divergence of a choice made from this table."""
        columns = [int(np.argmin(np.abs(self.steps[u] - steps[n]))) for u, n in enumerate(self.names)]
        rows = np.arange(len(self.names))
        return float(self.bytes[rows, columns].sum()), float(self.divergence[rows, columns].sum())

    def curve(self, n: int = 24) -> list[tuple[float, float]]:
        """(bytes, divergence) of the best choice at n budgets between the cheapest and the dearest."""
        low, high = self.bytes.min(axis=1).sum(), self.bytes.max(axis=1).sum()
        points = []
        for budget in np.geomspace(low * 1.001, high, n):
            try:
                points.append(self.predicted(self.choose(float(budget))))
            except BudgetError:
                continue
        return points

    def _hull(self, u: int) -> list[int]:
        return lower_hull(self.divergence[u].tolist(), self.bytes[u].tolist())

    def _choices(self) -> Choices:
        hulls = [self._hull(u) for u in range(len(self.names))]
        return Choices(
            self.names,
            tuple(self.divergence[u, hull].tolist() for u, hull in enumerate(hulls)),
            tuple(self.bytes[u, hull].tolist() for u, hull in enumerate(hulls)),
        )


def rate_table(
    model: nn.Module,
    task: Task,
    *,
    dead_zone: float = 0.0,
    n_batches: int = 2,
    progress: Progress = lambda names: names,
) -> RateTable:
    """Measure the table for every weight tensor of `model` (which is left as it was).

    dead_zone: of the scalar grid that is measured (compress/quantize/rated). Costs one encoding per
    tensor and step, and one pass over `n_batches` calibration batches per tensor and anchor.
    """
    probe = modules.clone(plain(model)).eval()
    names = tuple(modules.weight_names(probe))
    weights = {name: effective_weight(model, name) for name in names}
    for name, weight in weights.items():
        modules.set_tensor(probe, name, weight)
    batches = [task.calibration[i] for i in range(min(n_batches, len(task.calibration)))]
    reference = _outputs(probe, batches)
    scalar = RateQuantize({}, dead_zone=dead_zone)
    rows = []
    for name in progress(names):
        rms = max(float(weights[name].square().mean().sqrt()), FLOOR)
        stored = [scalar.quantized(Plain(weights[name]), rms * ratio).stored() for ratio in RATIOS]
        errors = np.array([_squared_error(weights[name], each) for each in stored])
        lengths = [len(encode_symbols(each.symbols.reshape(-1))) for each in stored]
        divergence = _divergence_of(probe, name, stored, errors, batches, reference, task)
        modules.set_tensor(probe, name, weights[name])
        rows.append(([rms * ratio for ratio in RATIOS], lengths, divergence))
    steps, lengths_all, divergences = (np.array(column) for column in zip(*rows, strict=True))
    return RateTable(names, steps, lengths_all, divergences)


def _divergence_of(
    probe: nn.Module,
    name: str,
    stored: list[Stored],
    errors: np.ndarray,
    batches: list[Batch],
    reference: list[Tensor],
    task: Task,
) -> np.ndarray:
    """Divergence at every ratio: measured at anchors, interpolated in log error, proportional below."""
    anchors = [i for i, ratio in enumerate(RATIOS) if round(2 * np.log2(ratio)) in ANCHORS]
    measured = []
    for i in anchors:
        modules.set_tensor(probe, name, torch.from_numpy(stored[i].values().copy()))
        outputs = _outputs(probe, batches)
        values = [float(task.divergence(r, o)) for r, o in zip(reference, outputs, strict=True)]
        measured.append(max(float(np.mean(values)), FLOOR))
    grown = np.maximum.accumulate(measured)
    log_error, log_anchor = np.log(errors + FLOOR), np.log(errors[anchors] + FLOOR)
    between = np.interp(log_error, log_anchor, np.log(grown))
    below = np.minimum(log_error - log_anchor[0], 0.0)
    return np.exp(between + below)


def _outputs(model: nn.Module, batches: list[Batch]) -> list[Tensor]:
    with torch.inference_mode():
        return [call(model, batch.inputs) for batch in batches]


def _squared_error(weight: Tensor, stored: Stored) -> float:
    return float((weight - torch.from_numpy(stored.values())).square().sum())
