"""What the service consists of, and what it tells about itself as plain data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plisse.adapt.governor import Governor
from plisse.adapt.watch import Watch
from plisse.core.batch import Inputs
from plisse.cost.profile import Profile, frontier
from plisse.serve.limits import Limits
from plisse.serve.metrics import Metrics
from plisse.serve.parsing import Form
from plisse.serve.worker import Worker

DECISIONS_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Service:
    """worker: runs predictions. watch: reads the device. form: what inputs look like. title: of the page.
    hosts: names that requests may be addressed to, None for any."""

    worker: Worker
    watch: Watch
    form: Form
    title: str = "Plissé"
    hosts: frozenset[str] | None = None
    started: float = field(default_factory=time.time)

    @property
    def governor(self) -> Governor:
        return self.worker.run.governor

    @property
    def profile(self) -> Profile:
        return self.governor.profile

    @property
    def limits(self) -> Limits:
        return self.worker.limits

    @property
    def metrics(self) -> Metrics:
        return self.worker.metrics

    def points(self) -> dict[str, Any]:
        """The profile, smallest file first, and which point runs."""
        best = {row.point for row in frontier(self.profile.rows, by="latency")}
        rows = [
            {**dataclasses.asdict(row), "frontier": row.point in best}
            for row in sorted(self.profile.rows, key=lambda row: (row.cost.bytes, row.cost.latency or 0.0))
        ]
        return {"points": rows, "conditions": dict(self.profile.conditions), **self.running()}

    def running(self) -> dict[str, Any]:
        """The active point and the one that was forced, if any."""
        governor = self.governor
        return {"point": governor.point or None, "forced": governor.forced}

    def state(self, since: int) -> dict[str, Any]:
        """Everything that the page shows live; `since` is the number of the last prediction that it knows."""
        seen, governor = self.watch.latest(), self.governor
        return {
            **self.running(),
            "time": time.monotonic() - self.metrics.started,
            "signals": seen.known(),
            "failed": dict(self.watch.sensors.failed),
            "slowdown": governor.slowdown,
            "expected": {row.point: governor.expected(row.point) for row in self.profile.rows},
            "deadline": self.worker.deadline,
            "unfinished": self.worker.unfinished,
            **self.metrics.totals(),
            "recent": [dataclasses.asdict(row) for row in self.metrics.since(since)],
            "decisions": [
                {"ago": seen.time - one.time, "point": one.point, "before": one.before, "reason": one.reason}
                for one in list(governor.decisions)[-DECISIONS_SHOWN:]
            ],
        }

    def prometheus(self) -> str:
        """All metrics as text."""
        known = self.watch.latest().known()
        gauges: Mapping[str, float] = {
            **{f"signal_{name}": value for name, value in known.items() if name != "size"},
            "slowdown_ratio": self.governor.slowdown,
            "unfinished": float(self.worker.unfinished),
            "forced": float(self.governor.forced is not None),
            "uptime_seconds": time.monotonic() - self.metrics.started,
        }
        labels = [row.point for row in self.profile.rows]
        return self.metrics.prometheus(gauges, labels, self.governor.point)

    def example(self) -> Inputs:
        """One sample of noise in the right form."""
        return self.form.example()
