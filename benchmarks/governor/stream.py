"""A stream of requests with deadlines, played against a network that a governor drives."""

from __future__ import annotations

import itertools
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.governor.load import busy
from plisse.adapt.governed import Governed
from plisse.adapt.governor import Decision
from plisse.core.batch import Batch, first_tensor


@dataclass(frozen=True)
class Script:
    """When requests come and when the machine is loaded.

    interval, deadline: seconds; arrivals are shifted by up to `jitter` of the interval either way. idle,
    loaded: seconds of the phases. seconds: of all.
    """

    interval: float
    deadline: float
    idle: float
    loaded: float
    seconds: float
    jitter: float = 0.3
    seed: int = 0

    def arrivals(self) -> list[float]:
        """Seconds from the start, in order."""
        draw = random.Random(self.seed)
        number = int(self.seconds / self.interval)
        shifts = (draw.uniform(-self.jitter, self.jitter) for _ in range(number))
        return sorted(max(0.0, (i + 0.5 + shift) * self.interval) for i, shift in enumerate(shifts))


@dataclass(frozen=True)
class Row:
    """One request: seconds from arrival to answer, share of its images that were right, where it ran."""

    due: float
    seconds: float
    right: float
    point: str


def play(run: Governed, batch: Batch, script: Script, start: float, size: int = 1) -> list[Row]:
    """Send the images of `batch`, `size` at a time, as the script says; requests that wait are answered in
    order.

    start: of the script, on the system's monotonic clock.
    """
    images, labels = first_tensor(batch.inputs), batch.target
    assert isinstance(labels, Tensor)
    arrivals, rows = script.arrivals(), []
    for number, due in enumerate(arrivals):
        since = time.monotonic() - start
        if since < due:
            time.sleep(due - since)
            since = time.monotonic() - start
        waiting = bisect_right(arrivals, since) - number - 1
        places = torch.arange(number * size, (number + 1) * size) % len(images)
        answer = run(images[places], deadline=script.deadline - (since - due), queue=max(0, waiting))
        seconds = time.monotonic() - start - due
        right = float((answer.outputs.argmax(-1) == labels[places]).float().mean())
        rows.append(Row(due, seconds, right, answer.point))
    return rows


def summary(rows: Sequence[Row], script: Script) -> dict[str, Any]:
    """Latency, misses and accuracy over all requests, and misses by phase."""
    seconds = np.array([row.seconds for row in rows])
    missed = seconds > script.deadline
    loaded = np.array([busy(row.due, script.idle, script.loaded) for row in rows])
    right = np.array([row.right for row in rows])
    p50, p95 = np.percentile(seconds, [50, 95])
    return {
        "requests": len(rows),
        "p50_ms": 1e3 * float(p50),
        "p95_ms": 1e3 * float(p95),
        "missed": float(missed.mean()),
        "missed_idle": float(missed[~loaded].mean()),
        "missed_loaded": float(missed[loaded].mean()),
        "accuracy": float(right.mean()),
        "right_in_time": float((right * ~missed).mean()),
        "points": dict(Counter(row.point for row in rows)),
    }


def swings(
    decisions: Sequence[Decision], order: Sequence[str], script: Script, start: float
) -> dict[str, int]:
    """Switches, and among them rises that were taken back within the same phase of the load.

    order: labels, cheapest first.
    """
    back = 0
    for rise, fall in itertools.pairwise(decisions):
        rose = rise.before != "" and order.index(rise.point) > order.index(rise.before)
        fell = order.index(fall.point) < order.index(fall.before)
        back += rose and fell and _phase(rise, script, start) == _phase(fall, script, start)
    return {"switches": max(0, len(decisions) - 1), "taken_back": back}


def _phase(decision: Decision, script: Script, start: float) -> tuple[int, bool]:
    since = decision.time - start
    return int(since // (script.idle + script.loaded)), busy(since, script.idle, script.loaded)
