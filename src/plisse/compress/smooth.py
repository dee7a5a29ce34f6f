"""Move the difficulty of rounding between activations and weights, channel by channel, before rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.fold import check_same
from plisse.compress.notes import with_notes
from plisse.compress.quantize.activations import watch_inputs
from plisse.compress.quantize.fake import fitted_grid
from plisse.compress.quantize.grids import (
    Format,
    Granularity,
    PerGroup,
    check_bits,
    spread,
    symbols,
    values_of,
)
from plisse.compress.quantize.ranges import MinMax, Range
from plisse.compress.trace import Trace, sole_holders
from plisse.core import modules
from plisse.core.batch import Inputs
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.fakequant import InputQuantizer
from plisse.core.inputscale import InputScale
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import Task

NORMS = (nn.LayerNorm, nn.RMSNorm)
SMALLEST = 1e-8


@dataclass(frozen=True)
class Readers:
    """Linear layers that read one value. maker: the layer norm or linear layer that makes it and that nobody
    else reads, so that a factor can be folded into it; None where there is none."""

    layers: tuple[str, ...]
    maker: str | None = None


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """What is known of a value [M, D] over the calibration batches: per channel the largest and the mean
    magnitude [D], and, where wanted, E[x x^T] [D, D]."""

    largest: Tensor
    mean: Tensor
    products: Tensor


Factors = Callable[[nn.Module, Readers, InputStatistics], Tensor]


@dataclass(frozen=True)
class Smooth:
    """SmoothQuant (Xiao et al. 2023): for every value that linear layers read, divide channel j by
    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) and multiply column j of the layers' weights by it.

    The division goes into the layer norm or linear layer before, where nobody else reads that; elsewhere
    (behind GELU, or a layer norm that a shortcut reads too, as in BERT) an `InputScale` at the layer carries
    it, one multiplication per value. Outputs stay as they are, up to rounding. The notes say which.

    alpha: 0 (all difficulty to activations) to 1 (all to weights). X: over the calibration batches. Apply it
    before `Quantize`; computed weights are baked first.

    Raises InputError without calibration, or where inputs are rounded already; GraphError where the outputs
    on the task's example change by more than rounding explains.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha {self.alpha}", expected="0 to 1", hint="Smooth(0.5)")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        def factors(network: nn.Module, readers: Readers, inputs: InputStatistics) -> Tensor:
            widest = torch.stack([_weight(network, name).abs().amax(0) for name in readers.layers]).amax(0)
            s = inputs.largest**self.alpha / widest.clamp_min(SMALLEST) ** (1 - self.alpha)
            return torch.where((inputs.largest > 0) & (widest > 0), s.clamp_min(SMALLEST), 1.0)

        return _scaled(model, task, factors, full=False)


@dataclass(frozen=True)
class ActivationAware:
    """AWQ (Lin et al. 2024, section 3.2): columns of weights that meet large activations are scaled up before
    they are rounded, s_j = (mean|X_j|)^a, with a of 0, 1/points ... by the least error of the layers' outputs
    E |(Q(W s) / s - W) x|^2. Where the factors go, and what stays, is as for `Smooth`.

    bits, symmetric, granularity, range: of the weights, as in the `Quantize` that follows. points: values
    of a that are tried; a = 0 is among them, so no layer gets worse by this measure.

    Holds one matrix [D, D] per value that linear layers read. Raises as `Smooth` does.
    """

    bits: int = 4
    symmetric: bool = True
    granularity: Granularity = field(default_factory=PerGroup)
    range: Range = field(default_factory=MinMax)
    points: int = 20

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.points < 1:
            raise InputError(f"{self.points} points", expected="at least 1")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        return _scaled(model, task, self._factors, full=True)

    def _factors(self, network: nn.Module, readers: Readers, inputs: InputStatistics) -> Tensor:
        best, least = torch.ones_like(inputs.mean), float("inf")
        for point in range(self.points):
            s = inputs.mean.clamp_min(SMALLEST) ** (point / self.points)
            s = torch.where(inputs.mean > 0, s / (s.max() * s.min()).sqrt(), 1.0)
            error = sum(self._error(_weight(network, name), s, inputs) for name in readers.layers)
            if error < least:
                best, least = s, error
        return best

    def _error(self, weight: Tensor, s: Tensor, inputs: InputStatistics) -> float:
        """Mean squared error of the outputs that rounding of weight * s [O, D] makes."""
        form, scaled = Format(self.bits, self.symmetric), weight * s
        scale, zero = (
            spread(part, scaled, self.granularity.group)
            for part in fitted_grid(scaled, form, self.granularity, self.range)
        )
        change = values_of(symbols(scaled, scale, zero, form), scale, zero) / s - weight
        return float(((change @ inputs.products) * change).sum())


