"""Schemes: which matrix a layer's weight is read as, and which two layers stand for two thin factors of it.

A weight matrix M [a, b] of rank r is B A with A [r, b] and B [a, r]: two layers with r (a + b) weights in
place of a b. Nothing but the shape of the matrix differs between schemes. To add one: a frozen dataclass
with these four methods and a line in tests/contracts/test_schemes.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv2d)


class Scheme(Protocol):
    """Contract: tests/contracts/test_schemes.py."""

    def reason(self, layer: nn.Module) -> str | None:
        """Why this scheme cannot take the layer; None where it can."""
        ...

    def matrix(self, layer: Any) -> Tensor:
        """The weight as a matrix [a, b], differentiable."""
        ...

    def pair(self, layer: Any, first: Tensor, second: Tensor) -> nn.Sequential:
        """Two layers that compute what `layer` would with the weight second [a, r] @ first [r, b]. The bias
        goes to the second."""
        ...

    def merged(self, pair: nn.Sequential, layer: Any) -> Tensor:
        """The weight, in the shape of that of `layer`, that a pair stands for."""
        ...


@dataclass(frozen=True)
class Channel:
    """M = [C_out, C_in K K]: a convolution to r channels, then a 1 x 1 convolution. A linear layer becomes
    two linear layers (scheme 1 of Idelbayev and Carreira-Perpinan 2020).

    >>> pair = Channel().pair(nn.Linear(6, 4), torch.zeros(2, 6), torch.zeros(4, 2))
    >>> [tuple(layer.weight.shape) for layer in pair]
    [(2, 6), (4, 2)]
    """

    def reason(self, layer: nn.Module) -> str | None:
        return _unfit(layer)

    def matrix(self, layer: Any) -> Tensor:
        weight: Tensor = layer.weight
        return weight.flatten(1)

    def pair(self, layer: Any, first: Tensor, second: Tensor) -> nn.Sequential:
        rank = first.shape[0]
        if isinstance(layer, nn.Linear):
            thin: Any = nn.Linear(layer.in_features, rank, bias=False)
            wide: Any = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
        else:
            thin = nn.Conv2d(
                layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
                bias=False, padding_mode=layer.padding_mode,
            )  # fmt: skip
            wide = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
        return _filled(layer, thin, first, wide, second)

    def merged(self, pair: nn.Sequential, layer: Any) -> Tensor:
        first, second = _weights(pair)
        return (second.flatten(1) @ first.flatten(1)).reshape(layer.weight.shape)


@dataclass(frozen=True)
class Spatial:
    """M = [C_out K_h, C_in K_w]: a 1 x K_w convolution to r channels, then a K_h x 1 one (scheme 2; Jaderberg
    et al. 2014). Linear layers and 1 x 1 kernels are as in Channel."""

    def reason(self, layer: nn.Module) -> str | None:
        return _unfit(layer)

    def matrix(self, layer: Any) -> Tensor:
        weight: Tensor = layer.weight
        if isinstance(layer, nn.Linear):
            return weight
        out, into, height, width = weight.shape
        return weight.permute(0, 2, 1, 3).reshape(out * height, into * width)  # rows (o, kh), columns (i, kw)

    def pair(self, layer: Any, first: Tensor, second: Tensor) -> nn.Sequential:
        if _is_matrix(layer):
            return Channel().pair(layer, first, second)
        (height, width), rank = layer.kernel_size, first.shape[0]
        padding = layer.padding if isinstance(layer.padding, str) else None
        across, down = (0, 0) if padding else layer.padding[::-1]
        mode = layer.padding_mode
        thin = nn.Conv2d(
            layer.in_channels, rank, (1, width), (1, layer.stride[1]), padding or (0, across),
            (1, layer.dilation[1]), bias=False, padding_mode=mode,
        )  # fmt: skip
        wide = nn.Conv2d(
            rank, layer.out_channels, (height, 1), (layer.stride[0], 1), padding or (down, 0),
            (layer.dilation[0], 1), bias=layer.bias is not None, padding_mode=mode,
        )  # fmt: skip
        columns = second.reshape(layer.out_channels, height, rank).permute(0, 2, 1)  # [o, r, kh]
        return _filled(layer, thin, first, wide, columns)

    def merged(self, pair: nn.Sequential, layer: Any) -> Tensor:
        if _is_matrix(layer):
            return Channel().merged(pair, layer)
        first, second = _weights(pair)  # [r, i, 1, kw], [o, r, kh, 1]
        return torch.einsum("riw,orh->oihw", first[:, :, 0], second[:, :, :, 0])


def _is_matrix(layer: Any) -> bool:
    return isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1)


def _unfit(layer: nn.Module) -> str | None:
    if not isinstance(layer, LAYERS):
        return f"{type(layer).__name__} is neither linear nor a 2-D convolution"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return (
            f"{layer.groups} groups: each group is a small matrix already; only dense layers are factorized"
        )
    return None


def _filled(layer: Any, thin: Any, first: Tensor, wide: Any, second: Tensor) -> nn.Sequential:
    with torch.no_grad():
        thin.weight.copy_(first.reshape(thin.weight.shape))
        wide.weight.copy_(second.reshape(wide.weight.shape))
        if layer.bias is not None:
            wide.bias.copy_(layer.bias)
    pair = nn.Sequential(thin, wide).to(layer.weight.device, layer.weight.dtype)
    return pair.train(layer.training)


def _weights(pair: nn.Sequential) -> tuple[Tensor, Tensor]:
    thin: Any
    wide: Any
    thin, wide = pair
    return thin.weight.detach(), wide.weight.detach()
