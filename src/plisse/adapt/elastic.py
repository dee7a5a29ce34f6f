"""Elastic networks: operating points, the space of admissible ones, and what switches between them."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import nn

from plisse.core import modules
from plisse.errors import InputError

Axis = Literal["width", "sparsity", "bits"]
AXES: tuple[str, ...] = get_args(Axis)

NEAR = 1e-9
KEPT_NETWORKS = 16


@dataclass(frozen=True)
class Point:
    """An operating point: where on an axis, and where on further ones.

    axis: "width" (share of channels that compute, above 0 to 1), "sparsity" (share of zeros, 0 to below 1) or
    "bits" (of weights and activations, whole). also: settings on other axes.

    >>> str(Point("width", 0.5))
    'width=0.5'
    >>> Point.parse("bits=4, width=0.5") == Point("width", 0.5, (Point("bits", 4),))
    True
    """

    axis: str
    value: float
    also: tuple[Point, ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{axis}={value:g}" for axis, value in self.settings.items())

    @property
    def settings(self) -> dict[str, float]:
        """Value by axis, this point's own first."""
        return {self.axis: self.value, **{other.axis: other.value for other in self.also}}

    @classmethod
    def of(cls, **settings: float) -> Point:
        """A point from values by axis, in the order of AXES: `Point.of(width=0.5, bits=4)`."""
        if unknown := sorted(set(settings) - set(AXES)):
            raise InputError(f"axis {unknown[0]!r}", expected=f"one of {', '.join(AXES)}", hint="width=0.5")
        if not settings:
            raise InputError("a point without a value", expected="axis=value", hint="width=0.5")
        first, *rest = [cls(axis, settings[axis]) for axis in AXES if axis in settings]
        return cls(first.axis, first.value, tuple(rest))

    @classmethod
    def parse(cls, text: str) -> Point:
        """Read "axis=value" parts, separated by commas. Raises InputError with the part not understood."""
        settings: dict[str, float] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            axis, _, number = (piece.strip() for piece in part.partition("="))
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if axis not in AXES or axis in settings or not math.isfinite(value):
                raise InputError(
                    f"point {part!r}",
                    expected=f"one of {', '.join(AXES)} once, as axis=number",
                    hint="width=0.5",
                )
            settings[axis] = value
        return cls.of(**settings)


@dataclass(frozen=True)
class Range:
    """Values from `low` to `high` on an axis; whole: only whole numbers."""

    axis: str
    low: float
    high: float
    whole: bool = False

    def admits(self, value: float) -> bool:
        inside = math.isfinite(value) and self.low - NEAR <= value <= self.high + NEAR
        return inside and not (self.whole and abs(value - round(value)) > NEAR)

    def __str__(self) -> str:
        return f"{self.axis} {'a whole number ' if self.whole else ''}from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Space:
    """The admissible points: one value from each range. points: those that were trained, measured and listed,
    cheapest first; between them tables are interpolated.

    >>> space = Space((Range("width", 0.25, 1.0),), (Point("width", 0.25), Point("width", 1.0)))
    >>> str(space.largest), space.check(Point("width", 0.4)).value
    ('width=1', 0.4)
    """

    ranges: tuple[Range, ...]
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if not self.ranges or not self.points:
            raise InputError("a space without ranges or points", expected="at least one of each")
        for point in self.points:
            self.check(point)

    def check(self, point: Point) -> Point:
        """The point itself. Raises InputError where it is not admissible."""
        if not isinstance(point, Point):
            raise InputError(f"{point!r}", expected="a Point", hint=f"Point.parse({str(self.largest)!r})")
        settings = point.settings
        fits = set(settings) == {bounds.axis for bounds in self.ranges}
        if not fits or not all(bounds.admits(settings[bounds.axis]) for bounds in self.ranges):
            expected = " and ".join(str(bounds) for bounds in self.ranges)
            raise InputError(f"point {str(point)!r}", expected=expected, hint=str(self.largest))
        return point

    @property
    def smallest(self) -> Point:
        """The cheapest listed point."""
        return self.points[0]

    @property
    def largest(self) -> Point:
        """The dearest listed point."""
        return self.points[-1]


class Elastic(Protocol):
    """One set of weights, many networks.

    `activate` needs no data and no training, and is safe beside calls and activations in other threads: a
    call runs as a whole at one point. `extract` gives a plain network of its own tensors, equal to the
    activated one in every output. Both raise InputError for a point outside `space`. Points that are later
    in `space.points` cost no less.
    """

    @property
    def space(self) -> Space: ...

    @property
    def point(self) -> Point: ...

    def activate(self, point: Point) -> None: ...

    def extract(self, point: Point) -> nn.Module: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Switching:
    """An `Elastic` that makes the network of a point once and then switches between finished networks.

    make: the plain network at a point; it may share tensors with others, since none is changed afterwards.
    extract: the same with tensors of its own; a copy of what `make` gives for None. point: active at the
    start; None for the largest. keep: networks held at most; the one used longest ago
    goes first. A switch to a network that is held swaps one reference.
    """

    def __init__(
        self,
        space: Space,
        make: Callable[[Point], nn.Module],
        *,
        extract: Callable[[Point], nn.Module] | None = None,
        point: Point | None = None,
        keep: int = KEPT_NETWORKS,
    ) -> None:
        if keep < 1:
            raise InputError(f"keep={keep}", expected="at least one network")
        self._space, self._make, self._extract, self._keep = space, make, extract, keep
        self._held: OrderedDict[Point, nn.Module] = OrderedDict()
        self._lock = threading.RLock()
        first = space.largest if point is None else point
        self._active = (first, self._network(first))

    @property
    def space(self) -> Space:
        return self._space

    @property
    def point(self) -> Point:
        return self._active[0]

    @property
    def network(self) -> nn.Module:
        """The active network; do not change its tensors."""
        return self._active[1]

    def activate(self, point: Point) -> None:
        """Run at `point` from the next call on. Calls that have begun end where they began."""
        self._active = (point, self._network(point))

    def extract(self, point: Point) -> nn.Module:
        """The plain network at `point`, with its own tensors, in evaluation mode."""
        if self._extract is not None:
            return _at_rest(self._extract(self._space.check(point)))
        return modules.clone(self._network(point))

    def prepare(self, points: Iterable[Point]) -> None:
        """Make the networks of `points` now, so that switching to them later costs microseconds."""
        for point in points:
            self._network(point)

    def forget(self) -> None:
        """Drop every network that is held but the active one."""
        with self._lock:
            point, network = self._active
            self._held = OrderedDict({point: network})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._active[1](*args, **kwargs)

    def _network(self, point: Point) -> nn.Module:
        self._space.check(point)
        with self._lock:
            if point not in self._held:
                self._held[point] = _at_rest(self._make(point))
                while len(self._held) > self._keep:
                    self._held.popitem(last=False)
            self._held.move_to_end(point)
            return self._held[point]


def _at_rest(network: nn.Module) -> nn.Module:
    """In evaluation mode and without gradients, in place; quick where it is so already."""
    first = next(network.parameters(), None)
    if network.training or (first is not None and first.requires_grad):
        network.eval().requires_grad_(False)
    return network
