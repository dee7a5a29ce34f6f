"""Rounding of activations in one pass over memory, forward and backward, for float32 and bfloat16 on CPU.

Written out in torch operators the same takes about fifteen passes, which is most of the time of training a
small network with rounded activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

DTYPES = (torch.float32, torch.bfloat16)
BLOCK = 1 << 14  # values whose gradients are summed in float32
REORDER = {"reassoc", "contract", "nsz"}  # what lets a sum run in vector registers


def can_pass(value: Tensor) -> bool:
    """Whether `value` lies on the CPU, in a known type and without gaps."""
    return value.device.type == "cpu" and value.dtype in DTYPES and bool(value.numel())


class RoundPass(torch.autograd.Function):
    """x^ = s (clip(round(x / s) + z, 0, top) - z), with the gradients of LSQ (Esser et al. 2020).

    By x: 1 within the range, 0 where clipped. By s: the sum over x of round(x / s) - x / s within the range
    and of the clipped symbol beyond it. All arithmetic is in float32 whatever the type of x.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor, zero: float, top: float) -> Tensor:
        value = _dense(value)
        out = torch.empty_like(value)
        step = np.float32(scale.item())
        if value.dtype == torch.bfloat16:
            _forward_bf16(_bits(value), _bits(out), step, np.float32(zero), np.float32(top))
        else:
            _forward_f32(_flat(value), _flat(out), step, np.float32(zero), np.float32(top))
        ctx.save_for_backward(value)
        ctx.grid = step, np.float32(zero), np.float32(top)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (value,) = ctx.saved_tensors
        gradient = _like(gradient, value)
        out = torch.empty_like(value)
        if value.dtype == torch.bfloat16:
            total = _backward_bf16(_bits(value), _bits(gradient), _bits(out), *ctx.grid)
        else:
            total = _backward_f32(_flat(value), _flat(gradient), _flat(out), *ctx.grid)
        return out, torch.tensor(total, dtype=torch.float32), None, None


def _dense(value: Tensor) -> Tensor:
    """The same values in memory without gaps, in the order they lie in where there are none."""
    if value.is_contiguous() or (value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)):
        return value.detach()
    return value.detach().contiguous()


def _like(gradient: Tensor, value: Tensor) -> Tensor:
    """`gradient` in the type and order of `value`."""
    if gradient.dtype == value.dtype and gradient.stride() == value.stride():
        return gradient
    return torch.empty_like(value).copy_(gradient)


def _flat(value: Tensor) -> Any:
    return value.as_strided((value.numel(),), (1,)).numpy()


def _bits(value: Tensor) -> Any:
    return value.as_strided((value.numel(),), (1,)).view(torch.int16).numpy().view(np.uint16)


@njit(cache=True, nogil=True, inline="always")
def _to_float(bits: Any) -> Any:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(cache=True, nogil=True, inline="always")
def _to_bits(value: Any) -> Any:
    """Round a finite float32 to bfloat16, ties to even."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@njit(cache=True, nogil=True)
def _forward_f32(value: Any, out: Any, scale: Any, zero: Any, top: Any) -> None:
    for i in range(value.size):
        symbol = np.minimum(np.maximum(np.rint(value[i] / scale) + zero, np.float32(0)), top)
        out[i] = (symbol - zero) * scale


@njit(cache=True, nogil=True)
def _forward_bf16(value: Any, out: Any, scale: Any, zero: Any, top: Any) -> None:
    for i in range(value.size):
        rounded = np.rint(_to_float(value[i]) / scale) + zero
        symbol = np.minimum(np.maximum(rounded, np.float32(0)), top)
        out[i] = _to_bits((symbol - zero) * scale)


@njit(cache=True, nogil=True, fastmath=REORDER)
def _part_f32(value: Any, gradient: Any, out: Any, scale: Any, zero: Any, top: Any) -> Any:
    total = np.float32(0)
    for i in range(value.size):
        x = value[i] / scale
        rounded = np.rint(x) + zero
        symbol = np.minimum(np.maximum(rounded, np.float32(0)), top)
        passed = gradient[i] if rounded == symbol else np.float32(0)
        out[i] = passed
        total += gradient[i] * (symbol - zero) - passed * x
    return total


@njit(cache=True, nogil=True, fastmath=REORDER)
def _part_bf16(value: Any, gradient: Any, out: Any, scale: Any, zero: Any, top: Any) -> Any:
    total = np.float32(0)
    for i in range(value.size):
        x = _to_float(value[i]) / scale
        rounded = np.rint(x) + zero
        symbol = np.minimum(np.maximum(rounded, np.float32(0)), top)
        mask = np.uint32(0xFFFFFFFF) if rounded == symbol else np.uint32(0)
        passed = np.uint32(gradient[i]) & mask
        out[i] = np.uint16(passed)
        total += _to_float(gradient[i]) * (symbol - zero) - _to_float(passed) * x
    return total


@njit(cache=True, nogil=True)
def _backward_f32(value: Any, gradient: Any, out: Any, scale: Any, zero: Any, top: Any) -> float:
    total = np.float64(0)
    for i in range(0, value.size, BLOCK):
        j = min(i + BLOCK, value.size)
        total += _part_f32(value[i:j], gradient[i:j], out[i:j], scale, zero, top)
    return total


@njit(cache=True, nogil=True)
def _backward_bf16(value: Any, gradient: Any, out: Any, scale: Any, zero: Any, top: Any) -> float:
    total = np.float64(0)
    for i in range(0, value.size, BLOCK):
        j = min(i + BLOCK, value.size)
        total += _part_bf16(value[i:j], gradient[i:j], out[i:j], scale, zero, top)
    return total
