"""Ramps over training: factors of the learning rate, and the share of a target that a method has reached."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """Contract: a frozen dataclass; `factor(step, steps)` is finite for 0 <= step <= steps."""

    def factor(self, step: int, steps: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """factor = 1."""

    def factor(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up to 1, then half a cosine period down to `final` (Loshchilov and Hutter 2017, SGDR).

    warmup: share of the steps, 0 to 1. final: factor after the last step, usually 0 to 1.

    >>> [round(Cosine(warmup=0.5).factor(step, 8), 2) for step in (0, 3, 4, 6, 8)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """

    warmup: float = 0.05
    final: float = 0.0

    def factor(self, step: int, steps: int) -> float:
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True)
class Cubic:
    """Share of a final sparsity: 1 - (1 - t)^3, fast first, slow last (Zhu and Gupta 2017, eq. 1).

    t runs from 0 to 1 between the shares `begin` and `end` of the steps; the factor is 0 before, 1 after.

    >>> ramp = Cubic(begin=0.0, end=0.5)
    >>> [ramp.factor(step, 100) for step in (0, 25, 50, 100)]
    [0.0, 0.875, 1.0, 1.0]
    """

    begin: float = 0.0
    end: float = 0.75

    def factor(self, step: int, steps: int) -> float:
        first, last = self.begin * steps, self.end * steps
        if step >= last:
            return 1.0
        t = (step - first) / (last - first) if step > first else 0.0
        return 1.0 - (1.0 - t) ** 3
