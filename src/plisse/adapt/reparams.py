"""Weights that depend on the operating point: on a line between two endpoints, or read from a table."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from plisse.adapt.elastic import Point, Space
from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, raw


class Dial:
    """The operating point that the weights of a subspace are computed for; all of them read one dial.

    ends: values of alpha 0 and alpha 1 on lines; those of the cheapest and the dearest listed point where
    nothing else is said (a file that ends early lists fewer points than its lines were trained for).
    """

    def __init__(self, space: Space, ends: tuple[float, float] | None = None) -> None:
        self.space = space
        self.point: Point = space.largest
        self._between: tuple[Space, Point, tuple[int, int, float]] | None = None
        self.ends = ends or (space.smallest.value, space.largest.value)

    @property
    def value(self) -> float:
        """Where the dial stands on its axis."""
        return self.point.value

    @property
    def between(self) -> tuple[int, int, float]:
        """Between which listed points the dial stands, as `between` gives it."""
        if self._between is None or self._between[0] is not self.space or self._between[1] is not self.point:
            self._between = self.space, self.point, between(self.space.points, self.value)
        return self._between[2]

    @property
    def alpha(self) -> float:
        """Position between the ends: 0 for the cheapest point, 1 for the dearest."""
        start, end = self.ends
        return 1.0 if start == end else (self.value - start) / (end - start)


class Line(Reparam):
    """w(alpha) = (1 - alpha) w0 + alpha w1: endpoint 0 for the cheapest point, endpoint 1 for the dearest.

    Source: Nunez et al. 2021 (LCS), after Wortsman et al. 2021.
    """

    def __init__(self, start: Reparam, end: Reparam, dial: Dial) -> None:
        super().__init__()
        self.start, self.end, self.dial = start, end, dial

    def forward(self) -> Tensor:
        return torch.lerp(self.start(), self.end(), self.dial.alpha)

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy())


class Tabled(Reparam):
    """A row of a table [P, ...], one for each listed point; between two of them, the interpolation of both.

    values: of float32. Not trained.
    """

    values: Tensor

    def __init__(self, values: Tensor, dial: Dial) -> None:
        super().__init__()
        self.register_buffer("values", values.detach().clone())
        self.dial = dial

    def forward(self) -> Tensor:
        below, above, share = self.dial.between
        return self.values[below] if share == 0 else torch.lerp(self.values[below], self.values[above], share)

    def stored(self) -> Stored:
        return raw(self.forward().cpu().numpy())


class Held(Reparam):
    """A tensor as a file holds it; not trained."""

    value: Tensor

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self._stored = stored
        self.register_buffer("value", torch.from_numpy(stored.values().copy()))

    def forward(self) -> Tensor:
        return self.value

    def stored(self) -> Stored:
        return self._stored


def between(points: Sequence[Point], value: float) -> tuple[int, int, float]:
    """The listed points on both sides of `value`, as positions, and how far it is from the first to the
    second (0 to 1). Points are in order of their values, rising or falling; beyond an end, that end.

    >>> between([Point("width", 0.25), Point("width", 0.5), Point("width", 1.0)], 0.75)
    (1, 2, 0.5)
    """
    values = [point.value for point in points]
    for position, here in enumerate(values):
        if abs(value - here) < 1e-9:
            return position, position, 0.0
    for position, (one, other) in enumerate(itertools.pairwise(values)):
        if min(one, other) < value < max(one, other):
            return position, position + 1, (value - one) / (other - one)
    end = 0 if abs(value - values[0]) < abs(value - values[-1]) else len(values) - 1
    return end, end, 0.0


def on_line(inner: Reparam, dial: Dial, spread: float = 0.0, seed: int = 0) -> Line:
    """A line whose dear endpoint is `inner` and whose cheap one is a copy of it, moved by normal noise of
    `spread` times the deviation of its values."""
    start = copy.deepcopy(inner)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in start.parameters():
            if spread and value.numel() > 1:
                noise = torch.randn(value.shape, generator=generator).to(value)
                value.add_(spread * value.std() * noise)
    return Line(start, inner, dial)
