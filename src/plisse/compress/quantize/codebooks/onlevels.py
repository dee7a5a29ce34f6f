"""Weights on a table of levels: value = level * scale, with the nearest level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import (
    Format,
    Granularity,
    bfloat16_through,
    check_finite,
    scale_and_zero,
    spread,
)
from plisse.core.reparam import Reparam
from plisse.core.stored import Levels, Stored, half_precision
from plisse.errors import InputError

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
COARSE, FINE, LEAST = 16, 6, 5


class OnLevels(Reparam):
    """The source's values at the nearest of some levels: x^ = s level[nearest(x / s)].

    The gradient by x is 1 between the lowest and the highest level and 0 beyond; by s it is level - x / s
    between them, as in LSQ (Esser et al. 2020); each level gets the sum of the gradients of its values (Han
    et al. 2016). Both are multiplied by 1 / sqrt(n) for n values per scale or, on average, per level, so that
    they move about as fast as weights do. A level that is zero at the start stays zero.
    Levels and scales are rounded to 16 bits before they are used, so training sees what the file will hold.

    levels: [K], any order, numbers that one 16-bit type holds. scale: as `Levels.scale`, or None.

    >>> from plisse.core.reparam import Plain
    >>> OnLevels(Plain(torch.tensor([0.2, 0.9])), torch.tensor([-1.0, 0.0, 1.0]))().detach()
    tensor([0., 1.])
    """

    kept: Tensor

    def __init__(
        self,
        source: Reparam,
        levels: Tensor,
        scale: Tensor | None = None,
        group: int = 0,
        *,
        learn_levels: bool = False,
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        self.source, self.group = source, group
        levels = levels.to(source().device)
        self.half_type = half_precision(levels.detach().cpu().numpy()) or ""
        if not self.half_type:
            raise InputError("levels that 16 bits cannot hold", expected="float16 or bfloat16 numbers")
        self.levels = nn.Parameter(levels.detach().clone(), requires_grad=learn_levels)
        self.register_buffer("kept", (levels.detach() != 0).float())
        self.scale = None if scale is None else nn.Parameter(scale.detach(), requires_grad=learn_scale)
        units = 1 if scale is None else max(scale.numel(), 1)
        n_values = max(source().numel(), 1)
        self.step_gradient, self.level_gradient = (units / n_values) ** 0.5, (len(levels) / n_values) ** 0.5

    def forward(self) -> Tensor:
        values, scale, table = self._parts()
        unit = values if scale is None else values / scale
        fixed = table.detach()
        inside = unit.clamp(float(fixed[0]), float(fixed[-1]))
        rounded = table[nearest(unit.detach(), fixed)] + (inside - inside.detach())
        return rounded if scale is None else rounded * scale

    def stored(self) -> Stored:
        with torch.no_grad():
            values, scale, table = self._parts()
            symbols = nearest(values if scale is None else values / scale, table)
            kept = None if self.scale is None else bfloat16_through(self.scale).cpu().numpy()
        group = self.group if kept is not None and kept.ndim == 2 else 0
        whole = symbols.to(torch.int32).cpu().numpy()
        return Stored(whole, tuple(values.shape), Levels(table.cpu().numpy(), kept, group))

    def _parts(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Values, the scale of each, and the levels, sorted."""
        values = self.source().float()
        levels = ScaleGradient.apply(self.levels, self.level_gradient)
        table = half_through(levels * self.kept, self.half_type).sort().values
        if self.scale is None:
            return values, None, table
        scale = bfloat16_through(ScaleGradient.apply(self.scale, self.step_gradient))
        return values, spread(scale, values, self.group), table


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """The index of the nearest of sorted `levels` [K], int64. Of two that are equally near, the one an even
    number of places away from zero: for small floats, round half to even.

    >>> nearest(torch.tensor([0.5, 1.5, -0.5, 9.0]), torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    tensor([1, 3, 1, 3])
    """
    middles = (levels[1:] + levels[:-1]) / 2
    found = torch.bucketize(values.contiguous(), middles)
    if not middles.numel():
        return found
    tied = values == middles[found.clamp_max(middles.numel() - 1)]
    odd = (found - int(torch.count_nonzero(levels < 0))) % 2 == 1
    return found + (tied & odd)


def half_through(numbers: Tensor, half: str) -> Tensor:
    """Rounded to a 16-bit type, kept as float32; the gradient passes the rounding."""
    top = float(torch.finfo(HALVES[half]).max)
    kept = numbers.detach().clamp(-top, top).to(HALVES[half]).float()
    return kept + (numbers - numbers.detach())


def halves(numbers: Tensor) -> Tensor:
    """Rounded to float16, or to bfloat16 where float16 is too narrow for the largest; kept as float32."""
    largest = float(numbers.abs().max())
    return half_through(numbers.detach().float(), "float16" if 2**-6 <= largest < 2**15 else "bfloat16")


def finite_values(source: Reparam) -> Tensor:
    """The source's values now, float32, detached. Raises WeightsError for NaN or infinity, InputError where
    there are none."""
    with torch.no_grad():
        values = source().detach().float()
    if not values.numel():
        raise InputError("a weight without values", expected="at least one")
    return check_finite(values)


def fitted_scale(values: Tensor, levels: Tensor, granularity: Granularity, search: bool) -> Tensor:
    """One scale per unit of `values`, bfloat16 numbers arranged as `Levels.scale` wants them.

    search: the share of the largest scale that has the least squared error; otherwise the largest magnitude
    of a unit falls on the highest level.
    """
    parts, levels = granularity.split(values), levels.to(values.device)
    scales = [largest_scale(part, float(levels.abs().max())) for part in parts]
    if search:
        scales = [_searched(part, scale, levels) for part, scale in zip(parts, scales, strict=True)]
    return granularity.join(tuple(scales), values)


def largest_scale(rows: Tensor, top: float) -> Tensor:
    """Scales [U] of rows [U, n] that put the largest magnitude on `top`, rounded up to bfloat16."""
    size = rows.abs().amax(1) / top
    return scale_and_zero(-size, size, Format(2))[0]


def _searched(rows: Tensor, largest: Tensor, levels: Tensor) -> Tensor:
    best, least = largest, _error(rows, largest, levels)
    coarse = [largest * (step / COARSE) for step in range(LEAST, COARSE)]
    best, least = _better(rows, levels, coarse, best, least)
    near = [best * (1 + step / (COARSE * FINE)) for step in range(1 - FINE, FINE) if step]
    near = [torch.minimum(candidate, largest) for candidate in near]
    return _better(rows, levels, near, best, least)[0]


def _better(
    rows: Tensor, levels: Tensor, candidates: list[Tensor], best: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    for candidate in map(bfloat16_through, candidates):
        error = _error(rows, candidate, levels)
        best = torch.where(error < least, candidate, best)
        least = torch.minimum(error, least)
    return best, least


def _error(rows: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
    steps = scale[:, None]
    return (levels[nearest(rows / steps, levels)] * steps - rows).square().sum(1)
