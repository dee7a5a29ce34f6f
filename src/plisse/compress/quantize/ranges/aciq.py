"""The range that is best for a distribution, by formula."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor

from plisse.compress.quantize.grids import Format
from plisse.compress.quantize.ranges.family import Interval
from plisse.compress.quantize.ranges.minmax import MinMax
from plisse.errors import InputError

FAMILIES = ("laplace", "gauss", "auto")


@dataclass(frozen=True)
class ACIQ:
    """The clipping a that balances clipped tails and rounding, a^2 / (3 n^2) for n steps within [-a, a], for
    a Laplace or a normal distribution fitted to the samples (Banner et al. 2019, section 3):

    Laplace of scale b = E|x - m|: a = t b with e^-t = t / (3 n^2);
    normal of deviation s:         a = t s with pdf(t) - t (1 - cdf(t)) = t / (6 n^2).

    With n = 2^bits this is the paper's 2.83 b, 3.90 b, 5.03 b and 1.71 s, 2.15 s, 2.56 s for 2, 3, 4 bits; we
    take the n of the grid at hand. Symmetric grids fit about zero, one-sided samples (such as after a
    rectifier) as one half of a distribution, both without exact zeros, which cost nothing to round; others
    fit about their mean m. The range never exceeds the samples'.

    family: "laplace", "gauss", or "auto", per unit the one with the higher likelihood.

    >>> samples = torch.tensor([[-1.0, 1.0] * 8 + [9.0] * 2])  # E|x| = 1.89
    >>> ACIQ("laplace").range(samples, Format(2))[1] / samples.abs().mean()
    tensor([1.8628])
    """

    family: str = "auto"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"family {self.family!r}", expected=f"one of {', '.join(FAMILIES)}")

    def range(self, samples: Tensor, form: Format) -> Interval:
        low, high = MinMax().range(samples, form)
        occupied = (samples != 0).to(samples.dtype)
        if form.symmetric:
            reach = torch.minimum(self._reach(samples, occupied, form.steps), high)
            return -reach, reach
        middle = samples.mean(1, keepdim=True)
        around = self._reach(samples - middle, torch.ones_like(samples), form.steps)
        half = self._reach(samples, occupied, 2 * form.steps)
        one_sided = (low == 0) | (high == 0)
        centre = torch.where(one_sided, 0.0, middle[:, 0])
        reach = torch.where(one_sided, half, around)
        return torch.maximum(low, centre - reach).clamp_max(0), torch.minimum(high, centre + reach).clamp_min(
            0
        )

    def _reach(self, samples: Tensor, counted: Tensor, steps: float) -> Tensor:
        """The clipping [U] of samples [U, n] about zero; `counted` is 1 where a sample counts, else 0."""
        n = counted.sum(1).clamp_min(1)
        b = (samples.abs() * counted).sum(1) / n
        s = ((samples.square() * counted).sum(1) / n).sqrt()
        laplace, gauss = laplace_clip(steps) * b, gauss_clip(steps) * s
        if self.family != "auto":
            return laplace if self.family == "laplace" else gauss
        flatter = (2 * b).log() + 1 > (s * math.sqrt(2 * math.pi * math.e)).log()  # entropies of the fits
        return torch.where(flatter, gauss, laplace)


@cache
def laplace_clip(steps: float) -> float:
    """The best clipping of a Laplace distribution of scale 1 for a number of steps within [-a, a].

    >>> [round(laplace_clip(2**bits), 2) for bits in (2, 3, 4)]
    [2.83, 3.9, 5.03]
    """
    return float(brentq(lambda t: math.exp(-t) - t / (3 * steps**2), 1e-9, 100.0))


@cache
def gauss_clip(steps: float) -> float:
    """The best clipping of a normal distribution of deviation 1 for a number of steps within [-a, a].

    >>> [round(gauss_clip(2**bits), 2) for bits in (2, 3, 4)]
    [1.71, 2.15, 2.56]
    """
    density = (2 * math.pi) ** -0.5
    return float(
        brentq(lambda t: density * math.exp(-t * t / 2) - t * ndtr(-t) - t / (6 * steps**2), 1e-9, 40.0)
    )
