"""The governor's benchmark: its script, its figures and its table, without a clock."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "adapt"))

from families import constants, made_profile

from benchmarks.governor import stream, tables
from benchmarks.governor.load import Used, busy
from benchmarks.governor.stream import Row, Script, play, summary, swings
from plisse.adapt.governed import Governed
from plisse.adapt.governor import Decision, Governor
from plisse.adapt.policies import Deadline
from plisse.adapt.signals import Signals
from plisse.core.batch import Batch

SCRIPT = Script(interval=0.1, deadline=0.05, idle=2.0, loaded=2.0, seconds=8.0)


def test_arrivals_are_in_order_and_repeat_with_the_seed() -> None:
    arrivals = SCRIPT.arrivals()
    assert arrivals == SCRIPT.arrivals()
    assert len(arrivals) == 80
    assert all(0 <= before <= after <= 8.0 for before, after in itertools.pairwise(arrivals))
    assert {busy(at, 2.0, 2.0) for at in arrivals} == {True, False}


def test_figures_by_hand() -> None:
    rows = [
        Row(0.5, 0.01, True, "a"),
        Row(1.0, 0.02, False, "b"),
        Row(2.5, 0.09, True, "b"),
        Row(3.5, 0.04, True, "a"),
    ]
    found = summary(rows, SCRIPT)
    assert (found["missed"], found["missed_idle"], found["missed_loaded"]) == (0.25, 0.0, 0.5)
    assert (found["accuracy"], found["right_in_time"]) == (0.75, 0.5)
    assert found["points"] == {"a": 2, "b": 2}


def decision(time: float, before: str, point: str) -> Decision:
    return Decision(time, point, before, "", False, False, True, 1.0, Signals(time))


def test_a_rise_counts_as_taken_back_only_within_its_phase() -> None:
    made = [
        decision(100.0, "", "small"),
        decision(100.5, "small", "large"),
        decision(101.0, "large", "small"),  # the same idle phase: taken back
        decision(101.5, "small", "large"),
        decision(102.2, "large", "small"),  # the load came
    ]
    assert swings(made, ["small", "large"], SCRIPT, 100.0) == {"switches": 4, "taken_back": 1}
    assert swings([], ["small"], SCRIPT, 0.0) == {"switches": 0, "taken_back": 0}


def test_requests_that_wait_are_answered_in_order_with_less_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine on which every pass takes 0.25 s, and requests that come every 0.1 s."""
    import torch

    class Time:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    time = Time()
    monkeypatch.setattr(stream, "time", time)
    seen: list[tuple[float, int]] = []
    net = constants()
    inner = Governed(net, Governor(made_profile(), (Deadline(),)), lambda: Signals(time.now))

    def run(inputs: torch.Tensor, *, deadline: float, queue: int) -> object:
        seen.append((deadline, queue))
        time.now += 0.25
        return inner(inputs, deadline=deadline, queue=queue)

    script = Script(interval=0.1, deadline=0.3, idle=9.0, loaded=1.0, seconds=0.5, jitter=0.0)
    rows = play(run, Batch(torch.zeros(3, 4), torch.tensor([0, 1, 0])), script, 0.0)  # type: ignore[arg-type]
    assert [row.seconds for row in rows] == pytest.approx([0.25, 0.4, 0.55, 0.7, 0.85])
    assert [left for left, _ in seen] == pytest.approx([0.3, 0.15, 0.0, -0.15, -0.3])
    assert [queue for _, queue in seen] == [0, 1, 2, 1, 0]
    assert [row.right for row in rows] == [True, False, True, True, False]
    assert {row.point for row in rows[1:]} == {"width=0.25"} or rows[-1].point == "width=0.25"


def test_a_request_carries_as_many_images_as_asked_and_starts_over_at_the_end() -> None:
    import torch

    seen: list[list[float]] = []
    inner = Governed(constants(), Governor(made_profile(), (Deadline(),)), lambda: Signals(0.0))

    def run(inputs: torch.Tensor, *, deadline: float, queue: int) -> object:
        seen.append(inputs[:, 0].tolist())
        return inner(inputs)

    script = Script(interval=0.001, deadline=9.0, idle=9.0, loaded=1.0, seconds=0.002, jitter=0.0)
    images = torch.arange(3.0)[:, None].expand(3, 4)
    rows = play(run, Batch(images, torch.tensor([0, 0, 1])), script, 0.0, size=2)  # type: ignore[arg-type]
    assert seen == [[0.0, 1.0], [2.0, 0.0]]
    assert [row.right for row in rows] == [1.0, 0.5]


def test_the_work_of_others_is_what_is_busy_without_this_process() -> None:
    assert Used(10.0, 4.0).others(Used(15.0, 8.0)) == pytest.approx(1.0)
    here = Used.now()
    assert here.busy > 0
    assert here.own > 0


def test_the_table_shows_every_row() -> None:
    rows = [Row(0.5, 0.01, True, "a"), Row(2.5, 0.09, True, "b")]
    data = {
        "script": {"interval": 0.1, "deadline": 0.05, "idle": 2.0, "loaded": 2.0, "seconds": 8.0},
        "images": 4,
        "load_processes": 4,
        "profile": [{"point": "a", "cost": {"latency": 0.01}, "score": 0.9}],
        "governor": {"switches": 3, "taken_back": 0},
        "rounds": [
            {"policy": "governor", "others": 0.8, "missed": 0.0},
            {"policy": "largest", "others": 1.6, "missed": 0.25},
            {"policy": "smallest", "others": 1.6, "missed": 0.4},
        ],
        "results": {name: summary(rows, SCRIPT) for name in tables.NAMES},
    }
    shown = tables.section(data)
    assert shown.count("\n| ") == 4
    assert "used 1 to 2 core seconds in a turn" in " ".join(shown.split())
    assert "Another run, due in 50 ms" in tables.section(data, data)
    for words in (
        "governor |",
        "largest, fixed | 50.0 % | 25.0 %",
        "the smallest was late in 40 %",
        "due in 50 ms",
        "a (10.0 ms, 90.0 %",
    ):
        assert words in shown
