"""One axis of a chart: from values to pixels, with ticks where people expect them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """low, high: the range in values; start, stop: where they fall, in pixels (stop < start for y)."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`.

        >>> Axis(1, 100, 0, 200, log=True)(10)
        100.0
        """
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def axis(values: Sequence[float], start: float, stop: float, *, log: bool, margin: float = 0.06) -> Axis:
    """An axis over the range of `values` and a margin (share of the range) on both sides."""
    to: Callable[[float], float] = math.log10 if log else float
    low, high = to(min(values)), to(max(values))
    room = margin * (high - low) or (0.1 if log else abs(high) * 0.1 or 1.0)
    low, high = low - room, high + room
    return Axis(10**low, 10**high, start, stop, log=True) if log else Axis(low, high, start, stop)


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in the range, or 1, 2, 5 times them, or finer steps where the range is narrow.

    >>> log_ticks(3, 4000)
    [10.0, 100.0, 1000.0]
    >>> log_ticks(8000, 90000)
    [10000.0, 20000.0, 50000.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        found = [factor * 10.0**power for power in decades for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 6)]
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """About five round numbers.

    >>> linear_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor((high - first * step) / step + 1e-9) + 1
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round((first + index) * step, digits) for index in range(count)]
