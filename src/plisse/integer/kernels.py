"""The operators of an integer network on the integer kernels that torch brings (oneDNN).

uint8 activations, int8 weights with a scale per channel, sums in int32; the kernel requantizes with a
float32 factor where the reference has a dyadic one, so results differ by one step at most. Shortcuts and
ReLU are fused. Weights are packed once in the kernel's own order and kept in no other form.

Processors without VNNI instructions (before Cascade Lake and Zen 4) add pairs of products in 16 bits there
and may saturate; with them every sum is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plisse.integer import reference
from plisse.integer.operators import Clip, Entry, Maximum, Operator, Weighted
from plisse.integer.rows import rounded_values

onednn: Any = torch.ops.onednn


class Round(nn.Module):
    """To symbols in one pass, images to channels-last memory order."""

    def __init__(self, spec: Entry) -> None:
        super().__init__()
        self.grid = spec.target

    def forward(self, x: Tensor) -> Tensor:
        return rounded_values(x.float(), self.grid.scale, self.grid.zero, self.grid.top)


class Packed:
    """Tensors in a kernel's own layout: never changed, so copies of a network share them."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.weight, self.scale, self.bias = weight, scale, bias
        self.zeros = torch.zeros(scale.numel(), dtype=torch.int32)

    def __deepcopy__(self, memo: Any) -> Packed:
        return self


class Convolve(nn.Module):
    """A convolution with fused shortcut and ReLU."""

    def __init__(self, spec: Weighted) -> None:
        super().__init__()
        assert spec.window is not None
        w = spec.window
        self.geometry = (list(w.stride), list(w.padding), list(w.dilation), w.groups)
        self.source, self.added, self.line = spec.source, spec.added, w.line
        self.out = _Output(spec)
        scale = spec.weight.scale.float().contiguous()
        packed = onednn.qconv_prepack(
            spec.weight.symbols.contiguous(), scale, spec.source.scale, spec.source.zero, *self.geometry, None
        )
        self.packed = Packed(packed, scale, None if spec.bias is None else spec.bias.float().contiguous())

    def forward(self, q: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if not self.line:
            return self._convolved(q, shortcut)
        row = None if shortcut is None else shortcut.unsqueeze(-2)
        return self._convolved(q.unsqueeze(-2), row).squeeze(-2)

    def _convolved(self, q: Tensor, shortcut: Tensor | None) -> Tensor:
        p, out = self.packed, self.out
        given = (q, self.source.scale, self.source.zero, p.weight, p.scale, p.zeros)
        if shortcut is None or self.added is None:
            done = onednn.qconv2d_pointwise(
                *given, p.bias, *self.geometry, out.scale, out.zero, out.dtype, out.fused, [], ""
            )
        else:
            # the kernel writes over its last operand, so it gets one of its own
            kept = shortcut.clone(memory_format=torch.channels_last)
            done = onednn.qconv2d_pointwise.binary(
                *given, kept, p.bias, *self.geometry, out.scale, out.zero, out.dtype,
                self.added.scale, self.added.zero, "sum", 1.0, out.fused, [], "",
            )  # fmt: skip
        return out.confined(done)


class Multiply(nn.Module):
    """A linear layer."""

    def __init__(self, spec: Weighted) -> None:
        super().__init__()
        self.source, self.out = spec.source, _Output(spec)
        bias = None if spec.bias is None else spec.bias.float().contiguous()
        weight = onednn.qlinear_prepack(spec.weight.symbols.contiguous(), None)
        self.packed = Packed(weight, spec.weight.scale.float().contiguous(), bias)

    def forward(self, q: Tensor) -> Tensor:
        p, out = self.packed, self.out
        done = onednn.qlinear_pointwise(
            q, self.source.scale, self.source.zero, p.weight, p.scale, p.zeros, p.bias,
            out.scale, out.zero, out.dtype, out.fused, [], "",
        )  # fmt: skip
        return out.confined(done)


class _Output:
    """The kernel's arguments for what comes out, and the clipping that it does not do itself."""

    def __init__(self, spec: Weighted) -> None:
        grid = spec.target
        self.dtype = torch.float32 if grid is None else torch.uint8
        self.scale, self.zero = (1.0, 0) if grid is None else (grid.scale, grid.zero)
        self.fused = "relu" if spec.clip.low == 0.0 else "none"
        self.bounds: tuple[float, float] | None
        if grid is None:
            self.bounds = None if spec.clip in (Clip(), Clip(0.0)) else (spec.clip.low, spec.clip.high)
        else:
            low, high = grid.clipped(spec.clip.low, spec.clip.high)
            floor = grid.zero if self.fused == "relu" else 0
            self.bounds = None if low <= floor and high == 255 else (low, high)

    def confined(self, value: Tensor) -> Tensor:
        return value if self.bounds is None else value.clamp_(*self.bounds)


class Pool(nn.Module):
    """Max-pooling of bytes."""

    def __init__(self, spec: Maximum) -> None:
        super().__init__()
        w = spec.window
        self.geometry = (list(w.kernel), list(w.stride), list(w.padding), list(w.dilation), w.ceil)

    def forward(self, q: Tensor) -> Tensor:
        return torch.ops.quantized.max_pool2d(q, *self.geometry)


def kernels(spec: Operator) -> nn.Module:
    """The module of an operator on fast kernels; operators without one run as in the reference."""
    if isinstance(spec, Weighted):
        return Multiply(spec) if spec.window is None else Convolve(spec)
    if isinstance(spec, Maximum):
        return Pool(spec)
    if isinstance(spec, Entry):
        return Round(spec)
    return reference.reference(spec)
