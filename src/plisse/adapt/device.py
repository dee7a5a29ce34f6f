"""Sources of signals on a real device: load, pressure, memory, battery, temperature.

Each is a callable without arguments that gives a reading; what the device does not have is None. psutil reads
what differs between systems; the pressure of Linux is read from its file.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plisse.adapt.signals import Clock, Reading, Sensors, Source
from plisse.errors import InputError

PRESSURE = Path("/proc/pressure/cpu")
LEAST_SECONDS = 0.05


@dataclass
class CpuLoad:
    """Busy share of all cores since it was last read: by everybody, and by all but this process.

    Shares are of the time that passed, which is that since the start on the first reading. The system counts
    in ticks of 10 ms: a reading too soon after the last gives that again.
    """

    _last: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), init=False)
    _reading: Reading = field(default_factory=lambda: {"cpu": None, "others": None}, init=False)

    def __call__(self) -> Reading:
        everybody, own = _psutil().cpu_times(), os.times()
        idle = everybody.idle + getattr(everybody, "iowait", 0.0)
        total = sum(everybody) - getattr(everybody, "guest", 0.0) - getattr(everybody, "guest_nice", 0.0)
        now = (total, total - idle, own.user + own.system)
        passed, busy, mine = (after - before for after, before in zip(now, self._last, strict=True))
        if passed >= LEAST_SECONDS:
            self._last = now
            self._reading = {"cpu": _share(busy / passed), "others": _share((busy - mine) / passed)}
        return self._reading


@dataclass
class Pressure:
    """Share of time in which some task waited for a core since it was last read (Linux, pressure stall
    information). The first reading gives the system's average over 10 seconds."""

    path: Path = PRESSURE
    clock: Clock = time.monotonic
    _last: tuple[float, float] | None = field(default=None, init=False)

    def __call__(self) -> Reading:
        words = self.path.read_text(encoding="ascii").splitlines()[0].split()
        values = dict(word.split("=") for word in words[1:])
        now = (self.clock(), float(values["total"]) / 1e6)
        last, self._last = self._last, now
        if last is None or now[0] <= last[0]:
            return {"pressure": _share(float(values["avg10"]) / 100)}
        return {"pressure": _share((now[1] - last[1]) / (now[0] - last[0]))}


def memory() -> Reading:
    """Share of memory that is not available."""
    found = _psutil().virtual_memory()
    return {"memory": _share(1 - found.available / found.total)}


def battery() -> Reading:
    """Charge, and whether it is plugged in."""
    found = _psutil().sensors_battery() if hasattr(_psutil(), "sensors_battery") else None
    if found is None:
        return {"battery": None, "plugged": None}
    plugged = None if found.power_plugged is None else float(found.power_plugged)
    return {"battery": _share(found.percent / 100), "plugged": plugged}


def temperature() -> Reading:
    """The hottest sensor, degrees Celsius."""
    read = getattr(_psutil(), "sensors_temperatures", dict)
    found = [entry.current for entries in read().values() for entry in entries if entry.current is not None]
    return {"temperature": max(found, default=None)}


def device_sources() -> dict[str, Source]:
    """All sources that this system has, by name. Raises InputError where psutil is missing."""
    _psutil()
    found: dict[str, Source] = {
        "load": CpuLoad(),
        "memory": memory,
        "battery": battery,
        "temperature": temperature,
    }
    return {**found, "pressure": Pressure()} if PRESSURE.exists() else found


def device_sensors() -> Sensors:
    """`Sensors` over this device."""
    return Sensors(device_sources())


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def _psutil() -> Any:
    try:
        import psutil
    except ImportError as error:
        raise InputError(
            "no psutil",
            expected="the package that reads load and battery",
            hint="pip install 'plisse[serve]'",
        ) from error
    return psutil
