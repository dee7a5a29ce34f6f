"""Tucker-2 and block-term: a small core between two changes of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from plisse.compress.lowrank.thin import convolution, dense_kernel, filled, library, weight_of
from plisse.errors import InputError


@dataclass(frozen=True)
class Tucker2:
    """W [C_out, C_in, K, K] = core x_1 U x_2 V: 1 x 1 from C_in to r_in, K x K from r_in to r_out with the
    stride, 1 x 1 from r_out to C_out (Kim et al. 2016). Exact at r_out = C_out, r_in = C_in; numbers
    C_in r_in + r_in r_out K K + r_out C_out. Ranks are (r_out, r_in), by higher-order orthogonal iteration.

    Linear layers and 1 x 1 kernels are matrices, whose best low rank `Factorize` gives with two layers.
    """

    def reason(self, layer: nn.Module) -> str | None:
        return dense_kernel(layer)

    def full(self, layer: Any) -> tuple[int, ...]:
        return layer.out_channels, layer.in_channels

    def params(self, layer: Any, ranks: tuple[int, ...]) -> int:
        return _params(layer, ranks, 1)

    def chain(self, layer: Any, ranks: tuple[int, ...]) -> nn.Sequential:
        return _chain(layer, [_terms(weight_of(layer), ranks)])


@dataclass(frozen=True)
class BlockTerm:
    """A sum of `groups` Tucker-2 terms, whose cores are the groups of one grouped convolution: 1 x 1 from
    C_in to g r_in, K x K in g groups with the stride, 1 x 1 from g r_out to C_out (Chen et al. 2020, after
    De Lathauwer 2008). For the same ranks of all terms together the core is `groups` times smaller than that
    of Tucker-2. Ranks are (r_out, r_in) of each term; the terms are fitted in turn to what the others leave,
    `sweeps` times over. Exact at (C_out, C_in), where the first term does it all.
    """

    groups: int = 4
    sweeps: int = 5

    def __post_init__(self) -> None:
        if self.groups < 1 or self.sweeps < 1:
            raise InputError(f"{self.groups} groups, {self.sweeps} sweeps", expected="at least 1 of each")

    def reason(self, layer: nn.Module) -> str | None:
        return dense_kernel(layer)

    def full(self, layer: Any) -> tuple[int, ...]:
        return layer.out_channels, layer.in_channels

    def params(self, layer: Any, ranks: tuple[int, ...]) -> int:
        return _params(layer, ranks, self.groups)

    def chain(self, layer: Any, ranks: tuple[int, ...]) -> nn.Sequential:
        left = weight_of(layer)
        terms: list[Term] = []
        for sweep in range(self.sweeps if self.groups > 1 else 1):
            for place in range(self.groups):
                if sweep:
                    left = left + _product(terms[place])
                term = _terms(left, ranks)
                left = left - _product(term)
                terms[place : place + 1] = [term]
        return _chain(layer, terms)


Term = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Core [r_out, r_in, K, K], U [C_out, r_out], V [C_in, r_in]."""


def _terms(weight: np.ndarray, ranks: tuple[int, ...]) -> Term:
    with library() as tensorly:
        (core, (out, into)), _ = tensorly.decomposition.partial_tucker(
            weight, rank=list(ranks), modes=[0, 1], random_state=0
        )
    return core, out, into


def _product(term: Term) -> np.ndarray:
    return np.einsum("abhw,oa,ib->oihw", *term, optimize=True)


def _params(layer: Any, ranks: tuple[int, ...], groups: int) -> int:
    (out, into), (height, width) = ranks, layer.kernel_size
    one = layer.in_channels * into + into * out * height * width + out * layer.out_channels
    return int(groups * one)


def _chain(layer: Any, terms: list[Term]) -> nn.Sequential:
    out, into = terms[0][0].shape[:2]
    groups = len(terms)
    narrow = convolution(layer, layer.in_channels, groups * into)
    core = convolution(layer, groups * into, groups * out, (0, 1), groups)
    wide = convolution(layer, groups * out, layer.out_channels, bias=True)
    return filled(
        layer,
        (narrow, np.concatenate([term[2].T for term in terms])),
        (core, np.concatenate([term[0] for term in terms])),
        (wide, np.concatenate([term[1] for term in terms], axis=1)),
    )
