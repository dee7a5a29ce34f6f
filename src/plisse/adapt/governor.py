"""The governor: which operating point to run, as load, battery and deadlines change."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from plisse.adapt.pace import Pace
from plisse.adapt.policies import Deadline, EnergySaver, Policy, View, Wish, combined
from plisse.adapt.signals import Signals
from plisse.cost.budget import Budget, Cost
from plisse.cost.profile import Profile, ProfileRow, frontier
from plisse.errors import BudgetError, InputError

LOG = logging.getLogger("plisse.adapt")

KEPT_DECISIONS = 1000
LONGEST_PATIENCE = 64.0


@dataclass(frozen=True)
class Decision:
    """One switch. before: the point until then, "" at the start. at_once: made although `dwell` had not
    passed. held: the point was forced by hand. admissible: whether the budget admits the point; where it does
    not, no point is admitted, and the closest runs. slowdown: learned ratio of measured to profiled time."""

    time: float
    point: str
    before: str
    reason: str
    at_once: bool
    held: bool
    admissible: bool
    slowdown: float
    signals: Signals

    def line(self) -> str:
        """One line of JSON, which `signals.read_trace` reads too."""
        found = {**asdict(self), "signals": self.signals.known()}
        return json.dumps({name: _plain(value) for name, value in found.items()}, ensure_ascii=False)


@dataclass
class Governor:
    """Picks one of the measured operating points, request by request.

    profile: rows with latencies; those that another beats in both time and score are never picked. policies:
    what to heed; the cheapest of their bounds holds. budget: bounds on the measured cost; a point outside it
    is never picked as long as a point inside it exists. reference: what relative bounds refer to; None for
    the dearest row. dwell: seconds after a switch in which no other is made, but those that a limit or a new
    budget demands, which go to a cheaper point where there is one. A fall soon after a rise doubles the time
    before the next rise, up to 64 times; a rise that holds resets it. pace: what it learns times with; by
    default one for the batch of the profile. log: called with every decision.

    `choose` and `observe` may be called from several threads.

    >>> rows = (ProfileRow("small", Cost(1, 1, 1, 0.002), 0.8), ProfileRow("large", Cost(2, 2, 2, 0.01), 0.9))
    >>> governor = Governor(Profile(rows), (Deadline(),), dwell=1.0)
    >>> governor.choose(Signals(0.0, deadline=0.02))
    'large'
    >>> for _ in range(9): governor.observe(0.03)
    >>> governor.choose(Signals(0.1, deadline=0.02))
    'small'
    """

    profile: Profile
    policies: Sequence[Policy] = (Deadline(), EnergySaver())
    budget: Budget | None = None
    reference: Cost | None = None
    dwell: float = 1.0
    pace: Pace = None  # type: ignore[assignment]
    log: Callable[[Decision], None] | None = None
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=KEPT_DECISIONS), init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _seconds: dict[str, float] = field(default_factory=dict, init=False)
    _active: ProfileRow | None = field(default=None, init=False)
    _forced: str | None = field(default=None, init=False)
    _now: float = field(default=-math.inf, init=False)
    _switched: float = field(default=-math.inf, init=False)
    _rose: bool = field(default=False, init=False)
    _patience: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        if not self.policies or not 0 <= self.dwell < math.inf:
            raise InputError(
                f"{len(self.policies)} policies, dwell={self.dwell}",
                expected="at least one policy and a dwell time from 0 seconds",
            )
        if missing := [row.point for row in self.profile.rows if not row.cost.latency]:
            raise InputError(f"point {missing[0]!r} without latency", expected="a profile with times")
        if not self.profile.rows:
            raise InputError("a profile without rows", expected="at least one measured point")
        if self.pace is None:
            self.pace = Pace(batch=float(self.profile.conditions.get("batch", 1)))
        self._seconds = {row.point: row.cost.latency or 0.0 for row in self.profile.rows}
        self._rows, self._within = self._admitted(self.budget)

    @property
    def point(self) -> str:
        """The active point; "" before the first choice."""
        return self._active.point if self._active else ""

    @property
    def forced(self) -> str | None:
        """The point that was forced by hand, if any."""
        return self._forced

    @property
    def slowdown(self) -> float:
        """The learned ratio of measured to profiled time that most passes keep to."""
        return self.pace.bound(self.pace.batch)

    def choose(self, signals: Signals) -> str:
        """The point to run now: a label of the profile. Times that go backwards count as no time passed."""
        with self._lock:
            now = self._now = max(self._now, signals.time)
            if self._forced is not None:
                self._switch(self._row(self._forced), signals, "forced by hand", at_once=True)
                return self.point
            view = self._view(signals)
            wish = combined([policy(view) for policy in self.policies])
            place = self._place(wish, now)
            if place is not None:
                at_once = now - self._switched < self.dwell
                self._switch(self._rows[place], signals, wish.reason, at_once)
            return self.point

    def observe(self, seconds: float, size: float = 1.0, point: str | None = None) -> None:
        """Learn from a pass of `size` samples at `point` (None: the active one) that took `seconds`."""
        with self._lock:
            row = self._active if point is None else self._row(point)
            if row is not None:
                self.pace.observe(self._seconds[row.point], seconds, size)

    def calibrate(self, seconds: Mapping[str, float]) -> None:
        """Take these times of a pass, by point, in place of the profile's: measured where it runs, they hold
        what a profile leaves out, which is more of a short pass than of a long one. Raises InputError for a
        point that is unknown or a time that is none."""
        with self._lock:
            for point, value in seconds.items():
                if not 0 < value < math.inf:
                    raise InputError(f"{value} s for point {point!r}", expected="seconds above zero")
            self._seconds.update({self._row(point).point: value for point, value in seconds.items()})

    def expected(self, point: str, size: float = 1.0) -> float:
        """Seconds that most passes of `size` samples at `point` keep to, on the machine as it is now."""
        with self._lock:
            return self._seconds[self._row(point).point] * self.pace.bound(size)

    def limit(self, budget: Budget | None) -> None:
        """Another budget from the next choice on. Raises InputError where it cannot be understood here, and
        BudgetError where it does not admit the point that is forced."""
        with self._lock:
            rows, within = self._admitted(budget)
            if self._forced is not None:
                self._check_admitted(self._row(self._forced), budget)
            self.budget, self._rows, self._within = budget, rows, within

    def force(self, point: str) -> None:
        """Run `point` until `release`. Raises InputError for an unknown point, BudgetError for one that the
        budget does not admit."""
        with self._lock:
            self._check_admitted(self._row(point), self.budget)
            self._forced = point

    def release(self) -> None:
        """Let the policies choose again."""
        with self._lock:
            self._forced = None

    def _place(self, wish: Wish, now: float) -> int | None:
        """Where to go among the rows, None to stay."""
        places = {row.point: place for place, row in enumerate(self._rows)}
        here = places.get(self.point)
        if here is None:  # the start, or a point that the budget or a release made foreign
            dearest = self._dearest()
            return min(wish.high, dearest) if self._active else wish.low
        rested = now - self._switched
        if here > wish.limit or (here > wish.high and rested >= self.dwell):
            return wish.high
        if here < wish.low and rested >= self.dwell * self._patience:
            return wish.low
        return None

    def _dearest(self) -> int:
        """The last row that is no dearer than the active one: a switch out of turn never goes up."""
        active = self._active.cost.latency if self._active else None
        cheaper = [i for i, row in enumerate(self._rows) if (row.cost.latency or 0) <= (active or math.inf)]
        return max(cheaper, default=0)

    def _switch(self, row: ProfileRow, signals: Signals, reason: str, at_once: bool) -> None:
        before = self._active
        if before is not None and before.point == row.point:
            return
        rises = before is not None and (row.cost.latency or 0) > (before.cost.latency or 0)
        if before is not None and not rises and self._forced is None:
            self._learn_patience()
        decision = Decision(
            self._now, row.point, before.point if before else "", reason,
            at_once and before is not None, self._forced is not None, self._within,
            self.pace.bound(signals.size), signals,
        )  # fmt: skip
        self._active, self._switched, self._rose = row, self._now, rises
        self.decisions.append(decision)
        self._report(decision)

    def _learn_patience(self) -> None:
        """A fall: was the rise before it worth while?"""
        if not self._rose:
            return
        held = self._now - self._switched
        soon = held < 2 * self.dwell * self._patience
        self._patience = min(2 * self._patience, LONGEST_PATIENCE) if soon else 1.0

    def _report(self, decision: Decision) -> None:
        if self.log is None:
            return
        try:
            self.log(decision)
        except Exception:  # a full disk must not stop the service
            LOG.warning("the decision log failed and is closed", exc_info=True)
            self.log = None

    def _view(self, signals: Signals) -> View:
        slowdown = self.pace.bound(signals.size)
        return View(self._rows, signals, [self._seconds[row.point] * slowdown for row in self._rows])

    def _admitted(self, budget: Budget | None) -> tuple[tuple[ProfileRow, ...], bool]:
        """The rows to choose from, cheapest first, and whether the budget admits them."""
        rows = self.profile.rows
        if budget is None:
            return frontier(rows, by="latency"), True
        reference = self._reference()
        if within := [row for row in rows if budget.admits(row.cost, reference)]:
            return frontier(within, by="latency"), True
        closest = min(
            rows,
            key=lambda row: (len(budget.exceeded(row.cost, reference)), row.cost.latency, row.cost.bytes),
        )
        return (closest,), False

    def _check_admitted(self, row: ProfileRow, budget: Budget | None) -> None:
        if budget is not None and (broken := budget.exceeded(row.cost, self._reference())):
            raise BudgetError(
                f"point {row.point!r}, which breaks {', '.join(broken)}",
                expected="a point within the budget",
                closest=self._admitted(budget)[0][-1].cost,
            )

    def _reference(self) -> Cost:
        dearest = max(self.profile.rows, key=lambda row: row.cost.latency or 0.0)
        return self.reference or dearest.cost

    def _row(self, point: str) -> ProfileRow:
        for row in self.profile.rows:
            if row.point == point:
                return row
        known = ", ".join(repr(row.point) for row in self.profile.rows)
        raise InputError(f"point {point!r}", expected=f"one of {known}")


def json_lines(path: str | Path) -> Callable[[Decision], None]:
    """A log that appends one line of JSON per decision to `path`, opened anew each time."""

    def write(decision: Decision) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(decision.line() + "\n")

    return write


def _plain(value: object) -> object:
    """Infinite numbers have no JSON."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
