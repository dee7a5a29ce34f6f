from __future__ import annotations

import logging
from pathlib import Path

import pytest

from plisse.adapt.device import CpuLoad, Pressure, device_sensors, memory
from plisse.adapt.signals import NAMES, Reading, Recorded, Sensors, Simulated, read_trace, signals
from plisse.adapt.watch import Watch
from plisse.errors import InputError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Dying:
    """Gives cpu=0.5 until told to fail."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gives: Reading = {"cpu": 0.5}
        self.asked = 0

    def __call__(self) -> Reading:
        self.asked += 1
        if self.error:
            raise self.error
        return self.gives


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_source_that_dies_falls_back_is_logged_once_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, source = Clock(), Dying()
    sensors = Sensors({"load": source, "memory": lambda: {"memory": 0.3}}, hold=3.0, retry=2.0, clock=clock)
    assert sensors.read().cpu == 0.5
    source.error = OSError("gone")
    seen = []
    for now in (1.0, 2.0, 2.9, 3.5, 4.0):
        clock.now = now
        seen.append(sensors.read())
    assert [look.cpu for look in seen] == [0.5, 0.5, 0.5, None, None]
    assert all(look.memory == 0.3 for look in seen)
    assert sensors.failed == {"load": "OSError: gone"}
    assert len(warnings_of(caplog)) == 1
    assert "gone" in warnings_of(caplog)[0]
    assert source.asked == 3  # at 0, 1 and 3.5: asked again only after `retry`
    source.error, clock.now = None, 6.0
    assert sensors.read().cpu == 0.5
    assert sensors.failed == {}
    assert "is back" in warnings_of(caplog)[-1]


@pytest.mark.parametrize(
    "gives",
    [{"cpu": float("nan")}, {"cpu": 1.5}, {"cpu": -0.1}, {"temperature": float("inf")}, {"cpux": 0.1}, None],
    ids=str,
)
def test_what_no_signal_can_be_counts_as_a_failure(gives: Reading) -> None:
    source = Dying()
    sensors = Sensors({"load": source}, clock=Clock())
    sensors.read()
    source.gives = gives
    assert sensors.read().cpu == 0.5
    assert "load" in sensors.failed


@pytest.mark.parametrize("reading", [{"cpu": float("nan")}, {"battery": 2.0}, {"fan": 1.0}], ids=str)
def test_signals_refuse_what_they_cannot_be(reading: Reading) -> None:
    with pytest.raises(InputError):
        signals(0.0, reading)


def test_recorded_and_simulated_traces_play() -> None:
    clock = Clock()
    rows = ((0.0, {"cpu": 0.1}), (1.0, {"cpu": 0.7}), (2.0, {"cpu": None}))
    once, looped = Recorded(rows, clock), Recorded(rows, clock, loop=3.0)
    clock.now = 50.0
    assert (once(), looped()) == ({"cpu": 0.1}, {"cpu": 0.1})
    clock.now = 51.5
    assert once() == {"cpu": 0.7}
    clock.now = 53.5
    assert (once(), looped()) == ({"cpu": None}, {"cpu": 0.1})
    assert Simulated(lambda t: {"cpu": t / 100}, clock)() == {"cpu": 0.535}


@pytest.mark.parametrize("rows", [(), ((1.0, {}), (0.0, {})), ((float("nan"), {}),)], ids=str)
def test_a_trace_needs_rows_in_order(rows: tuple[tuple[float, Reading], ...]) -> None:
    with pytest.raises(InputError, match="times in order"):
        Recorded(rows)


def test_a_trace_is_read_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"time": 7, "signals": {"cpu": 0.5}}\n\n{"time": 9.5, "signals": {"queue": 3}}\n')
    assert read_trace(path) == [(0.0, {"cpu": 0.5}), (2.5, {"queue": 3.0})]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"time": 1}', '{"time": "x", "signals": {}}', '{"time": 1, "signals": {"cpu": NaN}}']
)
def test_a_broken_trace_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"time": 1, "signals": {}}\n' + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_trace(path)
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "none")


def test_the_device_gives_signals_in_range() -> None:
    pytest.importorskip("psutil")
    sensors = device_sensors()
    for _ in range(3):
        seen = sensors.read()
    assert sensors.failed == {}
    assert seen.cpu is not None
    assert seen.memory is not None
    assert 0 < seen.memory < 1
    assert set(seen.known()) <= set(NAMES)
    assert memory()["memory"] == pytest.approx(seen.memory, abs=0.2)


def test_load_of_others_leaves_this_process_out(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    import os
    from collections import namedtuple

    times = namedtuple("times", "user system idle iowait")
    machine = iter([times(0, 0, 0, 0), times(6.0, 1.0, 2.0, 1.0), times(6.0, 1.0, 2.0, 1.0)])
    own = iter([(0.0, 0.0), (2.5, 0.5), (2.5, 0.5)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(machine))
    monkeypatch.setattr(os, "times", lambda: os.times_result((*next(own), 0.0, 0.0, 0.0)))
    load = CpuLoad()
    assert load() == {"cpu": None, "others": None}
    for _ in range(2):  # the second comes too soon to tell anything new
        assert load() == {"cpu": pytest.approx(0.7), "others": pytest.approx(0.4)}


def test_pressure_is_the_share_of_the_time_since_the_last_look(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "cpu"
    pressure = Pressure(path, clock)

    def stalled(total: int) -> None:
        path.write_text(f"some avg10=12.50 avg60=1.00 avg300=0.10 total={total}\nfull avg10=0.00 total=0\n")

    stalled(5_000_000)
    assert pressure() == {"pressure": 0.125}
    clock.now = 2.0
    stalled(5_500_000)
    assert pressure() == {"pressure": 0.25}
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pressure()


def test_a_watch_reads_in_its_own_thread_and_forgets_what_is_stale() -> None:
    clock = Clock()
    source = Dying()
    watch = Watch(Sensors({"load": source}, hold=5.0, clock=clock), period=0.001)
    assert watch.latest().cpu == 0.5
    with watch:
        for _ in range(2000):
            if source.asked > 3:
                break
            watch._stop.wait(0.001)
    assert source.asked > 3
    clock.now = 4.0
    assert (watch.latest().cpu, watch.latest().time) == (0.5, 4.0)
    clock.now = 100.0
    assert watch.latest().cpu is None
    with pytest.raises(InputError, match="period"):
        Watch(Sensors({}), period=0)
