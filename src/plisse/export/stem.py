"""First convolutions in a form for which integer kernels are fast.

ONNX Runtime's integer convolution gathers its input byte by byte where a kernel with stride meets the three
channels of an image: in ResNet-18 that one layer takes two thirds of the time. The same sums, arranged as a
convolution without stride over s s times the channels (space to depth), take a tenth of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.hooks import before_calls

FEW = 4  # input channels


class SpaceToDepthConvolution(nn.Module):
    """A convolution with stride s as one without, over blocks of s x s pixels; for images of one size.

    [N, C, H, W] to [N, s s C, H / s, W / s] to the same result: kernel k is widened with zeros to a multiple
    of s, in front too where padding is no multiple of s, so that whole blocks are padded. size: (H, W) of
    the input.
    """

    def __init__(self, convolution: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        layer: Any = convolution
        self.stride = int(layer.stride[0])
        rows, columns = (
            _along(k, self.stride, before, length)
            for k, before, length in zip(layer.kernel_size, layer.padding, size, strict=True)
        )
        self.pixels = (*columns.pixels, *rows.pixels)
        self.blocks = (*columns.blocks, *rows.blocks)
        weight = F.pad(layer.weight.detach(), (*columns.kernel, *rows.kernel))
        weight = space_to_depth(weight, self.stride)  # [O, s s C, K / s, K / s], channels as in forward
        outputs, inputs, *kernel = weight.shape
        self.convolution = nn.Conv2d(inputs, outputs, (kernel[0], kernel[1]), bias=layer.bias is not None)
        with torch.no_grad():
            self.convolution.weight.copy_(weight)
            if layer.bias is not None and self.convolution.bias is not None:
                self.convolution.bias.copy_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.pixels):
            x = F.pad(x, self.pixels)
        inner = self.convolution
        run: Any = _Exported.apply if torch.jit.is_tracing() and min(self.blocks) >= 0 else over_blocks
        return run(x, inner.weight, inner.bias, self.stride, self.blocks)


def space_to_depth(x: Tensor, s: int) -> Tensor:
    """[N, C, H, W] to [N, s s C, H / s, W / s]: channels of a block's first pixel, of the next, ..."""
    n, c, h, w = x.shape
    return (
        x.reshape(n, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4).reshape(n, s * s * c, h // s, w // s)
    )


def over_blocks(x: Tensor, weight: Tensor, bias: Tensor | None, s: int, pads: tuple[int, ...]) -> Tensor:
    """Space to depth, and a convolution of blocks. pads: (left, right, top, bottom), in blocks."""
    return F.conv2d(F.pad(space_to_depth(x, s), pads), weight, bias)


class _Exported(torch.autograd.Function):
    """`over_blocks` as two operators of ONNX, which spares a transposition (ten times slower) and a pad."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, s: int, pads: tuple[int, ...]
    ) -> Tensor:
        return over_blocks(x, weight, bias, s, pads)

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, bias: Any, s: int, pads: tuple[int, ...]) -> Any:
        left, right, top, bottom = pads
        operands = [weight] if bias is None or bias.node().mustBeNone() else [weight, bias]
        deep = g.op("SpaceToDepth", x, blocksize_i=s)
        return g.op("Conv", deep, *operands, pads_i=[top, left, bottom, right])


@dataclass(frozen=True)
class _Pads:
    """Zeros before and after, along one axis: around the kernel, the image, and the image of blocks."""

    kernel: tuple[int, int]
    pixels: tuple[int, int]
    blocks: tuple[int, int]


def _along(k: int, s: int, before: int, size: int) -> _Pads:
    """For kernel k, stride s and padding `before` on `size` pixels. Negative pads cut off."""
    shift = -before % s  # zeros in front of the kernel that make padding whole blocks
    wide = math.ceil((k + shift) / s)
    if wide > math.ceil(k / s):  # would cost a block more: pad pixels instead
        shift, wide = 0, math.ceil(k / s)
    front, pixels = divmod(before + shift, s) if shift or before % s == 0 else (0, before)
    covered = math.ceil((size + pixels) / s)
    outputs = (size + 2 * before - k) // s + 1
    back = outputs - 1 + wide - front - covered
    return _Pads((shift, wide * s - k - shift), (pixels, covered * s - size - pixels), (front, back))


def with_fast_stems(model: nn.Module, example: Inputs) -> nn.Module:
    """A copy of a plain network in which convolutions with stride over few channels have that form.

    They give the same up to the order of float32 sums, for images of the size of `example` only.
    """
    changed = modules.clone(model).eval()
    stems: dict[str, Any] = {name: layer for name, layer in changed.named_modules() if _is_stem(layer)}
    for name, shapes in _shapes(changed, stems, example).items():
        if len(shapes) == 1:
            made = SpaceToDepthConvolution(stems[name], (shapes[0][-2], shapes[0][-1]))
            if not name:
                return made
            modules.replace(changed, name, made)
    return changed


def _shapes(model: nn.Module, layers: dict[str, Any], example: Inputs) -> dict[str, list[torch.Size]]:
    """The shape of what enters each layer, once per call."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in layers}

    def note(name: str, _: Any, inputs: tuple[Any, ...]) -> None:
        shapes[name].append(inputs[0].shape)

    with before_calls(layers, note), torch.no_grad():
        call(model, example)
    return shapes


def _is_stem(layer: Any) -> bool:
    if type(layer) is not nn.Conv2d or layer.in_channels > FEW or layer._modules:
        return False
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    stride = layer.stride[0]
    regular = layer.stride == (stride, stride) and not isinstance(layer.padding, str)
    return plain and regular and 1 < stride <= min(layer.kernel_size)
