"""Small floating-point numbers as levels: FP8 and its kin, and blocks of them with a shared power of two."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from plisse.compress.quantize.codebooks.levels import power_scale
from plisse.compress.quantize.codebooks.onlevels import OnLevels, finite_values, fitted_scale
from plisse.compress.quantize.grids import Granularity, PerChannel, PerGroup
from plisse.core.reparam import Reparam
from plisse.errors import InputError


@dataclass(frozen=True)
class Float:
    """Numbers of one sign bit, `exponent` and `mantissa` bits: +-2^(e - bias) (1 + m / 2^mantissa), and below
    the least exponent +-2^(1 - bias) m / 2^mantissa; bias = 2^(exponent - 1) - 1.

    All codes are finite numbers, except for the highest one of E4M3 (largest number 448) and the highest
    exponent of E5M2 (largest number 57,344). Values beyond the largest become the largest. Rounds half to
    even. exact_zero: yes.

    exponent: 1 to 5. mantissa: 0 to 7. granularity: which values share a scale that puts the largest
    magnitude on the largest number; None for no scale. search: scale with the least squared error instead.
    Source: Micikevicius et al. 2022, FP8 formats for deep learning; the others OCP Microscaling Formats 1.0.

    >>> from plisse.core.reparam import Plain
    >>> Float(4, 3, granularity=None).quantized(Plain(torch.tensor([0.3, 17.0, 1e6])))().detach()
    tensor([3.1250e-01, 1.6000e+01, 4.4800e+02])
    """

    exponent: int = 4
    mantissa: int = 3
    granularity: Granularity | None = field(default_factory=PerChannel)
    search: bool = False
    learn_scale: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.exponent <= 5 and 0 <= self.mantissa <= 7):
            raise InputError(
                f"a float of {self.exponent} exponent and {self.mantissa} mantissa bits",
                expected="1 to 5 and 0 to 7",
                hint="Float(4, 3)",
            )

    def levels(self) -> Tensor:
        """All finite numbers of the format, ascending."""
        bias, steps = 2 ** (self.exponent - 1) - 1, 2**self.mantissa
        codes = torch.arange(2**self.exponent * steps)
        power, rest = codes // steps, (codes % steps) / steps
        top = {(4, 3): len(codes) - 1, (5, 2): len(codes) - steps}.get((self.exponent, self.mantissa))
        sizes = torch.ldexp(rest + (power > 0), power.clamp_min(1) - bias)[:top]
        return torch.cat([-sizes.flip(0)[:-1], sizes])

    def quantized(self, source: Reparam) -> Reparam:
        values, levels = finite_values(source), self.levels()
        if self.granularity is None:
            return OnLevels(source, levels)
        scale = fitted_scale(values, levels, self.granularity, self.search)
        return OnLevels(source, levels, scale, self.granularity.group, learn_scale=self.learn_scale)


MX = {4: Float(2, 1), 6: Float(2, 3), 8: Float(4, 3)}
"""The element formats of MXFP4, MXFP6 and MXFP8."""


@dataclass(frozen=True)
class Microscaling:
    """Blocks of small floats that share a power of two: x^ = 2^s p, s = floor(log2 max|x|) - e, e being the
    exponent of the format's largest number; what is beyond the largest becomes the largest.

    The file holds bits of the power as its entropy says, about 2 per block instead of 8. exact_zero: yes.

    element: format of p: E2M1 is MXFP4, E2M3 (or E3M2) MXFP6, E4M3 (or E5M2) MXFP8. block: values along a
    flattened channel, at least 1.
    Source: Rouhani et al. 2023, Microscaling data formats, section 3; OCP Microscaling Formats 1.0.

    >>> [float(level) for level in Microscaling(MX[4]).element.levels() if level >= 0]
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """

    element: Float = field(default_factory=lambda: MX[4])
    block: int = 32

    def __post_init__(self) -> None:
        PerGroup(self.block)

    def quantized(self, source: Reparam) -> Reparam:
        values, levels = finite_values(source), self.element.levels()
        top = int(torch.frexp(levels[-1]).exponent) - 1
        blocks = PerGroup(self.block)
        return OnLevels(source, levels, power_scale(values, blocks, 1.0, top), blocks.group)
