"""Levels fitted to the weights by k-means: the Lloyd-Max quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plisse.compress.quantize.codebooks.importance import spread_importance
from plisse.compress.quantize.codebooks.lloyd import kmeans
from plisse.compress.quantize.codebooks.onlevels import OnLevels, finite_values, halves
from plisse.compress.quantize.grids import check_bits
from plisse.core.reparam import Reparam
from plisse.errors import InputError


@dataclass(frozen=True)
class KMeans:
    """2^bits levels per tensor that minimise sum w (x - level)^2. In training each level is a parameter and
    gets the sum of its weights' gradients.

    exact_zero: yes if the weight has zeros when the grid is fitted (one level is zero then, for good).

    bits: 2 to 8. iterations: Lloyd steps, 0 or more. seed: of the first centroids.
    Source: Lloyd 1982; Max 1960; Han, Mao and Dally 2016, Deep compression, section 3.

    >>> from plisse.core.reparam import Plain
    >>> KMeans(2).quantized(Plain(torch.tensor([0.0, 0.5, 0.75, -4.0, 7.0])))().detach()
    tensor([ 0.0000,  0.6250,  0.6250, -4.0000,  7.0000])
    """

    bits: int = 4
    iterations: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.iterations < 0:
            raise InputError(f"{self.iterations} iterations", expected="0 or more", hint="KMeans(4)")

    def quantized(self, source: Reparam, importance: Tensor | None = None) -> Reparam:
        """importance: of each value, or per input channel (`spread_importance`)."""
        values = finite_values(source)
        weights = spread_importance(importance, values)
        flat, mass = values.reshape(-1), None if weights is None else weights.reshape(-1)
        zeros, k = flat == 0, 2**self.bits
        if pruned := bool(zeros.any()):
            flat, mass, k = flat[~zeros], None if mass is None else mass[~zeros], k - 1
        levels = self._levels(flat, mass, k)
        if pruned:
            levels = torch.cat([levels, levels.new_zeros(1)])
        return OnLevels(source, halves(levels).unique(), learn_levels=True)

    def _levels(self, flat: Tensor, mass: Tensor | None, k: int) -> Tensor:
        if not flat.numel():
            return flat
        weights = None if mass is None else mass[:, None]
        return kmeans(flat[:, None], weights, k, self.iterations, self.seed)[:, 0].to(flat)
