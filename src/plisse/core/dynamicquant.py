"""Fake quantization of activations whose range is found when the network runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plisse.core.fakequant import round_through
from plisse.core.hooks import hang_before
from plisse.errors import InputError

UNITS = ("tensor", "sample", "row")
SMALLEST = 1.2e-38


class DynamicQuantizer(nn.Module):
    """Rounds the first input of a layer to `bits` bits with the range of the very values that come:
    x' = (round(x / s) + z - z) s with s = (max - min) / (2^bits - 1), zero within the range.

    bits: 2 to 16. unit: what shares a scale: the whole input ("tensor"; a sample's symbols then depend on the
    others of its batch), each entry of the first axis ("sample", for convolutions), or each vector along the
    last axis ("row": a token, Yao et al. 2022). symmetric: zero in the middle of the symbols,
    s = max|x| / (2^(bits-1) - 1).

    Needs no calibration and has no tensors of its own. Costs a pass over the input for the extremes. Attached
    as the child `input_quantizer` like an `InputQuantizer`; the gradient passes the rounding (nothing is
    clipped), and treats the scale as constant.

    >>> DynamicQuantizer(2, "row")(torch.tensor([[0.0, 1.0, 3.1], [0.0, 0.1, 0.31]]))
    tensor([[0.0000, 1.0333, 3.1000],
            [0.0000, 0.1033, 0.3100]])
    """

    def __init__(self, bits: int, unit: str = "tensor", symmetric: bool = False) -> None:
        super().__init__()
        if unit not in UNITS:
            raise InputError(f"unit {unit!r}", expected=f"one of {', '.join(UNITS)}")
        if not 2 <= bits <= 16:
            raise InputError(f"{bits} bits", expected="2 to 16 bits per value")
        self.bits, self.unit, self.symmetric = bits, unit, symmetric

    def forward(self, value: Tensor) -> Tensor:
        if not value.numel():
            return value
        exact = value.float()
        with torch.no_grad():
            scale, zero = self._grid(exact)
        symbols = torch.clamp(round_through(exact / scale) + zero, 0.0, float(2**self.bits - 1))
        return ((symbols - zero) * scale).to(value.dtype)

    def _grid(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point, one per unit, that broadcast against `value`."""
        axes = {"tensor": range(value.dim()), "sample": range(1, value.dim()), "row": [-1]}[self.unit]
        low, high = value, value
        if list(axes):
            low, high = value.amin(tuple(axes), keepdim=True), value.amax(tuple(axes), keepdim=True)
        if self.symmetric:
            reach = torch.maximum(low.abs(), high.abs())
            scale = (reach / (2 ** (self.bits - 1) - 1)).clamp_min(SMALLEST)
            return scale, torch.full_like(scale, 2.0 ** (self.bits - 1))
        low, high = low.clamp_max(0), high.clamp_min(0)
        scale = ((high - low) / (2**self.bits - 1)).clamp_min(SMALLEST)
        return scale, torch.round(-low / scale)

    def attach(self, layer: nn.Module) -> None:
        """Hang this quantizer on `layer`, in place of one that hangs there already."""
        hang_before(layer, "input_quantizer", self)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments; there is nothing else to know."""
        return {"bits": self.bits, "unit": self.unit, "symmetric": self.symmetric}
