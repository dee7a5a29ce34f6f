"""Weights on the unit sphere and thresholds in an interval, as functions of free tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, raw

SMALLEST = 1e-12
EDGE = 1 - 1e-6  # where tanh ends, so that its inverse is finite


def on_sphere(weight: Tensor) -> Tensor:
    """Every row (first axis, the rest flattened) divided by its norm: [O, ...] to [O, ...].

    >>> on_sphere(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    norm = weight.flatten(1).norm(dim=1).clamp_min(SMALLEST)
    return weight / norm.reshape(-1, *[1] * (weight.dim() - 1))


class _Computed(Reparam):
    """What is stored is what is computed, in float32."""

    def stored(self) -> Stored:
        with torch.no_grad():
            return raw(self().detach().float().cpu().numpy())


class OnSphere(_Computed):
    """W = V / |V|, row by row: weight normalization (Salimans and Kingma 2016) without the gain, which the
    next layer holds. The gradient by V has no radial part, and is larger where V is short.

    source: what computes V [O, ...].

    >>> from plisse.core.reparam import Plain
    >>> OnSphere(Plain(torch.tensor([[0.0, -2.0]])))()
    tensor([[ 0., -1.]], grad_fn=<DivBackward0>)
    """

    def __init__(self, source: Reparam) -> None:
        super().__init__()
        self.source = source

    def forward(self) -> Tensor:
        return on_sphere(self.source())


class Tangent(_Computed):
    """W as it is, but its gradient g loses its radial part: g - (g . w) w for each row w of norm 1. With a
    normalization after every step (`training.Project`) this is Riemannian gradient descent with projection
    as retraction (Absil, Mahony and Sepulchre 2008, sections 3.6 and 4.1); momentum is not transported.

    source: what computes W, rows of norm 1.
    """

    def __init__(self, source: Reparam) -> None:
        super().__init__()
        self.source = source

    def forward(self) -> Tensor:
        tangent: Tensor = _TangentGradient.apply(self.source())
        return tangent


class _TangentGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight = ctx.saved_tensors[0].flatten(1)
        flat = gradient.flatten(1)
        return (flat - (flat * weight).sum(1, keepdim=True) * weight).view_as(gradient)


class Clamped(_Computed):
    """b = min(max(t, -bound), bound). Outside the interval the gradient is 0.

    source: what computes t [O]. bound: above 0.
    """

    def __init__(self, source: Reparam, bound: float) -> None:
        super().__init__()
        self.source, self.bound = source, bound

    def forward(self) -> Tensor:
        return self.source().clamp(-self.bound, self.bound)


class Squashed(_Computed):
    """b = bound tanh(t): the ends are never reached, and near them steps become small.

    source: what computes t [O]; `Squashed.inverse(b, bound)` gives t. bound: above 0.
    """

    def __init__(self, source: Reparam, bound: float) -> None:
        super().__init__()
        self.source, self.bound = source, bound

    @staticmethod
    def inverse(threshold: Tensor, bound: float) -> Tensor:
        return torch.atanh((threshold / bound).clamp(-EDGE, EDGE))

    def forward(self) -> Tensor:
        return self.bound * torch.tanh(self.source())
