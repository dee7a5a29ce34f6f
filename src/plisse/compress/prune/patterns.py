"""What is cut (pattern) and when (schedule), as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from plisse.errors import InputError
from plisse.train.optimizers import SGD, Optimizer
from plisse.train.schedules import Cubic

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
class Gradual:
    """Little by little while the network trains: at step t of T the sparsity is s ramp(t / T).

    steps: T, of training by the task's objective. every: steps between choices of masks. ramp: by default
    cubic, fast at first and slower as fewer weights are left, done after three quarters of the steps; the
    rest trains with the final masks (Zhu and Gupta 2017, "To prune, or not to prune").
    """

    steps: int = 1000
    every: int = 20
    ramp: Cubic = field(default_factory=Cubic)
    optimizer: Optimizer = field(default_factory=lambda: SGD(lr=0.01))

    def __post_init__(self) -> None:
        if self.steps < 1 or self.every < 1:
            raise InputError(
                f"Gradual(steps={self.steps}, every={self.every})", expected="at least 1 of each"
            )

    def due(self, done: int) -> bool:
        """Whether masks are chosen anew after `done` steps."""
        return done % self.every == 0 or done == self.steps

    def sparsity(self, done: int, final: float) -> float:
        """The sparsity after `done` steps.

        >>> [round(Gradual(steps=8).sparsity(done, 0.8), 2) for done in (0, 3, 6, 8)]
        [0.0, 0.7, 0.8, 0.8]
        """
        return final * self.ramp.factor(done, self.steps)


Schedule = OneShot | Gradual
