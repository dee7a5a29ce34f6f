"""The range that learned steps start from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plisse.compress.quantize.grids import Format
from plisse.compress.quantize.ranges.family import Interval
from plisse.compress.quantize.ranges.minmax import MinMax


@dataclass(frozen=True)
class MeanMagnitude:
    """The step s = 2 E|x| / sqrt(q_max) where learned steps start (LSQ, Esser et al. 2020, section 2.1)."""

    def range(self, samples: Tensor, form: Format) -> Interval:
        reach = 2 * samples.abs().mean(1) * form.high**0.5
        if form.symmetric:
            return -reach, reach
        low, high = MinMax().range(samples, form)
        share = reach / (high - low).clamp_min(1e-30)
        return low * share, high * share
