"""What the error of each weight is worth, for grids that are fitted to it (`Quantize(importance=...)`)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plisse.compress.quantize.activations import watch_inputs
from plisse.compress.quantize.mixed.curvature import Fisher
from plisse.core import modules
from plisse.core.reparam import baked, plain
from plisse.errors import InputError
from plisse.train.task import Task


class Importance(Protocol):
    def of(self, model: nn.Module, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
        """0 or more for every value of the named weights, or for each of their input channels [I]. Weights
        that it knows nothing of are left out."""
        ...


@dataclass(frozen=True)
class InputEnergy:
    """E[x_j^2] of every input channel j over the calibration batches: the diagonal of the Hessian of a
    layer's squared output error, so that sum_j E[x_j^2] (w_j - c_j)^2 is what a codebook is fitted by (Stock
    et al. 2020, And the bit goes down, section 3.2, with their patches taken channel by channel).

    No labels. Grouped convolutions, embeddings and recurrent layers are left out.
    """

    def of(self, model: nn.Module, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
        layers = {
            name.rpartition(".")[0]: layer
            for name, layer in (
                (f"{n}.weight".lstrip("."), m) for n, m in modules.weighted_layers(plain(model))
            )
            if name in names and not isinstance(layer, nn.Embedding) and getattr(layer, "groups", 1) == 1
        }
        if not len(task.calibration):
            raise InputError("no calibration batch", expected="at least one, to see inputs")
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def watch(name: str, value: Tensor) -> None:
            rows = value.float().movedim(-1 if isinstance(layers[name], nn.Linear) else 1, -1)
            rows = rows.reshape(-1, rows.shape[-1])
            sums[name] = sums.get(name, torch.zeros(())) + rows.double().square().sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        watch_inputs(model, layers, task.calibration, watch)
        return {
            f"{name}.weight".lstrip("."): (total / counts[name]).float()
            for name, total in sums.items()
            if bool((total > 0).any())
        }


@dataclass(frozen=True)
class Curvature:
    """sqrt(F_j) for every weight j, F the Fisher information (mean squared gradient): what loss-aware
    binarization weighs by, with the square root as in Adam (Hou, Yao and Kwok 2017, section 3.2)."""

    fisher: Fisher = field(default_factory=Fisher)

    def of(self, model: nn.Module, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
        found = self.fisher.information(baked(model), task, tuple(names))
        return {name: value.sqrt() for name, value in found.items() if bool((value > 0).any())}


def check_weighable(grid: Any) -> None:
    """Raise InputError unless a grid can be fitted to importance."""
    if grid is None or "importance" not in inspect.signature(grid.quantized).parameters:
        raise InputError(
            f"importance for grid={grid}",
            expected="a grid that is fitted to it",
            hint="ProductQuantization(), ResidualQuantization(), KMeans(), LossAwareBinary()",
        )