def _scaled(model: nn.Module, task: Task, factors: Factors, full: bool) -> nn.Module:
    """The network with the factors that `factors` wants. full: statistics with products."""
    smooth = modules.clone(baked(model))
    every = linear_readers(smooth, task.example)
    _check_unrounded(smooth, every)
    known = _statistics(smooth, [readers.layers[0] for readers in every], task, full)
    met = [readers for readers in every if readers.layers[0] in known]
    for readers in met:
        _scale(smooth, readers, factors(smooth, readers, known[readers.layers[0]]))
    check_same(model, smooth, task.example, "input channels are scaled", "leave the step out")
    return with_notes(smooth, [_note(readers) for readers in met] or ["nothing scaled: no linear layer"])


def linear_readers(model: nn.Module, example: Inputs) -> list[Readers]:
    """Linear layers by the value that they read, in order of appearance. Layers that are called more than
    once, or whose tensors other modules hold too, are left out."""
    trace = Trace(model, example, (nn.Linear, nn.Embedding, *NORMS))
    alone = sole_holders(model) & {name for name, n in trace.calls.items() if n == 1}
    kinds = {name: model.get_submodule(name) for name in trace.calls}
    found = []
    for value, seen in list(trace.readers.items()):
        names = [r.name for r in seen if r.layer and isinstance(kinds[r.name], nn.Linear)]
        fit = tuple(name for name in dict.fromkeys(names) if name in alone)
        maker = trace.makers.get(value)
        if fit:
            whole = len(fit) == len(seen) and maker in alone and _takes_factors(kinds[maker])
            found.append(Readers(fit, maker if whole else None))
    return found


def _takes_factors(layer: Any) -> bool:
    return isinstance(layer, (nn.Linear, *NORMS)) and layer.weight is not None


def _statistics(model: nn.Module, names: list[str], task: Task, full: bool) -> dict[str, InputStatistics]:
    """Statistics of what enters the layers `names`, of those that calibration reaches."""
    largest: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    products: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def watch(name: str, value: Tensor) -> None:
        rows = value.float().flatten(0, -2)  # [M, D]
        size = rows.abs()
        largest[name] = torch.maximum(largest.get(name, size[0]), size.amax(0))
        sums[name] = sums.get(name, torch.zeros(())) + size.double().sum(0)
        products[name] = products.get(name, torch.zeros(())) + (rows.T @ rows if full else torch.zeros(()))
        counts[name] += len(rows)

    if not len(task.calibration):
        raise InputError("no calibration batch", expected="at least one, to see activations")
    watch_inputs(model, {name: model.get_submodule(name) for name in names}, task.calibration, watch)
    for name, found in largest.items():
        if not bool(torch.isfinite(found).all()):
            raise InputError(f"NaN or infinity entering {name!r}", expected="finite calibration inputs")
    return {
        name: InputStatistics(largest[name], (sums[name] / n).float(), products[name] / n)
        for name, n in counts.items()
    }


def _check_unrounded(model: nn.Module, every: list[Readers]) -> None:
    for name in (name for readers in every for name in readers.layers):
        hanging = getattr(model.get_submodule(name), "input_quantizer", None)
        if isinstance(hanging, (InputQuantizer, DynamicQuantizer)):
            raise InputError(
                f"a network whose inputs are rounded already, at {name!r}",
                expected="one that is not",
                hint="smooth first, then quantize",
            )


def _weight(model: nn.Module, name: str) -> Tensor:
    layer: Any = model.get_submodule(name)
    return layer.weight.detach().float()


def _scale(model: nn.Module, readers: Readers, s: Tensor) -> None:
    """In place: multiply the input columns of the readers' weights by s [D], divide what they read by it."""
    with torch.no_grad():
        for name in readers.layers:
            layer: Any = model.get_submodule(name)
            layer.weight.mul_(s.to(layer.weight.dtype))
            if readers.maker is None:
                _divide_input(layer, s)
        if readers.maker is not None:
            maker: Any = model.get_submodule(readers.maker)
            maker.weight.div_(s[:, None] if isinstance(maker, nn.Linear) else s)
            if getattr(maker, "bias", None) is not None:
                maker.bias.div_(s)


def _divide_input(layer: Any, s: Tensor) -> None:
    """In place: hang an `InputScale` on `layer`, or change the one that hangs there."""
    if "input_scale" not in layer._modules:
        fresh = InputScale(len(s)).to(layer.weight.device, layer.weight.dtype)
        fresh.train(layer.training).requires_grad_(layer.weight.requires_grad)
        fresh.attach(layer)
    layer.input_scale.factor.div_(s)


def _note(readers: Readers) -> str:
    names = ", ".join(readers.layers)
    return f"{names}: scaled, {f'folded into {readers.maker}' if readers.maker else 'with an input factor'}"
