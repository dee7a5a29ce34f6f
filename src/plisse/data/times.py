"""When frames are shown: containers tell it in whole ticks, which a constant rate seldom falls on."""

from __future__ import annotations

from fractions import Fraction


class Clock:
    """Exact times of frames, in order.

    rate: frames per second. tick: seconds that the container counts in, 1/1000 in Matroska. As long as all
    frames so far lie where a constant rate, rounded to ticks, puts them, their times are those of the rate:
    differences from it spread by less than a tick. From the first frame on that does not, times are what
    the container tells.

    >>> clock = Clock(Fraction(30), Fraction(1, 1000))
    >>> [str(clock.time(index, ticks)) for index, ticks in enumerate([0, 33, 67, 150])]
    ['0', '1/30', '1/15', '3/20']
    """

    def __init__(self, rate: Fraction, tick: Fraction) -> None:
        self.rate, self.tick = rate, tick
        self.low = self.high = Fraction(0)

    def time(self, index: int, ticks: int | None) -> Fraction:
        """Seconds from the first frame to frame `index`. ticks: the same as told, None where nothing is."""
        even = index / self.rate
        if ticks is None:
            return even
        off = ticks * self.tick - even
        self.low, self.high = min(self.low, off), max(self.high, off)
        return even if self.high - self.low < self.tick else even + off
