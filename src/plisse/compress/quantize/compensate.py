"""Compensate: entropy-coded weights rounded column by column, those that are left making up for the error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.quantize import grids
from plisse.compress.quantize.rated import RateQuantized, TrellisQuantized
from plisse.compress.quantize.rounding.capture import check_calibration, limited
from plisse.compress.quantize.rounding.gptq import rounded_columns
from plisse.compress.quantize.rounding.layerwise import damped
from plisse.compress.quantize.rounding.moments import Gram, gram, rows_of
from plisse.compress.quantize.rounding.units import called
from plisse.core import modules
from plisse.core.reparam import Plain, Reparam, Reparametrized, baked, reparametrize
from plisse.errors import InputError
from plisse.train.progress import progress_bar
from plisse.train.task import Task

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
WIDE = grids.Format(24)


@dataclass(frozen=True)
class Compensate:
    """Column k of W is rounded to the grid of its step; the columns R after it move by
    -(w_k - w^_k) / U_kk U_kR, where U is the upper Cholesky factor of H^-1 and H = X X^T + damping
    mean(diag(X X^T)) I (Frantar et al. 2022, section 3): GPTQ on a grid without ends, whose bits the entropy
    coder pays. Layers are taken in the order in which they are called; X is what enters them in the network
    that is rounded so far.

    For what `RateQuantize` returned. Trellis-coded weights of linear and convolution layers come back on the
    scalar grid of the same rate; embeddings stay as they are, as do layers that calibration does not reach
    (with a note). Zeros stay zeros. samples: of calibration. damping: above 0. progress: label of a bar.
    Raises InputError without entropy-coded weights, and for calibration without batches or with NaN.

    >>> Compensate(samples=128).damping
    0.01
    """

    samples: int = 256
    damping: float = 0.01
    progress: str | None = None

    def __post_init__(self) -> None:
        if not self.damping > 0 or self.samples < 1:
            raise InputError(
                f"samples={self.samples}, damping={self.damping}", expected="at least 1, above 0"
            )

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        if not isinstance(model, Reparametrized) or not coded(model):
            raise InputError("a network without entropy-coded weights", expected="RateQuantize(...) before")
        check_calibration(task.calibration)
        units = coded(modules.clone(model))
        batches = limited(task.calibration, self.samples)
        work = modules.clone(baked(model)).eval()
        order = called(work, batches[0].inputs)
        names = [f"{layer}.weight".lstrip(".") for layer in order]
        reached = [name for name in names if name in units]
        chosen: dict[str, Reparam] = {}
        with progress_bar(self.progress, len(reached)) as advance:
            for name in reached:
                chosen[name] = self._rounded(units[name], work, name, batches, order[name.rpartition(".")[0]])
                advance(None)
        notes = [
            f"{name!r} stays as it was rounded: calibration does not reach it"
            for name in units
            if name not in chosen
        ]
        return with_notes(reparametrize(model, chosen), notes)

    def _rounded(self, reparam: Any, work: nn.Module, name: str, batches: Any, calls: int) -> Reparam:
        """The weight `name` with its symbols chosen anew; `work` computes with them from now on."""
        layer = name.rpartition(".")[0]
        found = gram(work, None, layer, batches, calls)
        with torch.no_grad():
            values = reparam.source().detach().float()
        step = scalar_step(reparam)
        rounded = compensated(values, work.get_submodule(layer), found, step, self.damping)
        modules.set_tensor(work, name, rounded)
        return RateQuantized(_holding(reparam.source, rounded), step)


def coded(network: Any) -> dict[str, Reparam]:
    """The entropy-coded weights of linear and convolution layers, by name."""
    layers = dict(network.model.named_modules())
    return {
        name: reparam
        for name, reparam in network.reparams.items()
        if isinstance(reparam, (RateQuantized, TrellisQuantized))
        and isinstance(layers.get(name.rpartition(".")[0]), LAYERS)
    }


def compensated(weight: Tensor, layer: nn.Module, found: Gram, step: float, damping: float = 0.01) -> Tensor:
    """`weight` on the grid of `step`, its columns compensated for; zeros stay zeros. found: of its inputs."""
    rounded = torch.empty_like(weight)
    with torch.no_grad():
        for group, rows in enumerate(rows_of(layer, weight)):
            part = weight[rows].flatten(1)
            grid = torch.full_like(part, step), torch.zeros_like(part), part == 0
            chosen = rounded_columns(part, damped(found.squares[group], damping), grid, WIDE, True, 128)
            rounded[rows] = (chosen * step).reshape(weight[rows].shape)
    return rounded


def scalar_step(reparam: Any) -> float:
    """The step of the scalar grid that has the rate of `reparam`."""
    step = float(reparam.step)
    return 2 * step if isinstance(reparam, TrellisQuantized) else step


def _holding(source: Reparam, values: Tensor) -> Reparam:
    """`source` computing `values`, which keep its zeros: a mask around a plain weight stays."""
    inner: Any = source
    while isinstance(getattr(inner, "source", None), Reparam):
        inner = inner.source
    if isinstance(inner, Plain) and inner.weight.shape == values.shape:
        with torch.no_grad():
            inner.weight.copy_(values)
            if torch.equal(source(), values):
                return source
    return Plain(values)
