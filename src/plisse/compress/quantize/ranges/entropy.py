"""The range that keeps the most information, by histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plisse.compress.quantize.grids import Format
from plisse.compress.quantize.ranges.family import Interval
from plisse.compress.quantize.ranges.minmax import MinMax
from plisse.errors import InputError

CANDIDATES = 512
FLOOR = 1e-4  # samples that an empty bin counts as, so that the divergence stays finite


@dataclass(frozen=True)
class Entropy:
    """The threshold T of magnitudes with the least divergence KL(P || Q): P is the histogram of |x| up to T
    with all that lies beyond added to its last bin; Q is that histogram (without what lies beyond) in as many
    levels as the grid has for magnitudes, each spread evenly over its occupied bins (TensorRT, Migacz 2017).

    Exact zeros, of which a rectifier makes many, are left out: rounding keeps them.

    bins: of the histogram, at least 16. Made for activations, with many samples; on the few
    weights of a channel it clips far too much. The range is [-T, T] within that of the samples.
    """

    bins: int = 2048

    def __post_init__(self) -> None:
        if self.bins < 16:
            raise InputError(f"{self.bins} bins", expected="at least 16", hint="Entropy(2048)")

    def range(self, samples: Tensor, form: Format) -> Interval:
        low, high = MinMax().range(samples, form)
        reach = torch.maximum(-low, high)
        share = (high - low) / reach.clamp_min(1e-30)  # 1 where all samples have one sign, 2 for both alike
        found = [
            self._threshold(
                unit, float(top), max(2, round((form.high - form.low + 1) / max(float(wide), 1.0)))
            )
            for unit, top, wide in zip(samples, reach, share, strict=True)
        ]
        threshold = torch.tensor(found, dtype=samples.dtype, device=samples.device)
        return torch.maximum(low, -threshold), torch.minimum(high, threshold)

    def _threshold(self, samples: Tensor, top: float, levels: int) -> float:
        """The best T of samples [n] with magnitudes up to `top`."""
        if not top > 0 or levels >= self.bins:
            return top
        sizes = samples[samples != 0].abs().float()
        counts = torch.histc(sizes, self.bins, 0.0, top).double().cpu().numpy()
        ends = np.unique(np.linspace(levels, self.bins, min(CANDIDATES, self.bins - levels + 1)).round())
        divergence = divergences(counts, ends.astype(np.int64), levels)
        return top * float(ends[int(np.argmin(divergence))]) / self.bins


def divergences(counts: np.ndarray, ends: np.ndarray, levels: int) -> np.ndarray:
    """KL(P || Q) in nats for thresholds after the first `ends` [E] bins of a histogram `counts` [B].

    All by differences of running sums: within a level, Q is constant over the occupied bins.
    """
    total = counts.sum()
    beyond = total - np.cumsum(counts)[ends - 1]  # [E]
    last = counts[ends - 1]
    sums, logs, occupied = (
        np.concatenate([[0.0], np.cumsum(part)]) for part in (counts, _times_log(counts), counts > 0)
    )
    edges = np.floor(ends[:, None] * np.arange(levels + 1) / levels + 0.5).astype(np.int64)  # [E, levels + 1]
    inside = np.diff(sums[edges], axis=1)  # [E, levels]
    width = np.diff(occupied[edges], axis=1)
    p = inside.copy()
    p[:, -1] += beyond
    width[:, -1] += (last == 0) & (beyond > 0)
    q = np.maximum(inside, FLOOR) / np.maximum(inside.sum(1), FLOOR)[:, None] / np.maximum(width, 1)
    own = (logs[ends] - _times_log(last) + _times_log(last + beyond)) / total - np.log(total)
    return own - (p * np.log(q)).sum(1) / total


def _times_log(counts: np.ndarray) -> np.ndarray:
    return counts * np.log(np.maximum(counts, 1e-300))
