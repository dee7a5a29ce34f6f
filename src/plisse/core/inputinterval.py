"""Inputs on few levels whose thresholds and values are apart: signs, and intervals that are learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from plisse.core.hooks import hang_before
from plisse.errors import InputError

KINDS = ("signed", "unsigned", "free")


class InputInterval(nn.Module):
    """Rounds the first input of a layer to 2^bits levels: with v = (x - shift) / width + top / 2 and
    top = 2^bits - 1, k = clip(floor(v + 1/2), 0, top) and x' = offset + scale k.

    With one bit this is sign(x - shift), sign(0) = 1, at the values offset and offset + scale. shift: the
    middle of the interval, one for all or one per channel. kind: "signed": offset = -scale top / 2;
    "unsigned": offset = 0; "free": a tensor of its own. bits: 1 to 8. channels: 0 for one shift. axis: of
    the channels. Attached as the child `input_quantizer`, as an `InputQuantizer` is.

    The gradient by x is scale / width within the interval and 0 beyond; training_rounding, which gives whole
    numbers from v, gives it another one in training and is no part of a file.

    >>> InputInterval(1, "signed")(torch.tensor([-0.2, 0.0, 3.0]))
    tensor([-1.,  1.,  1.], grad_fn=<AddBackward0>)
    """

    def __init__(self, bits: int, kind: str = "signed", channels: int = 0, axis: int = 1) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise InputError(f"{bits} bits", expected="1 to 8 bits per value")
        if kind not in KINDS:
            raise InputError(f"kind {kind!r}", expected=f"one of {', '.join(KINDS)}")
        self.bits, self.kind, self.channels, self.axis = bits, kind, channels, axis
        self.shift = nn.Parameter(torch.zeros(max(channels, 1)))
        self.width, self.scale = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(2.0))
        self.offset = nn.Parameter(torch.tensor(0.0)) if kind == "free" else None
        self.training_rounding: Callable[[Tensor], Tensor] | None = None

    @property
    def top(self) -> float:
        """The highest symbol."""
        return float(2**self.bits - 1)

    def forward(self, value: Tensor) -> Tensor:
        exact = value.float()
        place = (exact - self._along(exact)) / self.width + self.top / 2
        inside = place.clamp(0.0, self.top)
        if self.training and torch.is_grad_enabled() and self.training_rounding is not None:
            symbols = self.training_rounding(inside).clamp(0.0, self.top)
        else:
            symbols = inside
        whole = torch.floor(place.detach() + 0.5).clamp(0.0, self.top)
        symbols = whole + (symbols - symbols.detach())
        return (self._offset() + self.scale * symbols).to(value.dtype)

    def attach(self, layer: nn.Module) -> None:
        """Hang this quantizer on `layer`, in place of one that hangs there already."""
        hang_before(layer, "input_quantizer", self)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that are structure; thresholds and values travel as tensors."""
        return {"bits": self.bits, "kind": self.kind, "channels": self.channels, "axis": self.axis}

    def _along(self, value: Tensor) -> Tensor:
        if not self.channels:
            return self.shift
        shape = [1] * value.dim()
        shape[self.axis] = -1
        return self.shift.reshape(shape)

    def _offset(self) -> Tensor:
        if self.offset is not None:
            return self.offset
        return -self.scale * (self.top / 2) if self.kind == "signed" else torch.zeros_like(self.scale)
