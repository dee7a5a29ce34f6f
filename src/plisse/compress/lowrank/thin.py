"""Thin convolutions that a convolution is replaced by, and the library that finds their weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from plisse.errors import InputError


@contextmanager
def library() -> Iterator[Any]:
    """TensorLy, computing with numpy for a while.

    Raises InputError where it is not installed.
    """
    try:
        import tensorly
        import tensorly.decomposition
    except ImportError as error:
        raise InputError(
            "a tensor decomposition without TensorLy",
            expected="the package tensorly",
            hint='pip install "plisse[tensor]"',
        ) from error
    with tensorly.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where a rank is above a side, which is fine here
        yield tensorly


def dense_kernel(layer: nn.Module) -> str | None:
    """Why a layer is no dense 2-D convolution with a kernel of more than one place; None where it is."""
    if isinstance(layer, nn.Linear):
        return "a linear layer is a matrix; use Factorize"
    if not isinstance(layer, nn.Conv2d):
        return f"{type(layer).__name__} is no 2-D convolution"
    if layer.groups > 1:
        return f"{layer.groups} groups: each is a small tensor already; only dense layers are decomposed"
    if layer.kernel_size == (1, 1):
        return "a 1 x 1 kernel is a matrix; use Factorize"
    return None


def weight_of(layer: Any) -> np.ndarray:
    """The weight as float64."""
    weight: np.ndarray = layer.weight.detach().double().cpu().numpy()
    return weight


def convolution(
    layer: Any, into: int, out: int, axes: tuple[int, ...] = (), groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution from `into` to `out` channels with kernel, stride, padding and dilation of `layer` along
    `axes` (0 high, 1 wide) and a kernel of 1 along others. bias: where `layer` has one."""

    def along(values: tuple[int, int], other: int) -> tuple[int, int]:
        high, wide = (values[axis] if axis in axes else other for axis in (0, 1))
        return high, wide

    named = isinstance(layer.padding, str)
    return nn.Conv2d(
        into,
        out,
        along(layer.kernel_size, 1),
        along(layer.stride, 1),
        layer.padding if named else along(layer.padding, 0),
        along(layer.dilation, 1),
        groups,
        bias and layer.bias is not None,
        layer.padding_mode if axes else "zeros",
    )


def filled(layer: Any, *parts: tuple[nn.Conv2d, np.ndarray]) -> nn.Sequential:
    """The convolutions with their weights, in a row; the bias of `layer` goes to the last."""
    with torch.no_grad():
        for thin, weight in parts:
            thin.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)).reshape(thin.weight.shape))
        last = parts[-1][0]
        if last.bias is not None:
            last.bias.copy_(layer.bias)
    return nn.Sequential(*(thin for thin, _ in parts))
