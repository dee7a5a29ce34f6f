"""Fake quantization of weights: values on a uniform grid in the forward pass, straight through backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plisse.compress.quantize import grids
from plisse.compress.quantize.grids import Format, Granularity
from plisse.compress.quantize.ranges import Range
from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, Uniform


class ScaleGradient(torch.autograd.Function):
    """The value unchanged; its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class FakeQuantized(Reparam):
    """The source's values on a uniform grid: x^ = s (clip(round(x / s) + z, q_min, q_max) - z).

    The gradient by x is 1 where x is inside the range and 0 where it is clipped (straight-through
    estimator, Bengio et al. 2013). With `learn_step` the scale is a parameter whose gradient,
    round(x / s) - x / s inside and q outside, is multiplied by 1 / sqrt(N q_max) for N values per scale
    (LSQ, Esser et al. 2020). The scale is rounded to bfloat16 before it is used, so training sees what the
    file will hold.

    source: what computes the weight that is rounded. form: bits 2 to 16, symmetric or affine.
    granularity: which values share a scale. range: how the scale is chosen, from the source as it is now.
    training_rounding: what rounds in training mode, where it should have another gradient or noise; the file
    rounds to nearest. Raises WeightsError for a source with NaN or infinity.

    >>> from plisse.core.reparam import Plain
    >>> from plisse.compress.quantize.grids import PerTensor
    >>> from plisse.compress.quantize.ranges import MinMax
    >>> FakeQuantized(Plain(torch.tensor([0.0, 0.6, 7.0])), Format(4), PerTensor(), MinMax())()
    tensor([0., 1., 7.], grad_fn=<MulBackward0>)
    """

    zero: Tensor

    def __init__(
        self,
        source: Reparam,
        form: Format,
        granularity: Granularity,
        range: Range,
        learn_step: bool = False,
    ) -> None:
        super().__init__()
        self.source, self.form, self.group = source, form, granularity.group
        with torch.no_grad():
            values = grids.check_finite(source().detach().float())
            scale, zero = fitted_grid(values, form, granularity, range)
        self.scale = nn.Parameter(scale, requires_grad=learn_step)
        self.register_buffer("zero", zero)
        self.step_gradient = (form.high * values.numel() / scale.numel()) ** -0.5 if values.numel() else 1.0
        self.training_rounding: Callable[[Tensor], Tensor] | None = None

    def forward(self) -> Tensor:
        symbols, scale, zero = self._symbols()
        return grids.values_of(symbols, scale, zero)

    def stored(self) -> Stored:
        with torch.no_grad():
            symbols, _, _ = self._symbols()
            scale = grids.bfloat16_through(self.scale).cpu().numpy()
        zero = None if self.form.symmetric else self.zero.cpu().numpy().astype(np.int32)
        whole = symbols.to(torch.int32).cpu().numpy()
        return Stored(whole, whole.shape, Uniform(scale, zero, self.group if scale.ndim == 2 else 0))

    def _symbols(self) -> tuple[Tensor, Tensor, Tensor]:
        values = self.source().float()
        scale = grids.bfloat16_through(ScaleGradient.apply(self.scale, self.step_gradient))
        scale = grids.spread(scale, values, self.group)
        zero = grids.spread(self.zero, values, self.group)
        if self.training and self.training_rounding is not None and torch.is_grad_enabled():
            rounded = self.training_rounding(values / scale) + zero
            return torch.clamp(rounded, self.form.low, self.form.high), scale, zero
        return grids.symbols(values, scale, zero, self.form), scale, zero

    def widen(self, bits: int) -> None:
        """Go on with another number of bits, in place: s sqrt(q_max) stays, as where learned steps start, and
        the zero point keeps its share of the range."""
        before, self.form = self.form, replace(self.form, bits=bits)
        share = before.high / self.form.high
        with torch.no_grad():
            self.scale.mul_(share**0.5)
            self.zero.copy_(torch.round(self.zero / share).clamp(self.form.low, self.form.high))
        self.step_gradient *= share**0.5


def fitted_grid(
    values: Tensor, form: Format, granularity: Granularity, range: Range
) -> tuple[Tensor, Tensor]:
    """Scale and zero point for every unit of `values`, shaped [1], [C] or [C, G] as `Uniform` wants them."""
    grid = [grids.scale_and_zero(*range.range(part, form), form) for part in granularity.split(values)]
    scale = granularity.join(tuple(scale for scale, _ in grid), values)
    zero = granularity.join(tuple(zero for _, zero in grid), values)
    return scale, zero
