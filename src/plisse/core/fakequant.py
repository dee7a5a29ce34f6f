"""Fake quantization of activations: a module that hangs on a layer and rounds what enters it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from plisse.core.hooks import hang_before
from plisse.core.rounding_pass import RoundPass, can_pass

Training = Callable[[Tensor, Tensor, Tensor, float], Tensor]


class RoundThrough(torch.autograd.Function):
    """Round to nearest; the gradient passes unchanged (straight-through estimator, Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return torch.round(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_through(value: Tensor) -> Tensor:
    return RoundThrough.apply(value)


class InputQuantizer(nn.Module):
    """Rounds the first input of a layer to `bits` bits: x' = (clip(round(x / s) + z, 0, 2^bits - 1) - z) s.

    bits: 2 to 8. `scale` (a parameter, so that it can be learned) and `zero_point` (a buffer) are tensors of
    the network's state. Attached as the child `input_quantizer` with a forward pre-hook; deep copies of the
    layer keep both. All arithmetic is in float32, also under autocast. The gradient is that of LSQ: straight
    through within the range, and by the scale round(x / s) - x / s there and the clipped symbol beyond.

    training_form: what computes x' from x, s, z and 2^bits - 1 in training mode, so that it can have other
    gradients or noise. No part of a file.
    """

    zero_point: Tensor

    def __init__(self, bits: int, scale: float = 1.0, zero_point: float = 0.0) -> None:
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.register_buffer("zero_point", torch.tensor(float(zero_point)))
        self.training_form: Training | None = None

    @property
    def top(self) -> float:
        """The highest symbol."""
        return float(2**self.bits - 1)

    def forward(self, value: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            if self.training_form is not None:
                exact = self.training_form(value.float(), self.scale, self.zero_point, self.top)
                return exact.to(value.dtype)
            if can_pass(value) and not self.zero_point.requires_grad:
                return RoundPass.apply(value, self.scale, float(self.zero_point), self.top)
        return on_grid(value, self.scale, self.zero_point, self.top)

    def attach(self, layer: nn.Module) -> None:
        """Hang this quantizer on `layer`, in place of one that hangs there already."""
        hang_before(layer, "input_quantizer", self)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that are structure; the scale and zero point travel as tensors."""
        return {"bits": self.bits}


def on_grid(
    value: Tensor,
    scale: Tensor,
    zero: Tensor,
    top: float,
    rounding: Callable[[Tensor], Tensor] = round_through,
) -> Tensor:
    """(clip(round(x / s) + z, 0, top) - z) s in the type of x, by whatever `rounding` gives whole numbers."""
    exact = value if value.dtype == torch.float32 else value.float()
    symbols = torch.clamp(rounding(exact / scale) + zero, 0.0, top)
    return ((symbols - zero) * scale).to(value.dtype)
