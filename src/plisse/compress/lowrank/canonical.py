"""CP: a convolution as a sum of outer products of four vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from plisse.compress.lowrank.thin import convolution, dense_kernel, filled, library, weight_of
from plisse.errors import InputError


@dataclass(frozen=True)
class CP:
    """W [C_out, C_in, K, K] = sum_r a_r b_r c_r d_r (outer products): 1 x 1 from C_in to r, K x 1 depthwise,
    1 x K depthwise, 1 x 1 from r to C_out (Lebedev et al. 2015); numbers r (C_in + C_out + 2 K). Fitted by
    `sweeps` of alternating least squares from the singular vectors.

    The thinnest of the methods and the hardest to fine-tune: there is no best approximation in general, and
    no rank at which the fit surely is exact; a weight that is a sum of r such products comes back at rank r.
    """

    sweeps: int = 25

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise InputError(f"{self.sweeps} sweeps", expected="at least 1")

    def reason(self, layer: nn.Module) -> str | None:
        return dense_kernel(layer)

    def full(self, layer: Any) -> tuple[int, ...]:
        """The rank at which nothing is saved any more."""
        return (layer.weight.numel() // self.params(layer, (1,)),)

    def params(self, layer: Any, ranks: tuple[int, ...]) -> int:
        return int(ranks[0] * (layer.in_channels + layer.out_channels + sum(layer.kernel_size)))

    def chain(self, layer: Any, ranks: tuple[int, ...]) -> nn.Sequential:
        (rank,) = ranks
        with library() as tensorly:
            found = tensorly.decomposition.parafac(
                weight_of(layer), rank=rank, n_iter_max=self.sweeps, init="svd", random_state=0, tol=1e-9
            )
        out, into, high, wide = found.factors  # [C_out, r], [C_in, r], [K, r], [K, r]
        return filled(
            layer,
            (convolution(layer, layer.in_channels, rank), into.T),
            (convolution(layer, rank, rank, (0,), rank), high.T),
            (convolution(layer, rank, rank, (1,), rank), wide.T),
            (convolution(layer, rank, layer.out_channels, bias=True), out * found.weights),
        )
