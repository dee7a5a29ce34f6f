"""A thread that reads the sensors every now and then, so that no request waits for them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType

from plisse.adapt.signals import Sensors, Signals
from plisse.errors import InputError


@dataclass
class Watch:
    """Reads `sensors` every `period` seconds in its own thread, from `start` to `stop`, or within `with`.

    `latest()` never waits. Where the thread has been silent for longer than the sensors hold their values
    (a source that hangs), everything counts as unknown.

    >>> with Watch(Sensors({"load": lambda: {"cpu": 0.5}})) as watch: watch.latest().cpu
    0.5
    """

    sensors: Sensors
    period: float = 0.25
    _stop: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)
    _seen: Signals | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.period > 0:
            raise InputError(f"period={self.period}", expected="seconds above zero")

    def latest(self) -> Signals:
        """The last look at the device, with the time of this call; reads once if there was none."""
        if self._seen is None:
            self._seen = self.sensors.read()
        seen, now = self._seen, self.sensors.clock()
        if now - seen.time > self.sensors.hold + self.period:
            return Signals(now)
        return Signals(now, **seen.known())

    def start(self) -> None:
        """Begin to read. Starting twice does nothing."""
        if self._thread is None:
            self._stop.clear()
            self._seen = self.sensors.read()
            self._thread = threading.Thread(target=self._run, name="plisse-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop reading, and wait for the thread, but not for a source that hangs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * self.period)
            self._thread = None

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stop.wait(self.period):
            self._seen = self.sensors.read()
