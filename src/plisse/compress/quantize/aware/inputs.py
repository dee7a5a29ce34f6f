"""Learned ranges of activations: the tensors of every `InputQuantizer` as trained reparametrizations.

A member says what is trained and with which gradient; `Aware(inputs=...)` takes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plisse.compress.quantize.codebooks.onlevels import half_through
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import bfloat16_through
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.fakequant import InputQuantizer, round_through
from plisse.core.hooks import before_calls
from plisse.core.inputinterval import InputInterval
from plisse.core.reparam import Reparam, Reparametrized, plain
from plisse.core.stored import Stored, raw
from plisse.errors import InputError
from plisse.train.objectives import with_penalty
from plisse.train.task import Objective

TINY = 1e-30


class InputLearning(Protocol):
    """Contract: tests/contracts/test_aware.py."""

    def reparams(self, quantizer: InputQuantizer, size: int) -> dict[str, Reparam]:
        """What computes tensors of `quantizer` in training, by their names in it. size: values per sample."""
        ...

    def begin(self, quantizer: InputQuantizer) -> None:
        """Give `quantizer` another form in training, in place, where the method has one."""
        ...

    def penalized(self, objective: Objective) -> Objective: ...


@dataclass(frozen=True)
class LearnedStep:
    """Scales by their rounding error (LSQ, Esser et al. 2020); with `offset` the zero point too (LSQ+,
    Bhalgat et al. 2020), rounded to a whole number in use and in the file, so that zero stays exact."""

    offset: bool = False

    def reparams(self, quantizer: InputQuantizer, size: int) -> dict[str, Reparam]:
        factor = (size * quantizer.top) ** -0.5
        learned: dict[str, Reparam] = {"scale": LearnedScale(quantizer.scale, factor)}
        if self.offset:
            learned["zero_point"] = LearnedZero(quantizer.zero_point, factor, quantizer.top)
        return learned

    def begin(self, quantizer: InputQuantizer) -> None:
        pass

    def penalized(self, objective: Objective) -> Objective:
        return objective


@dataclass(frozen=True)
class PACT:
    """The clip a of y = clip(x, 0, a) is learned: dy/da = 1 where x >= a, and rounding adds nothing to that
    gradient; `decay` a^2 is added to the objective for every layer (Choi et al. 2018). The scale is
    a / (2^bits - 1). Where inputs are signed, both ends of the range move with the scale.

    decay: 0 or more.
    """

    decay: float = 1e-3

    def __post_init__(self) -> None:
        if not self.decay >= 0:
            raise InputError(f"decay {self.decay}", expected="0 or more", hint="PACT(1e-3)")

    def reparams(self, quantizer: InputQuantizer, size: int) -> dict[str, Reparam]:
        return {"scale": LearnedClip(quantizer.scale, quantizer.top)}

    def begin(self, quantizer: InputQuantizer) -> None:
        quantizer.training_form = clipped_form

    def penalized(self, objective: Objective) -> Objective:
        return with_penalty(objective, clip_energy, self.decay) if self.decay else objective


@dataclass(frozen=True)
class LogThreshold:
    """Scales are powers of two, 2^ceil(u), and u is learned straight through the ceiling: its gradient is
    s ln 2 times that of the scale, so that a step changes any scale by the same share (TQT, Jain et al.
    2020)."""

    def reparams(self, quantizer: InputQuantizer, size: int) -> dict[str, Reparam]:
        return {"scale": LearnedLogScale(quantizer.scale, (size * quantizer.top) ** -0.5)}

    def begin(self, quantizer: InputQuantizer) -> None:
        pass

    def penalized(self, objective: Objective) -> Objective:
        return objective


class LearnedScale(Reparam):
    """The scale of an InputQuantizer as a trained tensor, rounded to bfloat16 in use and in the file.

    factor: of its gradient, 1 / sqrt(N q_max) for N values per sample.
    """

    def __init__(self, scale: Tensor, factor: float) -> None:
        super().__init__()
        self.scale, self.factor = nn.Parameter(scale.detach().clone()), factor

    def forward(self) -> Tensor:
        return bfloat16_through(ScaleGradient.apply(self.scale, self.factor))

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy(), "bfloat16")

    def widen(self, top: float, before: float) -> None:
        """Start anew with `top` as the highest symbol: s sqrt(q_max) stays, as where LSQ starts."""
        with torch.no_grad():
            self.scale.mul_((before / top) ** 0.5)
        self.factor *= (before / top) ** 0.5


class LearnedLogScale(Reparam):
    """The scale 2^ceil(u) as a function of a trained u. factor: of its gradient."""

    def __init__(self, scale: Tensor, factor: float) -> None:
        super().__init__()
        self.exponent, self.factor = nn.Parameter(scale.detach().abs().clamp_min(TINY).log2()), factor

    def forward(self) -> Tensor:
        exponent = ScaleGradient.apply(self.exponent, self.factor)
        return torch.exp2(torch.ceil(exponent.detach()) + (exponent - exponent.detach()))

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy(), "bfloat16")

    def widen(self, top: float, before: float) -> None:
        """The same threshold s q_max."""
        with torch.no_grad():
            self.exponent.add_(math.log2(before / top))
        self.factor *= (before / top) ** 0.5


class LearnedClip(Reparam):
    """The scale a / top as a function of a trained clip a >= 0 (PACT)."""

    def __init__(self, scale: Tensor, top: float) -> None:
        super().__init__()
        self.clip, self.top = nn.Parameter(scale.detach() * top), top

    def forward(self) -> Tensor:
        return bfloat16_through(self.clip / self.top)

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy(), "bfloat16")

    def widen(self, top: float, before: float) -> None:
        """The clip stays where it is."""
        self.top = top


class LearnedZero(Reparam):
    """The zero point of an InputQuantizer as a trained tensor, rounded to 0 ... top straight through."""

    def __init__(self, zero: Tensor, factor: float, top: float) -> None:
        super().__init__()
        self.zero, self.factor, self.top = nn.Parameter(zero.detach().clone()), factor, top

    def forward(self) -> Tensor:
        return torch.clamp(round_through(ScaleGradient.apply(self.zero, self.factor)), 0, self.top)

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy())

    def widen(self, top: float, before: float) -> None:
        """The same share of the range."""
        with torch.no_grad():
            self.zero.mul_(top / before)
        self.top = top


class LearnedShift(Reparam):
    """A threshold or an offset as a trained tensor, rounded to bfloat16. factor: of its gradient."""

    def __init__(self, shift: Tensor, factor: float) -> None:
        super().__init__()
        self.shift, self.factor = nn.Parameter(shift.detach().clone()), factor

    def forward(self) -> Tensor:
        return half_through(ScaleGradient.apply(self.shift, self.factor), "bfloat16")

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy(), "bfloat16")


def learned_interval(quantizer: InputInterval, size: int) -> dict[str, Reparam]:
    """What computes the tensors of an `InputInterval` in training, by their names in it (QIL, Jung et al.
    2019; for one bit ReActNet's thresholds, Liu et al. 2020). The width of one bit has no part in the
    forward pass and stays."""
    factor = (size * quantizer.top) ** -0.5
    learned: dict[str, Reparam] = {
        "scale": LearnedScale(quantizer.scale, factor),
        "shift": LearnedShift(quantizer.shift, factor * max(quantizer.channels, 1) ** 0.5),
    }
    if quantizer.bits > 1:
        learned["width"] = LearnedScale(quantizer.width, factor)
    if quantizer.offset is not None:
        learned["offset"] = LearnedShift(quantizer.offset, factor)
    return learned


def clipped_form(value: Tensor, scale: Tensor, zero: Tensor, top: float) -> Tensor:
    """PACT's form: the gradient is that of clip(x, -z s, (top - z) s), without the rounding."""
    clipped = torch.minimum(torch.maximum(value, -zero * scale), (top - zero) * scale)
    symbols = torch.clamp(torch.round(value / scale) + zero, 0.0, top)
    return ((symbols - zero) * scale).detach() + (clipped - clipped.detach())


def clip_energy(model: nn.Module) -> Tensor:
    """The sum of a^2 over all learned clips."""
    clips = [module.clip.square().sum() for module in model.modules() if isinstance(module, LearnedClip)]
    return torch.stack(clips).sum() if clips else torch.zeros(())


def learn_inputs(model: Reparametrized, example: Inputs, how: InputLearning) -> Reparametrized:
    """The same network with the tensors of every activation quantizer that `example` reaches trained."""
    learned: dict[str, Reparam] = {}
    for name, size in _input_sizes(model, example).items():
        quantizer: Any = plain(model).get_submodule(name)
        if isinstance(quantizer, InputInterval):
            found = learned_interval(quantizer, size)
        else:
            how.begin(quantizer)
            found = how.reparams(quantizer, size)
        learned.update({f"{name}.{tensor}".lstrip("."): reparam for tensor, reparam in found.items()})
    return Reparametrized(model.model, {**model.reparams, **learned})


def input_quantizers(model: nn.Module) -> dict[str, InputQuantizer]:
    """Every activation quantizer with a fixed range, by its dotted name."""
    return {name: m for name, m in plain(model).named_modules() if isinstance(m, InputQuantizer)}


def input_intervals(model: nn.Module) -> dict[str, InputInterval]:
    """Every quantizer of inputs with thresholds of its own, by its dotted name."""
    return {name: m for name, m in plain(model).named_modules() if isinstance(m, InputInterval)}


def _input_sizes(model: nn.Module, example: Inputs) -> dict[str, int]:
    """Values per sample that enter each quantizer with a fixed range, by its name."""
    sizes: dict[str, int] = {}

    def note(name: str, _: Any, inputs: tuple[Any, ...]) -> None:
        sizes[name] = inputs[0][0].numel()

    layers = {**input_quantizers(model), **input_intervals(model)}
    with before_calls(layers, note), modules.evaluating(model), torch.no_grad():
        call(model, example)
    return sizes
