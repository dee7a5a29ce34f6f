"""Policies: what the operating point should be, as far as one concern can tell.

A policy is a frozen dataclass that is called with a `View` and gives a `Wish`, an interval of rows. It keeps
no state: hysteresis is the width of the interval, within which the active point stays what it is. Policies
are combined by taking the cheapest of their bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plisse.adapt.signals import NAMES, Signals
from plisse.cost.profile import ProfileRow
from plisse.errors import InputError


@dataclass(frozen=True)
class View:
    """What a policy sees. rows: operating points to choose from, cheapest first, each better than those
    before. seconds: what each would most likely not exceed for this request, on the machine as it is now."""

    rows: Sequence[ProfileRow]
    signals: Signals
    seconds: Sequence[float]

    @property
    def last(self) -> int:
        """The place of the best row."""
        return len(self.rows) - 1


@dataclass(frozen=True)
class Wish:
    """Places among the rows. low: below it, rise to it. high: above it, fall to it. limit: above it, fall at
    once, however short ago the last switch was. low <= high <= limit."""

    low: int
    high: int
    limit: int
    reason: str


Policy = Callable[[View], Wish]


@dataclass(frozen=True)
class Thresholds:
    """A signal cut into as many intervals as there are rows.

    signal: a name among those of `Signals`. full: its value up to which the best row runs. least: its value
    from which on the cheapest does; above `full` for a load, below it for a charge. Between them every row
    has an interval, the outer two half of one. band: width of the hysteresis around each cut, in the unit of
    the signal: while it moves by less, the point never goes back and forth. A signal that is unknown changes
    nothing.

    >>> from plisse.cost.budget import Cost
    >>> load = Thresholds("cpu", full=0.4, least=0.8, band=0.1)
    >>> rows = (ProfileRow("small", Cost(1, 1, 1, 0.1), 0.5), ProfileRow("large", Cost(2, 2, 2, 0.2), 0.6))
    >>> [load(View(rows, Signals(0.0, cpu=cpu), (0.1, 0.2))).high for cpu in (0.3, 0.64, 0.7)]
    [1, 1, 0]
    """

    signal: str = "cpu"
    full: float = 0.5
    least: float = 0.95
    band: float = 0.1

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.full, self.least, self.band)))
        if self.signal not in NAMES or not finite or self.full == self.least or self.band < 0:
            raise InputError(
                f"{self}", expected=f"one of {', '.join(NAMES)}, two different finite values, a band from 0"
            )

    def __call__(self, view: View) -> Wish:
        value = getattr(view.signals, self.signal)
        if value is None:
            return Wish(0, view.last, view.last, f"{self.signal} unknown")
        direction = 1.0 if self.least > self.full else -1.0
        worse, better = value + direction * self.band / 2, value - direction * self.band / 2
        low, high = (self._row(edge, len(view.rows)) for edge in (worse, better))
        return Wish(low, high, view.last, f"{self.signal} {value:.3g}")

    def _row(self, value: float, n_rows: int) -> int:
        """The row that is right at `value`: row n-1-i from share (i - 0.5) / (n - 1) of the way on."""
        share = (value - self.full) / (self.least - self.full)
        steps = math.floor(min(max(share, 0.0), 1.0) * (n_rows - 1) + 0.5)
        return n_rows - 1 - steps


@dataclass(frozen=True)
class Deadline:
    """The best row that is done in time, as the passes before tell.

    seconds: the deadline of requests that bring none; None: such requests may take any time. margin: the
    share of the time left that may be planned. band: the further share that must be free before it rises.
    Requests that wait behind this one share the time that is left.
    """

    seconds: float | None = None
    margin: float = 0.9
    band: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.margin <= 1 and 0 <= self.band < 1) or (
            self.seconds is not None and not 0 < self.seconds < math.inf
        ):
            raise InputError(
                f"{self}", expected="a margin above 0 to 1, a band from 0 to below 1, seconds above 0"
            )

    def __call__(self, view: View) -> Wish:
        left = view.signals.deadline if view.signals.deadline is not None else self.seconds
        if left is None:
            return Wish(view.last, view.last, view.last, "no deadline")
        allowed = max(0.0, left) / (1 + (view.signals.queue or 0))
        high = _within(view, allowed * self.margin)
        low = _within(view, allowed * self.margin * (1 - self.band))
        reason = f"{1e3 * allowed:.3g} ms left, the best takes {1e3 * view.seconds[-1]:.3g}"
        return Wish(low, high, _within(view, allowed), reason)


@dataclass(frozen=True)
class EnergySaver:
    """The best row on mains; on battery, less as it empties; less too where it gets hot.

    charge: (full, least), the charge from which the best row runs and below which only the cheapest does.
    heat: the same in degrees Celsius. Their bands are a twentieth of the way from one to the other, at least.
    What the device does not have asks for nothing.
    """

    charge: tuple[float, float] = (0.5, 0.15)
    heat: tuple[float, float] = (75.0, 90.0)
    band: float = 0.05
    heat_band: float = 3.0

    def __post_init__(self) -> None:
        if not (self.charge[0] > self.charge[1] and self.heat[0] < self.heat[1]):
            raise InputError(
                f"{self}", expected="a charge that falls and a heat that rises from full to least"
            )
        self._parts()

    def __call__(self, view: View) -> Wish:
        battery, heat = self._parts()
        found = [Wish(view.last, view.last, view.last, "on mains" if view.signals.plugged else "no battery")]
        if view.signals.battery is not None and not view.signals.plugged:
            found = [battery(view)]
        if view.signals.temperature is not None:
            found.append(heat(view))
        return combined(found)

    def _parts(self) -> tuple[Thresholds, Thresholds]:
        return (
            Thresholds("battery", *self.charge, band=self.band),
            Thresholds("temperature", *self.heat, band=self.heat_band),
        )


def combined(wishes: Sequence[Wish]) -> Wish:
    """The cheapest of every bound; the reason is that of the wish that asks for the least.

    >>> combined((Wish(2, 2, 2, "no deadline"), Wish(0, 1, 2, "cpu 0.7")))
    Wish(low=0, high=1, limit=2, reason='cpu 0.7')
    """
    least = min(wishes, key=lambda wish: (wish.high, wish.limit, wish.low))
    limit = min(wish.limit for wish in wishes)
    high = min(limit, min(wish.high for wish in wishes))
    return Wish(min(high, min(wish.low for wish in wishes)), high, limit, least.reason)


def _within(view: View, seconds: float) -> int:
    """The best row that takes at most `seconds`; the cheapest where none does."""
    return max((place for place, taken in enumerate(view.seconds) if taken <= seconds), default=0)
