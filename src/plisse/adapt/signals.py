"""What the device says about itself at one moment, and how to ask it without ever failing."""

from __future__ import annotations

import json
import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from plisse.errors import InputError

LOG = logging.getLogger("plisse.adapt")

Reading = Mapping[str, float | None]
Source = Callable[[], Reading]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Signals:
    """One look at the device; None is what is not known.

    time: seconds of a monotonic clock. cpu: share of all cores busy, 0 to 1. others: the same without this
    process. pressure: share of time in which some task waited for a core, 0 to 1. memory: share of memory in
    use, 0 to 1. battery: charge, 0 to 1. plugged: 1 on mains, 0 on battery. temperature: of the hottest
    sensor, degrees Celsius. queue: requests that wait behind this one. deadline: seconds that this request
    may still take. size: samples in this request.

    >>> Signals(0.0, cpu=0.5).known()
    {'cpu': 0.5, 'size': 1.0}
    """

    time: float
    cpu: float | None = None
    others: float | None = None
    pressure: float | None = None
    memory: float | None = None
    battery: float | None = None
    plugged: float | None = None
    temperature: float | None = None
    queue: float | None = None
    deadline: float | None = None
    size: float = 1.0

    def known(self) -> dict[str, float]:
        """Everything but the time that has a value."""
        values = {name: getattr(self, name) for name in NAMES}
        return {name: value for name, value in values.items() if value is not None}


NAMES = tuple(item.name for item in fields(Signals) if item.name != "time")
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("cpu", "others", "pressure", "memory", "battery", "plugged"), (0.0, 1.0)),
    "temperature": (-100.0, 200.0),
    "queue": (0.0, math.inf),
    "deadline": (-math.inf, math.inf),
    "size": (1.0, math.inf),
}


def signals(at: float, reading: Reading) -> Signals:
    """A `Signals` of a reading.

    Raises InputError for an unknown name and for a value that is not finite or out of its range.

    >>> signals(2.0, {"battery": 0.4, "plugged": 0}).plugged
    0.0
    """
    return Signals(at, **{name: value for name, value in _checked(reading).items() if value is not None})


@dataclass
class Sensors:
    """Reads all sources into one `Signals`; no source can stop it.

    sources: name to source. A source that raises, or gives what no signal can be, is logged once; its last
    good values serve for `hold` seconds and count as unknown after that. It is asked again every `retry`
    seconds, and its return is logged too. Not for several threads at once.

    >>> sensors = Sensors({"load": lambda: {"cpu": 0.25}}, clock=lambda: 7.0)
    >>> sensors.read()
    Signals(time=7.0, cpu=0.25, others=None, pressure=None, memory=None, battery=None, plugged=None, \
temperature=None, queue=None, deadline=None, size=1.0)
    """

    sources: Mapping[str, Source]
    hold: float = 5.0
    retry: float = 5.0
    clock: Clock = time.monotonic
    failed: dict[str, str] = field(default_factory=dict, init=False)
    _kept: dict[str, tuple[float, dict[str, float | None]]] = field(default_factory=dict, init=False)
    _ask_again: dict[str, float] = field(default_factory=dict, init=False)

    def read(self) -> Signals:
        """What the sources say now, or said last."""
        now = self.clock()
        found: dict[str, float] = {}
        for name, source in self.sources.items():
            if now >= self._ask_again.get(name, now):
                self._ask(name, source, now)
            at, values = self._kept.get(name, (now, {}))
            if name not in self.failed or now - at <= self.hold:
                found.update({key: value for key, value in values.items() if value is not None})
        return Signals(now, **found)

    def _ask(self, name: str, source: Source, now: float) -> None:
        try:
            values = _checked(source())
        except Exception as error:  # a broken driver must not stop the service
            reason = f"{type(error).__name__}: {error}"
            if name not in self.failed:
                LOG.warning(
                    "signal source %r failed (%s); its last values serve %g s", name, reason, self.hold
                )
            self.failed[name] = reason
            self._ask_again[name] = now + self.retry
            return
        if self.failed.pop(name, None):
            LOG.warning("signal source %r is back", name)
        self._ask_again.pop(name, None)
        self._kept[name] = (now, values)


@dataclass(frozen=True)
class Recorded:
    """A source that plays a trace back: the last row at or before the time since it was first read.

    rows: (seconds from the start, reading), in order of time. clock: seconds; tests give their own. Before
    the first row, and with `loop` of zero after the last, the first and the last row serve. loop: seconds
    after which it starts again.

    >>> now = iter([100.0, 101.0, 103.0])
    >>> source = Recorded(((0.0, {"cpu": 0.1}), (2.0, {"cpu": 0.9})), clock=lambda: next(now))
    >>> [source()["cpu"] for _ in range(3)]
    [0.1, 0.1, 0.9]
    """

    rows: Sequence[tuple[float, Reading]]
    clock: Clock = time.monotonic
    loop: float = 0.0
    _start: list[float] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        times = [at for at, _ in self.rows]
        if not times or times != sorted(times) or not all(map(math.isfinite, times)):
            raise InputError(f"a trace of {len(times)} rows", expected="at least one row, times in order")

    def __call__(self) -> Reading:
        now = self.clock()
        if not self._start:
            self._start.append(now)
        since = now - self._start[0]
        if self.loop > 0:
            since %= self.loop
        place = bisect_right(self.rows, since, key=lambda row: row[0])
        return self.rows[max(0, place - 1)][1]


@dataclass(frozen=True)
class Simulated:
    """A source that is a function of the time.

    >>> Simulated(lambda t: {"cpu": 0.9 if t % 10 < 5 else 0.1}, clock=lambda: 12.0)()
    {'cpu': 0.9}
    """

    at: Callable[[float], Reading]
    clock: Clock = time.monotonic

    def __call__(self) -> Reading:
        return self.at(self.clock())


def read_trace(path: str | Path) -> list[tuple[float, Reading]]:
    """The signals of a decision log, or of any file of JSON lines with "time" and "signals", as a trace.

    Times start at zero. Raises InputError with the number of the line that is not understood.
    """
    rows: list[tuple[float, Reading]] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
            rows.append((float(row["time"]), _checked(row["signals"])))
        except (ValueError, TypeError, KeyError, AttributeError, InputError, RecursionError) as error:
            raise InputError(
                f"line {number} of {str(path)!r} ({error})", expected='{"time": seconds, "signals": {...}}'
            ) from error
    start = rows[0][0] if rows else 0.0
    return [(at - start, reading) for at, reading in rows]


def _lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r}: {error}", expected="a readable file of JSON lines") from error
    return [line for line in text.splitlines() if line.strip()]


def _checked(reading: Any) -> dict[str, float | None]:
    """The reading as floats. Raises InputError for what no signal can be."""
    found: dict[str, float | None] = {}
    for name, value in reading.items():
        if name not in RANGES:
            raise InputError(f"signal {name!r}", expected=f"one of {', '.join(NAMES)}")
        low, high = RANGES[name]
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InputError(f"{name}={value}", expected=f"a finite number from {low:g} to {high:g}")
        found[name] = None if value is None else float(value)
    return found
