"""Levels fitted to the weights by k-means: the Lloyd-Max quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plisse.compress.quantize.codebooks.importance import spread_importance
from plisse.compress.quantize.codebooks.lloyd import kmeans
from plisse.compress.quantize.codebooks.onlevels import OnLevels, finite_values, halves
from plisse.compress.quantize.grids import Granularity, bfloat16_through, check_bits, spread
from plisse.core.reparam import Reparam
from plisse.errors import InputError


@dataclass(frozen=True)
class KMeans:
    """2^bits levels per tensor that minimise sum w (x - level)^2, or, with units, sum w (x - scale level)^2.
    In training each level is a parameter and gets the sum of its weights' gradients.

    exact_zero: yes if the weight has zeros when the grid is fitted (one level is zero then, for good).

    bits: 2 to 8. iterations: Lloyd steps, 0 or more. seed: of the first centroids. granularity: units that
    share a scale, the root mean square of their values; None for none, as in the papers. Units differ less
    after it, which is worth more than their scales cost; quantizing the result anew finds other scales.
    Source: Lloyd 1982; Max 1960; Han, Mao and Dally 2016, Deep compression, section 3.

    >>> from plisse.core.reparam import Plain
    >>> KMeans(2).quantized(Plain(torch.tensor([0.0, 0.5, 0.75, -4.0, 7.0])))().detach()
    tensor([ 0.0000,  0.6250,  0.6250, -4.0000,  7.0000])
    """

    bits: int = 4
    iterations: int = 30
    granularity: Granularity | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.iterations < 0:
            raise InputError(f"{self.iterations} iterations", expected="0 or more", hint="KMeans(4)")

    def quantized(self, source: Reparam, importance: Tensor | None = None) -> Reparam:
        """importance: of each value, or per input channel (`spread_importance`)."""
        values = finite_values(source)
        weights = spread_importance(importance, values)
        if self.granularity is None:
            return OnLevels(source, self._levels(values, weights), learn_levels=True)
        scale = mean_square_scale(values, self.granularity)
        sizes = spread(scale, values, self.granularity.group).expand(values.shape)
        mass = sizes.square() if weights is None else weights * sizes.square()
        levels = self._levels(values / sizes, mass)
        return OnLevels(source, levels, scale, self.granularity.group, learn_levels=True)

    def _levels(self, values: Tensor, weights: Tensor | None) -> Tensor:
        flat, mass = values.reshape(-1), None if weights is None else weights.reshape(-1)
        zeros, k = flat == 0, 2**self.bits
        found = flat.new_zeros(int(zeros.any()))
        if found.numel():
            flat, mass, k = flat[~zeros], None if mass is None else mass[~zeros], k - 1
        if flat.numel():
            points, each = flat[:, None], None if mass is None else mass[:, None]
            levels = kmeans(points, each, k, self.iterations, self.seed)[:, 0].to(flat)
            found = torch.cat([levels, found])
        return halves(found).unique()


def mean_square_scale(values: Tensor, granularity: Granularity) -> Tensor:
    """The root mean square of each unit, bfloat16 numbers arranged as `Levels.scale` wants them."""
    parts = [part.double().square().mean(1).sqrt().float() for part in granularity.split(values)]
    return bfloat16_through(granularity.join(tuple(parts), values))
