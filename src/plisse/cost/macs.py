"""Multiply-adds of one forward pass, counted where they happen: at the operators that reach the kernels.

1 MAC = one multiply and one add. Counted: convolutions, matrix products (linear layers, attention, einsum),
fused scaled dot-product attention, recurrent layers. Elementwise work, norms, softmax and embedding look-ups
count 0. Padding counts as if it were data, as is usual. The batch of the example is counted in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from plisse.core.batch import Inputs, call
from plisse.core.hooks import after_calls, before_calls
from plisse.core.modules import evaluating
from plisse.core.reparam import baked

aten = torch.ops.aten


class MacRow(NamedTuple):
    """MACs of one operator inside one module ("" is the network itself)."""

    name: str
    operator: str
    macs: int


def _product(a: Tensor, b: Tensor, *_: Any) -> int:
    """[..., n, k] times [..., k, m]: every entry of a meets m columns."""
    return a.numel() * (b.shape[-1] if b.dim() > 1 else 1)


def _product_after_bias(bias: Tensor, a: Tensor, b: Tensor, *_: Any) -> int:
    return _product(a, b)


def _convolution(x: Tensor, weight: Tensor, *rest: Any, out: Tensor) -> int:
    """Every output position (input position where transposed) of N samples meets the whole filter once."""
    transposed = bool(rest[4])
    return x.shape[0] * prod((x if transposed else out).shape[2:]) * weight.numel()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """softmax(Q K^T) V with Q [N, H, S, D], K [N, H, T, D], V [N, H, T, E]; a causal mask saves nothing."""
    return query.numel() * key.shape[-2] + prod(query.shape[:-1]) * value.shape[-2] * value.shape[-1]


def _trilinear(x: Tensor, weight: Tensor, *_: Any) -> int:
    """nn.Bilinear: every one of N samples meets the whole weight [K, D1, D2]."""
    return x.shape[0] * weight.numel()


def _recurrent(x: Tensor, from_input: Tensor, from_state: Tensor, *_: Any) -> int:
    """One direction of one layer: x [T, N, D]; both weight matrices meet every sample at every time."""
    return x.shape[0] * x.shape[1] * (from_input.numel() + from_state.numel())


FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mm: _product,
    aten.bmm: _product,
    aten.mv: _product,
    aten.dot: _product,
    aten.addmm: _product_after_bias,
    aten.addmv: _product_after_bias,
    aten.baddbmm: _product_after_bias,
    aten._trilinear: _trilinear,
    aten.mkldnn_rnn_layer: _recurrent,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
}
CONVOLUTIONS = (aten.convolution, aten._convolution)


class _Counter(TorchDispatchMode):
    """Adds up MACs under the name of the module that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = [""]
        self.counts: dict[tuple[str, str], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        out = func(*args, **kwargs)
        if packet in CONVOLUTIONS:
            self._add(packet, _convolution(*args, out=out))
        elif packet in FORMULAS:
            self._add(packet, FORMULAS[packet](*args))
        return out

    def _add(self, packet: Any, macs: int) -> None:
        key = (self.running[-1], packet.__name__)
        self.counts[key] = self.counts.get(key, 0) + macs


@contextmanager
def names_tracked(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the name of the innermost module that runs at the end of `running`."""

    def enter(name: str, *_: Any) -> None:
        running.append(name)

    def leave(*_: Any) -> None:
        running.pop()

    layers = dict(model.named_modules())
    with before_calls(layers, enter), after_calls(layers, leave):
        yield


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Fused encoder kernels off, so that their matrix products are seen one by one."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def mac_table(model: nn.Module, example: Inputs) -> list[MacRow]:
    """MACs by module and operator, in order of first use, of one evaluation-mode pass over `example`.

    >>> mac_table(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(5, 3))
    [MacRow(name='0', operator='addmm', macs=30)]
    """
    model = baked(model)
    counter = _Counter()
    with evaluating(model), _plain_kernels(), names_tracked(model, counter.running), counter:
        call(model, example)
    return [MacRow(name, operator, macs) for (name, operator), macs in counter.counts.items()]


def layer_macs(model: nn.Module, example: Inputs) -> dict[str, int]:
    """MACs of every module that does any itself, by its name, over the whole example batch.

    >>> layer_macs(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(5, 3))
    {'0': 30}
    """
    totals: dict[str, int] = {}
    for row in mac_table(model, example):
        totals[row.name] = totals.get(row.name, 0) + row.macs
    return totals


def count_macs(model: nn.Module, example: Inputs) -> int:
    """MACs of one forward pass over the whole example batch.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
    21600
    """
    return sum(row.macs for row in mac_table(model, example))
