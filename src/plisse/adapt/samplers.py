"""Which operating points one training step sees, and how training grows towards the cheap end.

What is drawn comes from torch's generator, which `fit` seeds anew for every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from plisse.adapt.elastic import Point, Space
from plisse.errors import InputError

Sampler = Callable[[Space], tuple[Point, ...]]
Warmup = Callable[[Space, Point, float], Point]


@dataclass(frozen=True)
class Uniform:
    """n points, uniform over the range (LCS with a point subspace)."""

    n: int = 1

    def __call__(self, space: Space) -> tuple[Point, ...]:
        return tuple(_anywhere(space) for _ in range(self.n))


@dataclass(frozen=True)
class Listed:
    """n points, each of the listed ones with equal chance (LCS, bits)."""

    n: int = 1

    def __call__(self, space: Space) -> tuple[Point, ...]:
        picks = torch.randint(len(space.points), (self.n,)).tolist()
        return tuple(space.points[pick] for pick in picks)


@dataclass(frozen=True)
class BiasedEndpoints:
    """One point: with chance `ends` an end of the range, either alike, else anywhere (LCS, line)."""

    ends: float = 0.5

    def __call__(self, space: Space) -> tuple[Point, ...]:
        draw = float(torch.rand(()))
        if draw < self.ends / 2:
            return (space.smallest,)
        return (space.largest,) if draw < self.ends else (_anywhere(space),)


@dataclass(frozen=True)
class Sandwich:
    """The largest point first, the smallest last, and n - 2 anywhere between (Yu and Huang 2019).

    listed: the largest first, and n - 1 of the listed points, where listing many of a kind makes them count
    for more: half of SPARSITIES are 0.85 and above, where a network needs the training."""

    n: int = 4
    listed: bool = False

    def __post_init__(self) -> None:
        if self.n < 2:
            raise InputError(f"a sandwich of {self.n}", expected="at least 2")

    def __call__(self, space: Space) -> tuple[Point, ...]:
        if self.listed:
            return (space.largest, *Listed(self.n - 1)(space))
        return (space.largest, *(_anywhere(space) for _ in range(self.n - 2)), space.smallest)


@dataclass(frozen=True)
class Decay:
    """For the first `share` of training, points are moved towards the largest: all the way at the start, a
    little at the end (LCS, unstructured)."""

    share: float = 0.8

    def __call__(self, space: Space, point: Point, progress: float) -> Point:
        far = 1.0 if self.share <= 0 else min(progress / self.share, 1.0)
        top = space.largest.value
        value = top + (point.value - top) * far
        return Point(point.axis, float(round(value)) if space.ranges[0].whole else value, point.also)


@dataclass(frozen=True)
class Hold:
    """For the first `share` of training, the largest point only (LCS, point subspaces)."""

    share: float = 0.8

    def __call__(self, space: Space, point: Point, progress: float) -> Point:
        return space.largest if progress < self.share else point


@dataclass(frozen=True)
class NoWarmup:
    """Every point from the start."""

    def __call__(self, space: Space, point: Point, progress: float) -> Point:
        return point


@dataclass(frozen=True)
class Schedule:
    """What `SubspaceObjective` asks in each step: points by `sampler`, moved by `warmup`, each once."""

    sampler: Sampler = field(default_factory=Sandwich)
    warmup: Warmup = field(default_factory=NoWarmup)

    def points(self, space: Space, progress: float) -> tuple[Point, ...]:
        """progress: share of training that is done, 0 to 1."""
        return tuple(dict.fromkeys(self.warmup(space, point, progress) for point in self.sampler(space)))


def _anywhere(space: Space) -> Point:
    """A point with every axis uniform over its range."""
    settings = {}
    for bounds in space.ranges:
        draw = float(torch.rand(()))
        if bounds.whole:
            settings[bounds.axis] = float(int(bounds.low + draw * (bounds.high - bounds.low + 1)))
        else:
            settings[bounds.axis] = bounds.low + draw * (bounds.high - bounds.low)
    return Point.of(**settings)
