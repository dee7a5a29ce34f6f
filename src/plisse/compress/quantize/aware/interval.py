"""QIL (Jung et al. 2019): the interval of weights that is quantized is learned; what is nearer to zero is
pruned, what is further out is clipped. `Intervals` is the same for inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plisse.compress.quantize.codebooks.onlevels import finite_values
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import Format, bfloat16_through, check_bits
from plisse.compress.quantize.ranges import MSE, Range
from plisse.core.fakequant import round_through
from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, Uniform

TINY = 1e-6


@dataclass(frozen=True)
class LearnedInterval:
    """w^ = s round(n T(w)), T(w) = sign(w) clip((|w| - c + d) / (2 d), 0, 1)^g, n = 2^(bits - 1) - 1 (Jung et
    al. 2019, equations 3 and 4): centre c, half length d and exponent g are trained, one each per tensor.

    bits: 2 to 8. range: where c + d is at the start; c = d and g = 1 then, so that it rounds as a symmetric
    grid does. A grid for `Quantize(grid=LearnedInterval(3), activations=Intervals(3), aware=...)`. The paper
    has s n = 1 and batch norm to make up for it; here s is trained too and starts at (c + d) / n, so that a
    trained network stays near itself. exact_zero: yes.

    >>> from plisse.compress.quantize.ranges import MinMax
    >>> from plisse.core.reparam import Plain
    >>> LearnedInterval(3, MinMax()).quantized(Plain(torch.tensor([0.4, -2.1, 3.0])))().detach()
    tensor([ 0., -2.,  3.])
    """

    bits: int = 3
    range: Range = field(default_factory=MSE)

    def __post_init__(self) -> None:
        check_bits(self.bits)

    def quantized(self, source: Reparam) -> Reparam:
        values = finite_values(source).reshape(1, -1)
        low, high = self.range.range(values, Format(self.bits))
        return IntervalQuantized(source, self.bits, torch.maximum(low.abs(), high.abs()).clamp_min(TINY**5))


class IntervalQuantized(Reparam):
    """The source's values by `LearnedInterval`; gradients of its parameters times 1 / sqrt(N n) for N values.
    Symbols are -n to n. end: [1], where c + d starts."""

    def __init__(self, source: Reparam, bits: int, end: Tensor) -> None:
        super().__init__()
        self.source, self.n = source, 2 ** (bits - 1) - 1
        self.scale = nn.Parameter(bfloat16_through(end / self.n))
        self.centre = nn.Parameter(self.scale.detach() * self.n / 2)
        self.reach = nn.Parameter(self.scale.detach() * self.n / 2)
        self.power = nn.Parameter(torch.ones_like(self.scale))
        self.factor = (max(source().numel(), 1) * self.n) ** -0.5

    def forward(self) -> Tensor:
        return self._symbols() * bfloat16_through(ScaleGradient.apply(self.scale, self.factor)).reshape(())

    def stored(self) -> Stored:
        with torch.no_grad():
            symbols = self._symbols().to(torch.int32).cpu().numpy()
            scale = bfloat16_through(self.scale).cpu().numpy()
        return Stored(symbols, symbols.shape, Uniform(scale))

    def _symbols(self) -> Tensor:
        centre, reach, power = (
            ScaleGradient.apply(part, self.factor).reshape(())
            for part in (self.centre, self.reach, self.power)
        )
        values = self.source().float()
        width = 2 * reach.abs().clamp_min(1e-30)
        unit = ((values.abs() - centre) / width + 0.5).clamp(0, 1)
        bent = torch.where(unit > TINY, unit.clamp_min(TINY) ** power.clamp_min(0.1), unit)
        return round_through(self.n * bent) * torch.sign(values)
