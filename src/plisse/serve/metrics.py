"""What the service has done so far: counts, times, and the last requests; also as Prometheus reads it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
KEPT_REQUESTS = 600
GAUGES = {
    "slowdown_ratio": "Seconds of a pass now over those of the profile, as the governor has learned.",
    "unfinished": "Predictions that run or wait.",
    "forced": "1 while a point is forced by hand.",
    "uptime_seconds": "Seconds since the start.",
    "signal_cpu": "Share of all cores that is busy.",
    "signal_others": "Share of all cores that other processes keep busy.",
    "signal_pressure": "Share of time in which some task waited for a core.",
    "signal_memory": "Share of memory in use.",
    "signal_battery": "Charge of the battery, 0 to 1.",
    "signal_plugged": "1 on mains, 0 on battery.",
    "signal_temperature": "Degrees Celsius of the hottest sensor.",
    "signal_queue": "Requests that waited behind the last one.",
    "signal_deadline": "Seconds that the last request might still take.",
}


@dataclass(frozen=True)
class Served:
    """One prediction. number: counted from 1. at: seconds since the start. seconds: from its arrival to its
    answer. deadline: in seconds, None for none."""

    number: int
    at: float
    seconds: float
    deadline: float | None
    point: str
    samples: int

    @property
    def missed(self) -> bool:
        return self.deadline is not None and self.seconds > self.deadline


@dataclass
class Metrics:
    """Counts and times; may be written and read by several threads."""

    started: float = field(default_factory=time.monotonic)
    answers: Counter[int] = field(default_factory=Counter, init=False)
    served: Counter[str] = field(default_factory=Counter, init=False)
    samples: Counter[str] = field(default_factory=Counter, init=False)
    deadlines: Counter[str] = field(default_factory=Counter, init=False)
    recent: deque[Served] = field(default_factory=lambda: deque(maxlen=KEPT_REQUESTS), init=False)
    _buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1), init=False)
    _sums: dict[str, float] = field(default_factory=lambda: {"latency": 0.0, "switch": 0.0}, init=False)
    _switches: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def answered(self, status: int) -> None:
        """Count an HTTP answer."""
        with self._lock:
            self.answers[status] += 1

    def predicted(
        self, seconds: float, deadline: float | None, point: str, samples: int, switching: float
    ) -> Served:
        """Count a prediction. switching: seconds of the switch before it, 0 without one."""
        with self._lock:
            at = time.monotonic() - self.started
            row = Served(sum(self.served.values()) + 1, at, seconds, deadline, point, samples)
            self.served[point] += 1
            self.samples[point] += samples
            if deadline is not None:
                self.deadlines["missed" if row.missed else "met"] += 1
            self._buckets[sum(seconds > bound for bound in BUCKETS)] += 1
            self._sums["latency"] += seconds
            self._sums["switch"] += switching
            self._switches += switching > 0
            self.recent.append(row)
            return row

    def since(self, number: int) -> list[Served]:
        """The predictions after number `number`, as far as they are kept."""
        with self._lock:
            return [row for row in self.recent if row.number > number]

    def totals(self) -> dict[str, int]:
        """Predictions so far, and how many of those with a deadline missed it."""
        with self._lock:
            kept, missed = self.deadlines["met"], self.deadlines["missed"]
            return {"predictions": sum(self.served.values()), "deadlines": kept + missed, "missed": missed}

    def prometheus(self, gauges: Mapping[str, float], points: Iterable[str], active: str) -> str:
        """Everything in the text format of Prometheus, version 0.0.4.

        gauges: further values of the moment, by name. points: all labels; active: the one that runs.
        """
        with self._lock:
            latency = [*_histogram("plisse_latency_seconds", self._buckets, self._sums["latency"])]
            parts = [
                _family("answers_total", "counter", "HTTP answers by status.", _by("status", self.answers)),
                _family("predictions_total", "counter", "Predictions by point.", _by("point", self.served)),
                _family("samples_total", "counter", "Samples by point.", _by("point", self.samples)),
                _family("deadlines_total", "counter", "Deadlines met, missed.", _by("met", self._met())),
                _family("switches_total", "counter", "Switches of the point.", [("", self._switches)]),
                _family("switch_seconds_total", "counter", "Spent switching.", [("", self._sums["switch"])]),
                ["# HELP plisse_latency_seconds From arrival to answer.",
                 "# TYPE plisse_latency_seconds histogram", *latency],
            ]  # fmt: skip
        running = [(_label("point", label), float(label == active)) for label in points]
        parts.append(_family("point", "gauge", "1 for the point that runs.", running))
        parts += [_family(name, "gauge", GAUGES[name], [("", value)]) for name, value in gauges.items()]
        return "\n".join(line for part in parts for line in part) + "\n"

    def _met(self) -> dict[str, int]:
        return {"true": self.deadlines["met"], "false": self.deadlines["missed"]}


def _family(name: str, kind: str, words: str, rows: Iterable[tuple[str, float]]) -> list[str]:
    head = [f"# HELP plisse_{name} {words}", f"# TYPE plisse_{name} {kind}"]
    return head + [f"plisse_{name}{label} {_number(value)}" for label, value in rows]


def _histogram(name: str, buckets: list[int], total: float) -> Iterable[str]:
    count = 0
    for bound, number in zip((*BUCKETS, None), buckets, strict=True):
        count += number
        yield f'{name}_bucket{{le="{"+Inf" if bound is None else bound}"}} {count}'
    yield f"{name}_sum {_number(total)}"
    yield f"{name}_count {count}"


def _by(key: str, counts: Mapping[Any, int]) -> list[tuple[str, float]]:
    return [(_label(key, str(value)), number) for value, number in sorted(counts.items())]


def _label(key: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{{key}="{escaped}"}}'


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
