"""How many times longer a pass takes now than when it was profiled, learned from the passes themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from plisse.errors import InputError

STALL = 4.0


@dataclass
class Pace:
    """The ratio r of measured to profiled seconds, as a moving mean and mean deviation (Jacobson 1988,
    Congestion avoidance and control, section 2):

        d <- (1 - w) d + w |r - m|,    m <- (1 - w) m + w r,    bound = m + k d

    weight: w, above 0 to 1. deviations: k; with 2 the bound holds for most passes. batch: samples of the
    profiled pass. Requests of other sizes have a ratio of their own, one per power of two; until one is
    learned it is taken from the nearest size, in proportion where that is smaller. A single pass counts as
    at most STALL times the bound, so that one stall is not taken for a slow machine.

    >>> pace = Pace(weight=0.5)
    >>> for _ in range(20): pace.observe(expected=0.010, seconds=0.020)
    >>> round(pace.bound(), 3)
    2.0
    """

    weight: float = 0.2
    deviations: float = 2.0
    batch: float = 1.0
    _learned: dict[int, tuple[float, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not (0 < self.weight <= 1 and 0 <= self.deviations < math.inf and 1 <= self.batch < math.inf):
            raise InputError(
                f"weight={self.weight}, deviations={self.deviations}, batch={self.batch}",
                expected="a weight above 0 to 1, deviations from 0, a batch from 1",
            )

    def observe(self, expected: float, seconds: float, size: float = 1.0) -> None:
        """Learn from one pass of `size` samples that took `seconds` and was profiled at `expected`.

        What cannot be a time (NaN, infinite, negative) is ignored: a clock may jump.
        """
        if not (math.isfinite(seconds) and seconds >= 0 and math.isfinite(expected) and expected > 0):
            return
        mean, deviation = self._estimate(size)
        ratio = min(seconds / expected, STALL * (mean + self.deviations * deviation))
        apart = abs(ratio - mean)
        self._learned[_bucket(size)] = (
            mean + self.weight * (ratio - mean),
            deviation + self.weight * (apart - deviation),
        )

    def mean(self, size: float = 1.0) -> float:
        """The ratio to expect of a pass of `size` samples."""
        return self._estimate(size)[0]

    def bound(self, size: float = 1.0) -> float:
        """The ratio that most passes of `size` samples keep to."""
        mean, deviation = self._estimate(size)
        return mean + self.deviations * deviation

    def _estimate(self, size: float) -> tuple[float, float]:
        bucket = _bucket(size)
        if bucket in self._learned:
            return self._learned[bucket]
        known = {_bucket(self.batch): (1.0, 0.0), **self._learned}
        nearest = min(known, key=lambda other: (abs(other - bucket), other))
        grown = 2.0 ** max(0, bucket - nearest)
        mean, deviation = known[nearest]
        return mean * grown, deviation * grown


def _bucket(size: float) -> int:
    return max(0, math.ceil(math.log2(max(1.0, size))))
