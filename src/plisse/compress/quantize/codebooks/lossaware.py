"""Three values per channel, chosen as the loss sees them: loss-aware ternarization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plisse.compress.quantize.codebooks.importance import spread_importance
from plisse.compress.quantize.codebooks.onlevels import finite_values
from plisse.compress.quantize.grids import bfloat16_through, spread
from plisse.core.reparam import Reparam
from plisse.core.stored import Levels, Stored
from plisse.errors import InputError


class WeighedTernary(Reparam):
    """x^ = alpha b, b = sign(x) where |x| > alpha / 2, else 0, alpha = sum d |x b| / sum d |b| per channel,
    found in turn and following x in training. The gradient passes unchanged. importance: d, in the shape of
    x, or None for all alike."""

    importance: Tensor | None

    def __init__(self, source: Reparam, rounds: int, importance: Tensor | None) -> None:
        super().__init__()
        self.source, self.rounds = source, rounds
        self.register_buffer("importance", importance)

    def forward(self) -> Tensor:
        values = self.source().float()
        signs, alpha = self._parts(values.detach())
        return signs * spread(alpha, values, 0) + (values - values.detach())

    def stored(self) -> Stored:
        with torch.no_grad():
            values = self.source().float()
            signs, alpha = self._parts(values)
        symbols = (signs + 1).to(torch.int32).cpu().numpy()
        levels = torch.tensor([-1.0, 0.0, 1.0]).numpy()
        return Stored(symbols, tuple(values.shape), Levels(levels, alpha.cpu().numpy()))

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        rows = (values.flatten(1) if values.dim() > 1 else values.reshape(1, -1)).double()
        mass = torch.ones_like(rows)
        if self.importance is not None:
            mass = self.importance.reshape(rows.shape).double()
            mass = torch.where(mass.sum(1, keepdim=True) > 0, mass, torch.ones_like(mass))
        size = rows.abs()
        alpha = (mass * size).sum(1) / mass.sum(1)
        for _ in range(self.rounds):
            beyond = mass * (size > alpha[:, None] / 2)
            alpha = torch.where(
                beyond.sum(1) > 0, (beyond * size).sum(1) / beyond.sum(1).clamp_min(1e-300), alpha
            )
        kept = bfloat16_through(alpha.float())
        signs = rows.sign() * (size > kept.double()[:, None] / 2)
        return signs.reshape(values.shape).float(), kept


@dataclass(frozen=True)
class LossAwareTernary:
    """x^ = alpha b with b of -1, 0, 1: what minimises sum d (x - alpha b)^2 per channel, d being the
    curvature of the loss by x, by threshold and alpha in turn (Hou and Kwok 2018, Loss-aware weight
    quantization of deep networks, LAT, algorithm 1). exact_zero: yes.

    rounds: of the alternation, at least 1. d: `Quantize(importance=Curvature())` before training, and
    `Aware(soften=LossAware())` in training.

    >>> from plisse.core.reparam import Plain
    >>> LossAwareTernary().quantized(Plain(torch.tensor([[1.0, -0.1, 0.2, -2.0]])))().detach()
    tensor([[ 1.5000,  0.0000,  0.0000, -1.5000]])
    """

    rounds: int = 10

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"{self.rounds} rounds", expected="at least 1", hint="LossAwareTernary()")

    def quantized(self, source: Reparam, importance: Tensor | None = None) -> Reparam:
        """importance: d of each value, or per input channel; None for all alike."""
        return WeighedTernary(source, self.rounds, spread_importance(importance, finite_values(source)))
