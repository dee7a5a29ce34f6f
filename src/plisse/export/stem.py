"""First convolutions in a form for which integer kernels are fast.

ONNX Runtime's integer convolution gathers its input byte by byte where a kernel with stride meets the three
channels of an image: in ResNet-18 that one layer takes two thirds of the time. The same sums, arranged as a
convolution without stride over s s times the channels (space to depth), take a tenth of that.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core import modules
from plisse.core.batch import Inputs, call

FEW = 4  # input channels


class SpaceToDepthConvolution(nn.Module):
    """A convolution with stride s as one without, over blocks of s x s pixels; for images of one size.

    [N, C, H, W] to [N, s s C, H / s, W / s] to the same result: kernel k is widened with zeros to a multiple
    of s. size: (H, W) of the input.
    """

    def __init__(self, convolution: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        layer: Any = convolution
        self.stride = int(layer.stride[0])
        wide = [math.ceil(k / self.stride) * self.stride for k in layer.kernel_size]
        self.pads = _pads(layer, size, wide)
        more = [new - old for new, old in zip(wide, layer.kernel_size, strict=True)]
        weight = F.pad(layer.weight.detach(), (0, more[1], 0, more[0]))
        weight = F.pixel_unshuffle(weight, self.stride)  # [O, C s s, K / s, K / s], channels as in forward
        outputs, inputs, *kernel = weight.shape
        self.convolution = nn.Conv2d(inputs, outputs, (kernel[0], kernel[1]), bias=layer.bias is not None)
        with torch.no_grad():
            self.convolution.weight.copy_(weight)
            if layer.bias is not None and self.convolution.bias is not None:
                self.convolution.bias.copy_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(F.pixel_unshuffle(F.pad(x, self.pads), self.stride))


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

    def watch(name: str) -> Any:
        return lambda _, inputs: shapes[name].append(inputs[0].shape)

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    with torch.no_grad():
        call(model, example)
    for handle in handles:
        handle.remove()
    return shapes


def _is_stem(layer: Any) -> bool:
    if type(layer) is not nn.Conv2d or layer.in_channels > FEW or hasattr(layer, "input_scale"):
        return False
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    stride = layer.stride[0]
    regular = layer.stride == (stride, stride) and not isinstance(layer.padding, str)
    return plain and regular and 1 < stride <= min(layer.kernel_size)


def _pads(layer: Any, size: tuple[int, int], wide: list[int]) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that make the input (outputs - 1) s + K pixels; negative ones cut off."""
    pads = []
    for axis in (1, 0):
        before, stride = layer.padding[axis], layer.stride[axis]
        outputs = (size[axis] + 2 * before - layer.kernel_size[axis]) // stride + 1
        pads += [before, (outputs - 1) * stride + wide[axis] - size[axis] - before]
    return (pads[0], pads[1], pads[2], pads[3])
