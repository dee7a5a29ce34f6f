"""Load in a scripted pattern: `python -m benchmarks.governor.load --processes 4 --idle 4 --busy 4`.

Every process waits for `--idle` seconds, computes for `--busy` seconds, and so on, until `--seconds` are
over.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass

import psutil


def busy(since: float, idle: float, loaded: float) -> bool:
    """Whether the machine is loaded `since` seconds after the start.

    >>> [busy(t, 4.0, 2.0) for t in (0.0, 3.9, 4.0, 5.9, 6.0)]
    [False, False, True, True, False]
    """
    return since % (idle + loaded) >= idle


def burn(start: float, idle: float, loaded: float, seconds: float) -> None:
    """Compute in the loaded phases, sleep in the others. start: on the system's monotonic clock."""
    while (since := time.monotonic() - start) < seconds:
        if since < 0 or not busy(since, idle, loaded):
            time.sleep(0.005)
            continue
        sum(number * number for number in range(20_000))


@dataclass(frozen=True)
class Used:
    """Seconds that the cores were busy, and those of this process and of children that ended, at a moment."""

    busy: float
    own: float

    @classmethod
    def now(cls) -> Used:
        times = psutil.cpu_times()
        return cls(
            sum(times) - times.idle - times.iowait - times.guest - times.guest_nice, sum(os.times()[:4])
        )

    def others(self, now: Used | None = None) -> float:
        """Core seconds since then that neither this process nor its children used.

        >>> Used(10.0, 4.0).others(Used(15.0, 8.0))
        1.0
        """
        now = now or Used.now()
        return now.busy - self.busy - (now.own - self.own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    for name, default in (("--idle", 4.0), ("--busy", 4.0), ("--seconds", 24.0), ("--start", 0.0)):
        parser.add_argument(name, type=float, default=default)
    given = parser.parse_args()
    start = given.start or time.monotonic()
    work = (start, given.idle, given.busy, given.seconds)
    processes = [multiprocessing.Process(target=burn, args=work) for _ in range(given.processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
