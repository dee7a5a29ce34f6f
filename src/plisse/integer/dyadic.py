"""Rescaling in integers: sums of integers times dyadic numbers m 2^-n, rounded once.

What a layer's accumulator means is s_x s_w; the next layer wants s_y. The ratio is no integer, so it is kept
as m 2^-n with a 32-bit m, and the division is a shift (Jacob et al. 2018, Yao et al. 2021 "HAWQ-V3").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plisse.errors import InputError

MULTIPLIER_BITS = 31
DEEPEST = 46  # of shifts: an accumulator below 2^31 is then off by less than 2^-15 steps


@dataclass(frozen=True, eq=False)
class Combination:
    """y = round(sum_i a_i m_i 2^-n + b), computed as (sum_i a_i m_i + B + 2^(n-1)) >> n in 64 bits.

    multipliers: one int64 tensor per term, every entry below 2^31 in size. offset: B. shift: n, 1 and up.
    All have one shape, [] for one number or [C] for one per channel. Halves are rounded up.
    """

    multipliers: tuple[Tensor, ...]
    offset: Tensor
    shift: Tensor

    def __call__(self, *terms: Tensor, axis: int = -1) -> Tensor:
        """int64 of the terms' shape. terms: integers below 2^31 in size. axis: of the channels."""

        def along(value: Tensor) -> Tensor:
            if value.dim() == 0:
                return value
            shape = [1] * terms[0].dim()
            shape[axis] = -1
            return value.reshape(shape)

        total = along(self.offset)
        for term, multiplier in zip(terms, self.multipliers, strict=True):
            total = total + term.to(torch.int64) * along(multiplier)
        return rounding_shift(total, along(self.shift))


def combination(ratios: tuple[Tensor, ...], offset: Tensor | float = 0.0) -> Combination:
    """The best `Combination` for real factors and a real offset, with one shift for all terms.

    ratios: what each term is multiplied by, float64 tensors [] or [C], below 2^30 in size. offset: added
    before rounding, [] or [C], below 2^30 in size.

    >>> third = combination((torch.tensor(1 / 3, dtype=torch.float64),))
    >>> third(torch.tensor([3, 4, 5, -4])).tolist()
    [1, 1, 2, -1]
    """
    numbers = [torch.as_tensor(value, dtype=torch.float64) for value in (*ratios, offset)]
    spread = torch.broadcast_tensors(*numbers)
    sizes = torch.stack([value.abs() for value in spread])
    if not bool(torch.isfinite(sizes).all()) or float(sizes.max()) >= 2.0**30:
        raise InputError(
            f"a ratio of scales or an offset of {float(sizes.max()):.3g}",
            expected="numbers below 2^30 in size",
            hint="ranges of activations from calibration data that reach every layer",
        )
    _, exponent = torch.frexp(sizes[:-1].max(0).values)  # the largest ratio is below 2^exponent
    _, high = torch.frexp(sizes[-1])
    shift = torch.minimum(MULTIPLIER_BITS - 1 - exponent, 61 - high).clamp(1, DEEPEST).to(torch.int64)
    factor = torch.pow(torch.tensor(2.0, dtype=torch.float64), shift.double())
    limit = 2**MULTIPLIER_BITS - 1
    multipliers = tuple(
        torch.round(value * factor).to(torch.int64).clamp(-limit, limit) for value in spread[:-1]
    )
    return Combination(multipliers, torch.round(spread[-1] * factor).to(torch.int64), shift)


def rounding_shift(value: Tensor, shift: Tensor | int) -> Tensor:
    """floor(value / 2^shift + 1/2) in int64, exact for sizes below 2^62; shift 1 and up.

    >>> rounding_shift(torch.tensor([5, 6, 7, -6]), 2).tolist()
    [1, 2, 2, -1]
    """
    shift = torch.as_tensor(shift, dtype=torch.int64)
    return (value + (torch.ones_like(shift) << (shift - 1))) >> shift


def requantized(
    combine: Combination, terms: tuple[Tensor, ...], zero: int, low: int, high: int, axis: int = -1
) -> Tensor:
    """Symbols uint8 of a new grid: the combination, plus its zero point, clipped to [low, high]."""
    return (combine(*terms, axis=axis) + zero).clamp_(low, high).to(torch.uint8)
