"""Tensor train: a convolution as four dense thin ones in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from plisse.compress.lowrank.thin import convolution, dense_kernel, filled, library, weight_of


@dataclass(frozen=True)
class TensorTrain:
    """W as a train over (C_in, K_h, K_w, C_out): 1 x 1 from C_in to r_1, K_h x 1 to r_2, 1 x K_w to r_3,
    1 x 1 to C_out (Oseledets 2011, on the kernel's own axes); numbers
    C_in r_1 + r_1 K_h r_2 + r_2 K_w r_3 + r_3 C_out. Ranks are (r_1, r_2, r_3), by one pass of singular value
    decompositions. Exact at (C_in, min(C_in K_h, K_w C_out), C_out).

    Linear layers are left out: over their two sides a train is the singular value decomposition
    (`Factorize`), and over the split sides of Novikov et al. 2015 it needs its values reshaped between the
    factors, which no sequence of ordinary layers does.
    """

    def reason(self, layer: nn.Module) -> str | None:
        return dense_kernel(layer)

    def full(self, layer: Any) -> tuple[int, ...]:
        (high, wide), into, out = layer.kernel_size, layer.in_channels, layer.out_channels
        return min(into, high * wide * out), min(into * high, wide * out), min(out, into * high * wide)

    def params(self, layer: Any, ranks: tuple[int, ...]) -> int:
        (first, second, third), (high, wide) = ranks, layer.kernel_size
        ends = layer.in_channels * first + third * layer.out_channels
        return int(ends + first * high * second + second * wide * third)

    def chain(self, layer: Any, ranks: tuple[int, ...]) -> nn.Sequential:
        train = weight_of(layer).transpose(1, 2, 3, 0)  # [C_in, K_h, K_w, C_out]
        with library() as tensorly:
            found = tensorly.decomposition.tensor_train(train, rank=[1, *ranks, 1])
        first, second, third, fourth = (
            found.factors
        )  # [1, C_in, r1], [r1, K_h, r2], [r2, K_w, r3], [r3, C_out, 1]
        r1, r2, r3 = first.shape[2], second.shape[2], third.shape[2]
        return filled(
            layer,
            (convolution(layer, layer.in_channels, r1), first[0].T),
            (convolution(layer, r1, r2, (0,)), second.transpose(2, 0, 1)),
            (convolution(layer, r2, r3, (1,)), third.transpose(2, 0, 1)),
            (convolution(layer, r3, layer.out_channels, bias=True), fourth[:, :, 0].T),
        )
