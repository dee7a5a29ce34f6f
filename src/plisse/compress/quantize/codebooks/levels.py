"""Fixed tables of levels: powers of two, sums of powers of two, quantiles of the normal distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from plisse.compress.quantize.codebooks.onlevels import OnLevels, finite_values, fitted_scale, halves
from plisse.compress.quantize.grids import Granularity, PerChannel, PerGroup, check_bits
from plisse.core.reparam import Reparam
from plisse.errors import InputError

LOWEST_POWER = -125
MOST = 4096


@dataclass(frozen=True)
class Logarithmic:
    """Zero and the powers of two +-2^n, +-2^(n-1), ...: a product with a weight is a shift.

    n = floor(log2(4/3 max|x|)) per unit; 2^(bits-1) - 1 powers on each side. To the nearest by value, so what
    lies between 2^k and 2^(k+1) parts at 1.5 2^k. exact_zero: yes.

    bits: 2 to 8 (beyond 5 only ever smaller powers are added).
    Source: Zhou et al. 2017, Incremental network quantization, section 2.2; Miyashita et al. 2016.

    >>> from plisse.core.reparam import Plain
    >>> Logarithmic(3).quantized(Plain(torch.tensor([0.9, -0.3, 0.01])))().detach()
    tensor([ 1.0000, -0.2500,  0.0000])
    """

    bits: int = 4
    granularity: Granularity = field(default_factory=PerChannel)

    def __post_init__(self) -> None:
        check_bits(self.bits)

    def quantized(self, source: Reparam) -> Reparam:
        values = finite_values(source)
        powers = torch.tensor([2.0**-k for k in range(2 ** (self.bits - 1) - 1)])
        scale = power_scale(values, self.granularity, 4 / 3)
        return OnLevels(source, both_signs(powers), scale, self.granularity.group)


@dataclass(frozen=True)
class AdditivePowersOfTwo:
    """Levels that are sums of a few powers of two, +-(p_1 + ... + p_n): denser far out than powers alone.

    The bits - 1 bits of a magnitude are dealt to n terms of k bits and, where k does not divide them, one
    smaller term. A term of k bits is zero or one of 2^k - 1 powers; all powers differ, dealt from 2^-1
    downwards in turn. 4 bits, k = 2: {0, 1/2, 1/4, 1/16} + {0, 1/8}. The scale has the least squared error.
    exact_zero: yes.

    bits: 2 to 8. k: bits per term, 1 to 3. learn_scale: train scales too, as the paper does.
    Source: Li, Dong and Wang 2020, Additive powers-of-two quantization, section 2.1.

    >>> [round(float(level) * 16) for level in additive_levels(4, 2)]
    [0, 1, 2, 3, 4, 6, 8, 10]
    """

    bits: int = 4
    k: int = 2
    granularity: Granularity = field(default_factory=PerChannel)
    learn_scale: bool = False

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not 1 <= self.k <= 3:
            raise InputError(f"terms of {self.k} bits", expected="1 to 3", hint="k=2")

    def quantized(self, source: Reparam) -> Reparam:
        values = finite_values(source)
        levels = both_signs(additive_levels(self.bits, self.k))
        scale = fitted_scale(values, levels, self.granularity, search=True)
        return OnLevels(source, levels, scale, self.granularity.group, learn_scale=self.learn_scale)


@dataclass(frozen=True)
class NormalFloat:
    """Levels that are equally likely for normal weights: quantiles of N(0, 1) from the middle of the
    outermost share inwards, divided by the largest; one is exactly zero, so the upper side has one more.

    Scale: max|x| of each group falls on 1, or (search) the least squared error. exact_zero: yes.

    bits: 2 to 8. group: values per scale, at least 1; 0 for one scale per channel.
    Source: Dettmers et al. 2023, QLoRA, section 3 (4 bits, groups of 64: NF4).

    >>> [round(float(level), 2) for level in normal_levels(3)]
    [-1.0, -0.54, -0.25, 0.0, 0.18, 0.38, 0.62, 1.0]
    """

    bits: int = 4
    group: int = 64
    search: bool = False
    learn_scale: bool = False

    def __post_init__(self) -> None:
        check_bits(self.bits)
        self._units()

    def _units(self) -> Granularity:
        return PerGroup(self.group) if self.group else PerChannel()

    def quantized(self, source: Reparam) -> Reparam:
        values, levels = finite_values(source), normal_levels(self.bits)
        scale = fitted_scale(values, levels, self._units(), self.search)
        return OnLevels(source, levels, scale, self.group, learn_scale=self.learn_scale)


@dataclass(frozen=True)
class Lookup:
    """Levels of your own: x^ = s level[nearest(x / s)], the general form of a grid that is not uniform.

    levels: 1 to 4,096 numbers, rounded to 16 bits. granularity: which values share a scale, of least squared
    error, or (search=False) such that the largest magnitude falls on the largest level; None for none.
    exact_zero: where 0 is among them.

    >>> from plisse.core.reparam import Plain
    >>> Lookup((-1.0, 0.0, 0.25, 2.0), None).quantized(Plain(torch.tensor([0.2, -3.0])))().detach()
    tensor([ 0.2500, -1.0000])
    """

    levels: tuple[float, ...] = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
    granularity: Granularity | None = field(default_factory=PerChannel)
    search: bool = True
    learn_scale: bool = False

    def __post_init__(self) -> None:
        finite = all(abs(level) < 2.0**127 for level in self.levels)
        if not (1 <= len(self.levels) <= MOST and finite and any(self.levels)):
            raise InputError(
                f"{len(self.levels)} levels", expected=f"1 to {MOST} finite numbers, not all zero"
            )

    def quantized(self, source: Reparam) -> Reparam:
        values = finite_values(source)
        levels = halves(torch.tensor(self.levels)).unique()
        if self.granularity is None:
            return OnLevels(source, levels)
        scale = fitted_scale(values, levels, self.granularity, self.search)
        return OnLevels(source, levels, scale, self.granularity.group, learn_scale=self.learn_scale)


def additive_levels(bits: int, k: int) -> Tensor:
    """The magnitudes of AdditivePowersOfTwo, ascending, from 0."""
    full, rest = divmod(bits - 1, k)
    terms: list[list[float]] = [[0.0] for _ in range(full + (rest > 0))]
    rounds, power = 2**k - 1, 0.5
    for turn in range(rounds):
        if rest and turn >= rounds - (2**rest - 1):
            terms[-1].append(power)
            power /= 2
        for term in terms[:full]:
            term.append(power)
            power /= 2
    return torch.tensor(sorted({sum(parts) for parts in product(*terms)}))


def normal_levels(bits: int) -> Tensor:
    """The levels of NormalFloat, ascending, float16 numbers; 2^bits of them."""
    n = 2 ** (bits - 1)
    edge = 1 - (1 / (4 * n) + 1 / (4 * n - 2)) / 2
    quantile = torch.distributions.Normal(0.0, 1.0).icdf
    up = quantile(torch.linspace(edge, 0.5, n + 1, dtype=torch.float64))
    down = -quantile(torch.linspace(edge, 0.5, n, dtype=torch.float64))
    return halves((torch.cat([down[:-1], up.flip(0)]) / up[0]).float())


def both_signs(magnitudes: Tensor) -> Tensor:
    """Magnitudes with either sign, and zero; ascending."""
    return torch.cat([magnitudes, -magnitudes, magnitudes.new_zeros(1)]).unique()


def power_scale(values: Tensor, granularity: Granularity, factor: float, shift: int = 0) -> Tensor:
    """2^(floor(log2(factor max|x|)) - shift) of each unit, arranged as `Levels.scale` wants it."""
    parts = []
    for part in granularity.split(values):
        largest = part.abs().amax(1).double() * factor
        power = torch.frexp(largest.clamp_min(2.0**LOWEST_POWER)).exponent - 1 - shift
        parts.append(torch.ldexp(torch.ones_like(power, dtype=torch.float32), power.clamp(LOWEST_POWER, 127)))
    return granularity.join(tuple(parts), values)
