"""Small tensors: biases, norm parameters and running statistics, in the cheapest harmless form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerTensor
from plisse.compress.quantize.ranges import MinMax
from plisse.core import modules
from plisse.core.reparam import Reparam, Reparametrized, plain, reparametrize, source
from plisse.core.stored import Stored, raw
from plisse.errors import InputError
from plisse.train.task import Task, mean_divergence, outputs_on

LOWEST = 1e-12  # the tolerance below which a failed check keeps every tensor in float32
STATISTICS = ("running_var", "kept_std")


class Constant(Reparam):
    """Every value is the mean of the source (float32, symbols all alike)."""

    def __init__(self, source: Reparam) -> None:
        super().__init__()
        self.source = source

    def forward(self) -> Tensor:
        values = self.source().float()
        return torch.full_like(values, float(values.detach().double().mean())) + (values - values.detach())

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy())


class HalfPrecision(Reparam):
    """The source in 16-bit floating point (IEEE 754 binary16), straight through backward."""

    def __init__(self, source: Reparam) -> None:
        super().__init__()
        self.source = source

    def forward(self) -> Tensor:
        values = self.source().float()
        return values.detach().half().float() + (values - values.detach())

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy(), "float16")


Form = Callable[[Reparam], Reparam]


def uniform(bits: int) -> Form:
    """An affine grid for the whole tensor."""
    return lambda inner: FakeQuantized(inner, Format(bits, symmetric=False), PerTensor(), MinMax())


FORMS: tuple[Form, ...] = (Constant, uniform(8), uniform(12), HalfPrecision)  # cheapest first, then float32


@dataclass(frozen=True)
class CompactSmall:
    """Every float tensor that is no weight matrix and not computed yet gets the cheapest of: constant, 8-bit
    uniform, 12-bit uniform, float16, float32, whose error is tolerable.

    tolerance: squared error as a share of the tensor's energy; for running variances and kept deviations,
    which are divided by, the mean square of each value's relative error (so that they stay positive).
    divergence: what this may add to the task's divergence from the network as it came, on the calibration
    batches; the tolerance falls tenfold until that holds. None checks nothing.
    """

    tolerance: float = 1e-5
    divergence: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise InputError(f"tolerance {self.tolerance}", expected="0 or more, such as 1e-5")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        if self.divergence is None:
            return compacted(model, self.tolerance)
        tolerance = self.tolerance
        reference = outputs_on(model, task.calibration)
        while tolerance >= LOWEST:
            found = compacted(model, tolerance)
            outputs = outputs_on(found, task.calibration)
            if not reference or mean_divergence(task, reference, outputs) <= self.divergence:
                return found
            tolerance /= 10
        return compacted(model, 0.0)


def compacted(model: nn.Module, tolerance: float) -> nn.Module:
    """A copy of `model` with every small tensor in its cheapest tolerable form."""
    forms = {name: cheapest(source(model, name), name, tolerance) for name in small_names(model)}
    return reparametrize(model, {name: form for name, form in forms.items() if form is not None})


def small_names(model: nn.Module) -> list[str]:
    """Float parameters and buffers of the network's state that are no weight matrices and not computed."""
    network = plain(model)
    taken = set(modules.weight_names(network))
    if isinstance(model, Reparametrized):
        taken |= set(model.reparams)
    held = {id(modules.tensor(network, name)) for name in taken}  # a tied tensor has several names
    return [name for name in network.state_dict() if _is_small(modules.tensor(network, name), held)]


def _is_small(value: Tensor, held: set[int]) -> bool:
    return value.is_floating_point() and value.numel() > 0 and id(value) not in held


def cheapest(values: Reparam, name: str, tolerance: float) -> Reparam | None:
    """The first of FORMS within `tolerance`; None where the tensor has to stay float32."""
    with torch.no_grad():
        exact = values().detach().double()
        for form in FORMS:
            found = form(values)
            if _error(exact, found().double(), name.endswith(STATISTICS)) <= tolerance:
                return found
    return None


def _error(exact: Tensor, found: Tensor, relative: bool) -> float:
    error = (found - exact).square()
    if relative:
        return float((error / exact.square().clamp_min(1e-30)).mean())
    return float(error.sum() / exact.square().sum().clamp_min(1e-30))
