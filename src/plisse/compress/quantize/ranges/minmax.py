"""The whole range."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plisse.compress.quantize.grids import Format
from plisse.compress.quantize.ranges.family import Interval, balanced


@dataclass(frozen=True)
class MinMax:
    """The whole range of the samples. Clips nothing; one outlier widens every step.

    >>> import torch
    >>> MinMax().range(torch.tensor([[-1.0, 0.0, 3.0]]), Format(8, symmetric=False))
    (tensor([-1.]), tensor([3.]))
    """

    def range(self, samples: Tensor, form: Format) -> Interval:
        low, high = samples.amin(1).clamp_max(0), samples.amax(1).clamp_min(0)
        return balanced(low, high, form)
