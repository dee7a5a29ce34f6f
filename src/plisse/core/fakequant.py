"""Fake quantization of activations: a module that hangs on a layer and rounds what enters it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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
    layer keep both.
    """

    zero_point: Tensor

    def __init__(self, bits: int, scale: float = 1.0, zero_point: float = 0.0) -> None:
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.register_buffer("zero_point", torch.tensor(float(zero_point)))

    def forward(self, value: Tensor) -> Tensor:
        top = float(2**self.bits - 1)
        zero = self.zero_point
        symbols = torch.clamp(round_through(value / self.scale) + zero, 0.0, top)
        return ((symbols - zero) * self.scale).to(value.dtype)

    def attach(self, layer: nn.Module) -> None:
        """Hang this quantizer on `layer`, in place of one that hangs there already."""
        first = "input_quantizer" not in layer._modules
        layer.input_quantizer = self
        if first:
            layer.register_forward_pre_hook(_quantize_first_input)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that are structure; the scale and zero point travel as tensors."""
        return {"bits": self.bits}


def _quantize_first_input(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.input_quantizer(inputs[0]), *inputs[1:])
