"""What is cut (pattern) and when (schedule), as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from plisse.errors import InputError
from plisse.train.optimizers import SGD, Optimizer

Scope = Literal["global", "layer"]


@dataclass(frozen=True)
class Unstructured:
    """Single weights, anywhere."""


@dataclass(frozen=True)
class NM:
    """Exactly n of m neighbouring weights are kept, along each flattened row of a weight [C, ...].

    The sparsity is 1 - n/m. Embeddings and rows whose length is no multiple of m stay dense.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise InputError(f"NM(n={self.n}, m={self.m})", expected="0 < n < m", hint="NM(n=2, m=4)")


@dataclass(frozen=True)
class Channels:
    """Whole channels and everything that depends on them, physically removed.

    round_to: the number of channels that stay is a multiple of this, where a layer has that many.
    """

    round_to: int = 1

    def __post_init__(self) -> None:
        if self.round_to < 1:
            raise InputError(f"Channels(round_to={self.round_to})", expected="at least 1")


Pattern = Unstructured | NM | Channels


@dataclass(frozen=True)
class OneShot:
    """All at once, without training."""


@dataclass(frozen=True)
class Cubic:
    """Little by little while the network trains: s_t = s (1 - (1 - t / T)^3), T = `ramp` of the steps.

    Fast at first, slower as fewer weights are left; masks are chosen anew `every` steps, and the rest of the
    steps trains with the final mask (Zhu and Gupta 2017, "To prune, or not to prune").
    """

    steps: int = 1000
    every: int = 20
    ramp: float = 0.7
    optimizer: Optimizer = field(default_factory=lambda: SGD(lr=0.01))

    def __post_init__(self) -> None:
        if self.steps < 1 or self.every < 1 or not 0 < self.ramp <= 1:
            raise InputError(f"{self}", expected="steps >= 1, every >= 1, 0 < ramp <= 1")

    def sparsity(self, step: int, final: float) -> float:
        """The sparsity from `step` (0 .. steps - 1) on.

        >>> [round(Cubic(steps=10, ramp=1.0).sparsity(step, 0.8), 2) for step in (0, 5, 10)]
        [0.0, 0.7, 0.8]
        """
        done = min(step / (self.ramp * self.steps), 1.0)
        return final * (1 - (1 - done) ** 3)


Schedule = OneShot | Cubic
