"""Weights of one bit: a sign, times the channel's magnitude."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from plisse.compress.quantize.codebooks.importance import spread_importance
from plisse.compress.quantize.codebooks.onlevels import finite_values
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import bfloat16_through, spread
from plisse.core.reparam import Reparam
from plisse.core.stored import Levels, Stored
from plisse.errors import InputError

Scale = Literal["mean", "one", "learned"]
SCALES = ("mean", "one", "learned")


class Binarized(Reparam):
    """x^ = alpha sign(x), sign(0) = 1; alpha = sum d |x| / sum d per channel, or 1.

    The sign's gradient is 1 where |x| <= clip, else 0 (straight-through, Hubara et al. 2016), so that of x is
    alpha times as much plus what comes through alpha, which follows x in training (Rastegari et al. 2016,
    section 3.1), or is a parameter where learned, with its gradient times 1 / sqrt(n) for n values per
    channel. importance: d, in the shape of x, or None for all alike. training_rounding: an estimator's, of
    x / (2 clip) + 1/2, for the gradient of the sign in training.
    """

    importance: Tensor | None

    def __init__(self, source: Reparam, scale: Scale, clip: float, importance: Tensor | None = None) -> None:
        super().__init__()
        self.source, self.kind, self.clip = source, scale, clip
        self.register_buffer("importance", importance)
        self.training_rounding: Callable[[Tensor], Tensor] | None = None
        self.alpha: nn.Parameter | None = None
        if scale == "learned":
            values = source().detach().float()
            self.alpha = nn.Parameter(self._mean(values))
            self.alpha_gradient = (len(self.alpha) / values.numel()) ** 0.5

    def forward(self) -> Tensor:
        values = self.source().float()
        inside = values.clamp(-self.clip, self.clip)
        if self.training and self.training_rounding is not None and torch.is_grad_enabled():
            inside = 2 * self.clip * self.training_rounding(inside / (2 * self.clip) + 0.5)
        signs = _signs(values.detach()) + (inside - inside.detach())
        return signs if self.kind == "one" else signs * spread(self._alpha(values), values, 0)

    def stored(self) -> Stored:
        with torch.no_grad():
            values = self.source().float()
            alpha = None if self.kind == "one" else self._alpha(values).cpu().numpy()
            symbols = (_signs(values) > 0).to(torch.int32).cpu().numpy()
        signs = torch.tensor([-1.0, 1.0]).numpy()
        return Stored(symbols, tuple(values.shape), Levels(signs, alpha))

    def _alpha(self, values: Tensor) -> Tensor:
        if self.alpha is not None:
            return bfloat16_through(ScaleGradient.apply(self.alpha, self.alpha_gradient))
        return self._mean(values)

    def _mean(self, values: Tensor) -> Tensor:
        sizes = _rows(values.abs()).double()
        if self.importance is None:
            return bfloat16_through(sizes.mean(1).float())
        mass = _rows(self.importance).double()
        alike = mass.sum(1, keepdim=True) == 0
        mass = torch.where(alike, torch.ones_like(mass), mass)
        return bfloat16_through(((mass * sizes).sum(1) / mass.sum(1)).float())


@dataclass(frozen=True)
class Binary:
    """x^ = alpha sign(x). exact_zero: no.

    scale: "mean": alpha = mean |x| per channel, the best one in the sense of least squares (binary-weight
    networks, XNOR-Net; Bi-Real's weights are the same, its difference is in the activations' gradient);
    "one": alpha = 1 (BinaryConnect: for networks trained so, followed by batch norm); "learned": a parameter
    per channel that starts at the mean (XNOR-Net++). clip: beyond it the sign has no gradient, above 0.

    Sources: Courbariaux et al. 2015; Rastegari et al. 2016, section 3.1; Liu et al. 2018; Bulat and
    Tzimiropoulos 2019.

    >>> from plisse.core.reparam import Plain
    >>> Binary().quantized(Plain(torch.tensor([[0.5, -1.5], [0.0, 2.0]])))().detach()
    tensor([[ 1., -1.],
            [ 1.,  1.]])
    """

    scale: Scale = "mean"
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"scale {self.scale!r}", expected=f"one of {', '.join(SCALES)}")
        _check_clip(self.clip)

    def quantized(self, source: Reparam) -> Reparam:
        finite_values(source)
        return Binarized(source, self.scale, self.clip)


@dataclass(frozen=True)
class LossAwareBinary:
    """x^ = alpha sign(x), alpha = sum d |x| / sum d per channel, d being the curvature of the loss by x: the
    nearest binary weights as the loss sees it. exact_zero: no.

    Source: Hou, Yao and Kwok 2017, Loss-aware binarization of deep networks, proposition 3.1; their d is the
    square root of Adam's second moments.
    """

    clip: float = 1.0

    def __post_init__(self) -> None:
        _check_clip(self.clip)

    def quantized(self, source: Reparam, importance: Tensor | None = None) -> Reparam:
        """importance: d of each value, or per input channel; None is the same as Binary()."""
        weights = spread_importance(importance, finite_values(source))
        return Binarized(source, "mean", self.clip, weights)


def _check_clip(clip: float) -> None:
    if not clip > 0:
        raise InputError(f"clip {clip}", expected="above 0", hint="clip=1.0")


def _signs(values: Tensor) -> Tensor:
    return torch.where(values >= 0, torch.ones_like(values), -torch.ones_like(values))


def _rows(values: Tensor) -> Tensor:
    return values.flatten(1) if values.dim() > 1 else values.reshape(1, -1)
