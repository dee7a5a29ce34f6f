"""Weights of three values: minus, zero, plus."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plisse.compress.quantize.codebooks.onlevels import finite_values
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import Granularity, PerChannel, bfloat16_through, spread
from plisse.core.reparam import Reparam
from plisse.core.stored import Levels, Stored
from plisse.errors import InputError


class Ternarized(Reparam):
    """x^ = alpha sign(x) where |x| > delta, else 0; delta = share mean |x|, alpha = mean of |x| beyond it,
    both per unit and following x in training. The gradient passes unchanged."""

    def __init__(self, source: Reparam, share: float, granularity: Granularity) -> None:
        super().__init__()
        self.source, self.share, self.granularity = source, share, granularity

    def forward(self) -> Tensor:
        values = self.source().float()
        signs, alpha = self._parts(values.detach())
        return signs * spread(alpha, values, self.granularity.group) + (values - values.detach())

    def stored(self) -> Stored:
        with torch.no_grad():
            values = self.source().float()
            signs, alpha = self._parts(values)
        group = self.granularity.group if alpha.dim() == 2 else 0
        symbols = (signs + 1).to(torch.int32).cpu().numpy()
        levels = torch.tensor([-1.0, 0.0, 1.0]).numpy()
        return Stored(symbols, tuple(values.shape), Levels(levels, alpha.cpu().numpy(), group))

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Signs or 0, in the shape of the values, and alpha per unit."""
        parts = [part.double() for part in self.granularity.split(values.abs())]
        deltas = [self.share * part.mean(1) for part in parts]
        delta = spread(self.granularity.join(tuple(deltas), values), values, self.granularity.group)
        alphas = []
        for part, limit in zip(parts, deltas, strict=True):
            beyond = part > limit[:, None]
            alphas.append(((part * beyond).sum(1) / beyond.sum(1).clamp_min(1)).float())
        signs = values.sign() * (values.abs().double() > delta)
        return signs, bfloat16_through(self.granularity.join(tuple(alphas), values))


@dataclass(frozen=True)
class Ternary:
    """Ternary weight networks: x^ = alpha sign(x) where |x| > delta, else 0, with delta = 0.7 mean |x| and
    alpha = mean of |x| beyond delta: near the least squared error for normal and uniform weights.

    exact_zero: yes. share: delta / mean |x|, 0 to 2. granularity: which values share delta and alpha (in the
    paper, whole tensors).
    Source: Li, Zhang and Liu 2016, Ternary weight networks, section 2.

    >>> from plisse.core.reparam import Plain
    >>> Ternary().quantized(Plain(torch.tensor([[1.0, -0.1, 0.2, -2.0]])))().detach()
    tensor([[ 1.5000,  0.0000,  0.0000, -1.5000]])
    """

    share: float = 0.7
    granularity: Granularity = field(default_factory=PerChannel)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 2:
            raise InputError(f"share {self.share}", expected="0 to 2", hint="Ternary(0.7)")

    def quantized(self, source: Reparam) -> Reparam:
        finite_values(source)
        return Ternarized(source, self.share, self.granularity)


class TrainedTernarized(Reparam):
    """x^ = up where x > delta, -down where x < -delta, else 0; delta = share max |x|.

    `up` and `down` are parameters; they get the sum of the gradients of their values, times 1 / sqrt(N / 2)
    for N values, and x gets its gradient times up, times down, or times 1 in the middle (Zhu et al. 2017,
    equations 7 and 8).
    """

    def __init__(self, source: Reparam, share: float, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.source, self.share = source, share
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.gradient = (2 / max(source().numel(), 1)) ** 0.5

    def forward(self) -> Tensor:
        values = self.source().float()
        symbols, table = self._symbols(values.detach()), self._table()
        slope = table.detach().abs()[symbols].masked_fill(symbols == 1, 1.0)
        return table[symbols] + slope * (values - values.detach())

    def stored(self) -> Stored:
        with torch.no_grad():
            symbols = self._symbols(self.source().float()).to(torch.int32).cpu().numpy()
            table = self._table().cpu().numpy()
        return Stored(symbols, symbols.shape, Levels(table))

    def _symbols(self, values: Tensor) -> Tensor:
        delta = self.share * values.abs().max()
        return 1 + (values > delta).long() - (values < -delta).long()

    def _table(self) -> Tensor:
        sides = (ScaleGradient.apply(side, self.gradient) for side in (self.up, self.down))
        up, down = map(bfloat16_through, sides)
        return torch.stack([-down, torch.zeros_like(up), up])


@dataclass(frozen=True)
class TrainedTernary:
    """Trained ternary quantization: two magnitudes per tensor, learned with the weights; made to be trained
    (`Quantize(grid=TrainedTernary(), aware=...)`), it starts at the means of either side.

    exact_zero: yes. share: of the largest magnitude that the threshold is, 0 to 1.
    Source: Zhu et al. 2017, Trained ternary quantization, section 3.
    """

    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(f"share {self.share}", expected="0 to 1", hint="TrainedTernary(0.05)")

    def quantized(self, source: Reparam) -> Reparam:
        values = finite_values(source).double()
        delta = self.share * values.abs().max()
        sides = [side[side > delta] for side in (values, -values)]
        means = [side.mean() if side.numel() else values.abs().mean() for side in sides]
        up, down = (bfloat16_through(mean.float()) for mean in means)
        return TrainedTernarized(source, self.share, up, down)
