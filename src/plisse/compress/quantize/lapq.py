"""Ranges of all layers together, by what they do to the network's outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Nearest
from plisse.compress.quantize.grids import bfloat16_through
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE
from plisse.core import modules
from plisse.core.batch import BatchList
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import Reparametrized, plain
from plisse.errors import InputError
from plisse.train.task import Task, mean_divergence, outputs_on

FACTORS = (0.8, 0.9, 1.1, 1.25)


@dataclass(frozen=True)
class LAPQ:
    """Loss-aware post-training quantization (Nahshan et al. 2021): quantize with the ranges of least
    |x - x^|^p for several p, take the p with the least divergence from the network as it came, and from there
    search the scales of weights and activations one after the other for less divergence.

    We differ from the paper in two points: the best p is the best of those tried, without a parabola through
    them; and the joint search is by coordinates (each scale times 0.8, 0.9, 1.1, 1.25), where the paper uses
    Powell's method.

    quantize: what to do; its ranges are ours, its rounding comes at the end. norms: the p, each above 0.
    passes: over all scales, 0 or more. batches: of the calibration set, at least 1; the search takes
    4 passes x scales evaluations of them.

    Raises InputError for a `quantize` that trains, whose steps are learned anyway.
    """

    quantize: Quantize = field(default_factory=Quantize)
    norms: tuple[float, ...] = (2.0, 2.4, 3.0, 4.0)
    passes: int = 1
    batches: int = 2

    def __post_init__(self) -> None:
        if self.quantize.aware is not None:
            raise InputError("LAPQ of a Quantize that trains", expected="aware=None")
        if not self.norms or self.passes < 0 or self.batches < 1:
            raise InputError(
                f"{len(self.norms)} norms, {self.passes} passes, {self.batches} batches",
                expected="at least one norm, 0 passes and 1 batch",
            )

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        n = min(self.batches, len(task.calibration))
        seen = BatchList(tuple(task.calibration[i] for i in range(n)))
        wanted = outputs_on(model, seen)
        best, least = None, float("inf")
        for norm in self.norms:
            found = self._with(MSE(norm))(model, task)
            loss = divergence(found, seen, wanted, task)
            if best is None or loss < least:
                best, least = found, loss
        assert isinstance(best, Reparametrized)
        for _ in range(self.passes):
            for scale in _scales(best):
                least = _search(best, scale, least, seen, wanted, task)
        return self.quantize.rounding(best, model, task)

    def _with(self, chosen: MSE) -> Quantize:
        how = self.quantize.activations
        if isinstance(how, Activations) and not how.dynamic:
            how = replace(how, range=chosen)
        return replace(self.quantize, range=chosen, activations=how, rounding=Nearest())


def divergence(model: nn.Module, batches: BatchList, wanted: list[Tensor], task: Task) -> float:
    """Mean divergence of the outputs on `batches` from those `wanted`; infinite where there is none."""
    found = outputs_on(model, batches)
    mean = mean_divergence(task, wanted, found) if found else 0.0
    return mean if mean == mean else float("inf")


def _scales(model: Reparametrized) -> Iterator[Tensor]:
    """The scales of weights on uniform grids and of their layers' inputs, in order of definition."""
    for name in modules.weight_names(plain(model)):
        layer = plain(model).get_submodule(name.rpartition(".")[0])
        reparam, inputs = model.reparams.get(name), getattr(layer, "input_quantizer", None)
        if isinstance(inputs, InputQuantizer):
            yield inputs.scale
        if isinstance(reparam, FakeQuantized):
            yield reparam.scale


def _search(
    model: nn.Module, scale: Tensor, least: float, batches: BatchList, wanted: list[Tensor], task: Task
) -> float:
    """In place: the factor of `scale` with the least divergence, if any is below `least`."""
    start = best = scale.detach().clone()
    with torch.no_grad():
        for factor in FACTORS:
            scale.copy_(bfloat16_through(start * factor))
            loss = divergence(model, batches, wanted, task)
            if loss < least:
                best, least = scale.detach().clone(), loss
        scale.copy_(best)
    return least
