"""What a weight loses at a width: by trying (this file), or by the curvature of the loss (curvature).

A measure is a frozen dataclass with `losses`. All give the same unit, that of the task's divergence, so that
they can be added, compared, and exchanged. Contract: tests/compress/test_mixed.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from plisse.compress.quantize.activations import Activations, quantize_inputs
from plisse.compress.quantize.mixed.candidates import FLOAT, Candidate, Candidates, squared_error
from plisse.core import modules
from plisse.core.batch import Batches, BatchList
from plisse.core.reparam import plain
from plisse.errors import InputError
from plisse.train.task import Task, mean_divergence, outputs_on


class Sensitivity(Protocol):
    def losses(self, model: nn.Module, task: Task, options: Candidates) -> dict[str, list[float]]:
        """For every weight in `options`, the loss of each of its candidates when only this weight is rounded:
        0 or more, 0 where the candidate equals the weight. model: plain; stays as it was."""
        ...


@dataclass(frozen=True)
class Perturbation:
    """The task's divergence between the network and itself with one weight rounded, averaged over inputs
    (CalibTIP, Hubara et al. 2021, section 3.3, with outputs in place of labels).

    L_i(b) = E_x d(f(x; W), f(x; W with W_i -> Q_b(W_i))). Sees everything but how weights act together.

    batches: of the calibration set, spread evenly over it, at least 1. Costs one pass over them per weight
    and candidate. Needs no labels. upto: candidates with more bits than that are not tried but given the loss
    of the nearest that was, times the ratio of squared errors: so small, a measured loss is mostly noise.
    """

    batches: int = 2
    upto: int = 4

    def __post_init__(self) -> None:
        check_count(self.batches, "batches")

    def losses(self, model: nn.Module, task: Task, options: Candidates) -> dict[str, list[float]]:
        probe = modules.clone(model).eval()
        batches = spread_batches(task.calibration, self.batches)
        reference = outputs_on(probe, batches)
        found = {}
        for name, choices in options.items():
            weight = modules.tensor(probe, name).detach().clone()
            errors = [squared_error(weight, candidate) for candidate in choices]
            tried = self._tried(choices, errors)
            losses = {i: self._loss(probe, name, choices[i], task, batches, reference) for i in tried}
            modules.set_tensor(probe, name, weight)
            nearest = min(tried, key=lambda i: errors[i])
            unit = losses[nearest] / max(errors[nearest], 1e-300)
            found[name] = [losses.get(i, unit * error) for i, error in enumerate(errors)]
        return as_losses(found)

    def _tried(self, choices: Sequence[Candidate], errors: Sequence[float]) -> list[int]:
        """The candidates that are measured: at least the coarsest."""
        narrow = [i for i, candidate in enumerate(choices) if candidate.bits <= self.upto]
        return narrow or [max(range(len(choices)), key=lambda i: errors[i])]

    def _loss(
        self,
        probe: nn.Module,
        name: str,
        candidate: Candidate,
        task: Task,
        batches: BatchList,
        reference: list[Tensor],
    ) -> float:
        if candidate.bits == FLOAT:
            return 0.0
        modules.set_tensor(probe, name, candidate.values())
        return mean_divergence(task, reference, outputs_on(probe, batches))


def input_losses(
    model: nn.Module,
    task: Task,
    how: Activations,
    layers: Iterable[str],
    widths: Sequence[int],
    batches: int = 2,
) -> dict[str, dict[int, float]]:
    """By layer and width, the divergence that rounding only this layer's input causes, on `batches` of the
    calibration set. Layers that take no quantizer (embeddings) are left out."""
    few = spread_batches(task.calibration, batches)
    base = modules.clone(model).eval()
    reference = outputs_on(base, few)
    every = [name for name, _ in modules.weighted_layers(base)]
    found: dict[str, dict[int, float]] = {}
    for layer in layers:
        if not takes_quantizer(base, layer):
            continue
        others = [name for name in every if name != layer]
        found[layer] = {}
        for bits in widths:
            probe = modules.clone(base)
            quantize_inputs(probe, few, how, {layer: bits}, others)
            found[layer][bits] = max(0.0, mean_divergence(task, reference, outputs_on(probe, few)))
    return found


def takes_quantizer(model: nn.Module, layer: str) -> bool:
    """Whether `quantize_inputs` hangs anything on a layer."""
    module = plain(model).get_submodule(layer)
    return isinstance(module, modules.WEIGHTED) and not isinstance(module, nn.Embedding)


def spread_batches(batches: Batches, count: int) -> BatchList:
    """`count` batches in even distances from each other and the ends of one epoch (all, where there are
    fewer): sentences are often sorted by length. Raises InputError where there is none."""
    if not len(batches):
        raise InputError("no calibration batch", expected="at least one, to see what rounding loses")
    count = min(count, len(batches))
    picks = ((np.arange(count) + 0.5) * len(batches) / count).astype(int)
    return BatchList(tuple(batches[int(i)] for i in picks))


def check_count(count: int, what: str) -> None:
    if count < 1:
        raise InputError(f"{count} {what}", expected="at least 1")


def as_losses(rows: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Losses as `Sensitivity` wants them: no rounding error below zero.

    Raises InputError for a loss that is no finite number.
    """
    for name, row in rows.items():
        if not np.isfinite(row).all():
            raise InputError(f"losses {list(row)} of {name!r}", expected="finite calibration inputs")
    return {name: [max(0.0, float(loss)) for loss in row] for name, row in rows.items()}
