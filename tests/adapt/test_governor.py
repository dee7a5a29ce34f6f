"""The governor on simulated devices: nothing here reads a clock or a sensor."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest
from families import made_profile

from plisse.adapt.governor import Governor, json_lines
from plisse.adapt.pace import Pace
from plisse.adapt.policies import Deadline, EnergySaver, Thresholds, View, combined
from plisse.adapt.signals import Signals, read_trace
from plisse.cost.budget import Budget, Cost
from plisse.cost.profile import Profile, ProfileRow
from plisse.errors import BudgetError, InputError

SMALL, HALF, LARGE = "width=0.25", "width=0.5", "width=1"


def governor(**given: object) -> Governor:
    return Governor(**{"profile": made_profile(), "policies": (Deadline(),), **given})  # type: ignore[arg-type]


def test_without_bounds_the_best_point_runs() -> None:
    assert governor().choose(Signals(0.0)) == LARGE


def test_points_that_another_beats_are_never_picked() -> None:
    rows = (*made_profile().rows, ProfileRow("worse", Cost(1, 1, 1, 0.003), 0.55))
    chooser = governor(profile=Profile(rows))
    picked = {chooser.choose(Signals(float(t), deadline=0.0005 * t)) for t in range(20)}
    assert picked == {SMALL, HALF, LARGE}


def test_a_deadline_is_met_as_the_passes_before_tell() -> None:
    chooser = governor(dwell=1.0)
    assert chooser.choose(Signals(0.0, deadline=0.006)) == LARGE
    for _ in range(20):
        chooser.observe(0.008)
    assert chooser.choose(Signals(0.01, deadline=0.006)) == HALF, "at once, since the large one would be late"
    for _ in range(20):
        chooser.observe(0.008)
    assert chooser.choose(Signals(0.02, deadline=0.006)) == SMALL
    for _ in range(30):
        chooser.observe(0.001)
    assert chooser.choose(Signals(0.5, deadline=0.006)) == SMALL, "rises only after the dwell time"
    assert chooser.choose(Signals(2.5, deadline=0.005)) == HALF, (
        "4 ms fit into 5, but not with a band to spare"
    )
    assert chooser.choose(Signals(4.0, deadline=0.006)) == LARGE


def test_a_deadline_that_nothing_meets_runs_the_cheapest() -> None:
    assert governor().choose(Signals(0.0, deadline=-1.0)) == SMALL
    assert governor().choose(Signals(0.0, deadline=1e-9)) == SMALL


def test_requests_that_wait_share_the_time() -> None:
    assert governor().choose(Signals(0.0, deadline=0.006, queue=0)) == LARGE
    assert governor().choose(Signals(0.0, deadline=0.006, queue=1)) == HALF
    assert governor().choose(Signals(0.0, deadline=0.006, queue=9)) == SMALL


def test_larger_requests_have_a_pace_of_their_own() -> None:
    chooser = governor()
    assert chooser.choose(Signals(0.0, deadline=0.02, size=1)) == LARGE
    assert chooser.choose(Signals(5.0, deadline=0.02, size=8)) == HALF, "taken in proportion until learned"
    for _ in range(30):
        chooser.observe(0.004, size=8)
    assert chooser.choose(Signals(10.0, deadline=0.02, size=8)) == LARGE
    assert chooser.pace.mean(1.0) == 1.0


def test_times_measured_where_it_runs_replace_those_of_the_profile() -> None:
    """A fixed overhead weighs more on short passes; without these times it would pass for a slow machine."""
    overhead = {SMALL: 0.003, HALF: 0.004, LARGE: 0.006}
    plain, calibrated = governor(dwell=0.0), governor(dwell=0.0)
    calibrated.calibrate(overhead)
    for chooser in (plain, calibrated):
        assert chooser.choose(Signals(0.0, deadline=0.001)) == SMALL
        for _ in range(30):
            chooser.observe(overhead[SMALL])
    assert plain.choose(Signals(1.0, deadline=0.012)) == HALF
    assert calibrated.choose(Signals(1.0, deadline=0.012)) == LARGE
    assert calibrated.expected(LARGE) == pytest.approx(0.006)
    for wrong in ({"width=9": 0.1}, {SMALL: 0.0}, {SMALL: math.nan}):
        with pytest.raises(InputError):
            calibrated.calibrate(wrong)


def test_the_pace_learns_a_ratio_and_forgets_a_stall() -> None:
    pace = Pace()
    for _ in range(60):
        pace.observe(0.01, 0.03)
    assert pace.mean() == pytest.approx(3.0, rel=1e-3)
    assert pace.bound() == pytest.approx(3.0, rel=1e-2)
    pace.observe(0.01, 30.0)
    assert pace.mean() < 6.0
    for _ in range(40):
        pace.observe(0.01, 0.03)
    assert pace.mean() == pytest.approx(3.0, rel=0.01)
    for bad in (math.nan, math.inf, -1.0):
        pace.observe(0.01, bad)
        pace.observe(bad, 0.01)
    assert pace.mean() == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("given", [{"weight": 0}, {"weight": math.nan}, {"deviations": -1}, {"batch": 0}])
def test_a_pace_refuses_what_it_cannot_learn_with(given: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Pace(**given)


def test_thresholds_hold_within_the_band_and_switch_beyond_it() -> None:
    policy = Thresholds("cpu", full=0.4, least=0.8, band=0.1)  # cuts at 0.5 and 0.7
    chooser = governor(policies=(policy,), dwell=0.0)
    path = [0.2, 0.54, 0.56, 0.46, 0.44, 0.8, 0.66, 0.64]
    picked = [chooser.choose(Signals(float(t), cpu=cpu)) for t, cpu in enumerate(path)]
    assert picked == [LARGE, LARGE, HALF, HALF, LARGE, SMALL, SMALL, HALF]
    assert chooser.choose(Signals(9.0)) == HALF, "an unknown signal changes nothing"


def test_energy_saver_heeds_charge_only_without_mains_and_heat_always() -> None:
    def pick(**signals: float) -> str:
        return governor(policies=(EnergySaver(),)).choose(Signals(0.0, **signals))

    assert pick() == LARGE
    assert pick(battery=0.05, plugged=1.0) == LARGE
    assert pick(battery=0.9, plugged=0.0) == LARGE
    assert pick(battery=0.32, plugged=0.0) == HALF
    assert pick(battery=0.1, plugged=0.0) == SMALL
    assert pick(battery=0.1) == SMALL
    assert pick(plugged=1.0, temperature=95.0) == SMALL


@pytest.mark.parametrize(
    "make",
    [
        lambda: Thresholds("fan"),
        lambda: Thresholds(full=0.5, least=0.5),
        lambda: Thresholds(full=math.nan),
        lambda: Thresholds(band=-1.0),
        lambda: Deadline(margin=0.0),
        lambda: Deadline(band=1.0),
        lambda: Deadline(seconds=0.0),
        lambda: Deadline(seconds=math.nan),
        lambda: EnergySaver(charge=(0.1, 0.5)),
        lambda: EnergySaver(band=-1.0),
        lambda: governor(dwell=-1.0),
        lambda: governor(policies=()),
        lambda: governor(profile=Profile(())),
        lambda: governor(profile=Profile((ProfileRow("a", Cost(1, 1, 1), 0.5),))),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


def test_the_budget_is_kept_when_it_changes_and_the_closest_runs_when_none_fits() -> None:
    chooser = governor(dwell=100.0)
    assert chooser.choose(Signals(0.0)) == LARGE
    chooser.limit(Budget.parse("macs=200k"))
    assert chooser.choose(Signals(0.1)) == HALF
    assert chooser.decisions[-1].at_once
    chooser.limit(Budget.parse("bytes=0.4x"))
    assert chooser.choose(Signals(0.2)) == SMALL
    chooser.limit(Budget.parse("params=1"))
    assert chooser.choose(Signals(0.3)) == SMALL
    chooser.limit(None)
    assert chooser.choose(Signals(0.4)) == SMALL
    assert chooser.choose(Signals(150.0)) == LARGE


def test_a_budget_that_nothing_meets_is_said_in_the_log() -> None:
    chooser = governor(budget=Budget.parse("params=1"))
    assert chooser.choose(Signals(0.0)) == SMALL
    assert not chooser.decisions[-1].admissible


def test_a_forced_point_stays_until_it_is_released() -> None:
    chooser = governor(budget=Budget.parse("macs=250k"))
    chooser.choose(Signals(0.0))
    chooser.force(SMALL)
    assert [chooser.choose(Signals(t)) for t in (0.1, 50.0)] == [SMALL, SMALL]
    assert chooser.forced == SMALL
    with pytest.raises(BudgetError, match="macs") as caught:
        chooser.force(LARGE)
    assert caught.value.closest == made_profile().rows[1].cost
    with pytest.raises(InputError, match=r"width=0\.25"):
        chooser.force("width=7")
    with pytest.raises(BudgetError):
        chooser.limit(Budget.parse("macs=1"))
    chooser.release()
    assert chooser.choose(Signals(52.0)) == HALF


def test_a_rise_that_does_not_last_makes_it_more_patient() -> None:
    """At the large point passes are slow, at the others they are not: without patience this would swing."""
    chooser = governor(dwell=1.0, pace=Pace(weight=0.5))
    rises = []
    for tick in range(2000):
        point = chooser.choose(Signals(tick * 0.1, deadline=0.005))
        chooser.observe({LARGE: 0.008, HALF: 0.002, SMALL: 0.001}[point])
    rises = [d.time for d in chooser.decisions if d.point == LARGE]
    gaps = [after - before for before, after in itertools.pairwise(rises)]
    assert all(after >= 1.5 * before for before, after in itertools.pairwise(gaps))
    assert len(rises) < 10


def test_the_log_is_json_lines_that_play_back(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    chooser = governor(policies=(Thresholds("cpu"),), dwell=0.0, log=json_lines(path))
    for time, cpu in enumerate((0.1, 1.0, 0.1)):
        chooser.choose(Signals(10.0 + time, cpu=cpu))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["point"] for row in rows] == [LARGE, SMALL, LARGE]
    assert [row["before"] for row in rows] == ["", LARGE, SMALL]
    assert read_trace(path) == [
        (float(t), {"cpu": cpu, "size": 1.0}) for t, cpu in enumerate((0.1, 1.0, 0.1))
    ]


def test_a_log_that_fails_does_not_stop_the_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chooser = governor(policies=(Thresholds("cpu"),), dwell=0.0, log=json_lines(tmp_path / "none" / "log"))
    picked = [chooser.choose(Signals(float(t), cpu=cpu)) for t, cpu in enumerate((0.1, 1.0, 0.1))]
    assert picked == [LARGE, SMALL, LARGE]
    assert sum("decision log failed" in record.getMessage() for record in caplog.records) == 1


def test_time_that_goes_backwards_counts_as_none() -> None:
    chooser = governor(policies=(Thresholds("cpu"),), dwell=1.0)
    chooser.choose(Signals(100.0, cpu=0.1))
    assert [chooser.choose(Signals(t, cpu=1.0)) for t in (5.0, math.nan, 100.5)] == [LARGE] * 3
    assert chooser.choose(Signals(101.0, cpu=1.0)) == SMALL


N_TRACES = 1000
N_REQUESTS = 50
POLICIES = (
    (Deadline(),),
    (Thresholds("cpu"), Deadline(0.006)),
    (Thresholds("others", 0.2, 0.9, 0.2), EnergySaver()),
    (Deadline(margin=0.8, band=0.4), EnergySaver(), Thresholds("queue", 0.0, 8.0, 2.0)),
)
BUDGETS = (None, "latency=3ms", "bytes=0.5x", "macs=150k", "params=1", "latency=0.9x, bytes=0.7x")


def walk(draw: random.Random, low: float, high: float) -> list[float]:
    """A random walk between two bounds, with jumps: the load of a machine on which others work too."""
    value, found = draw.uniform(low, high), []
    for _ in range(N_REQUESTS):
        value = (
            draw.uniform(low, high) if draw.random() < 0.05 else value + draw.gauss(0, 0.05 * (high - low))
        )
        value = min(high, max(low, value))
        found.append(value)
    return found


def simulate(seed: int) -> tuple[Governor, list[tuple[Signals, str, Budget | None]]]:
    """One load trace: random policies, load, battery, deadlines, queue, budgets, sizes; what was chosen."""
    draw = random.Random(seed)
    profile = made_profile(draw.randint(1, 6), draw.uniform(1.1, 2.5))
    chooser = Governor(profile, draw.choice(POLICIES), dwell=draw.choice((0.0, 0.5, 2.0)))
    load, charge, slow = walk(draw, 0, 1), walk(draw, 0, 1), walk(draw, 0.8, 4.0)
    time, budget, seen = 0.0, None, []
    for number in range(N_REQUESTS):
        time += draw.expovariate(5.0)
        if draw.random() < 0.08:
            budget = Budget.parse(text) if (text := draw.choice(BUDGETS)) else None
            chooser.limit(budget)
        look = Signals(
            time,
            cpu=draw.choice((load[number], None)) if seed % 3 == 0 else load[number],
            others=load[number],
            battery=charge[number],
            plugged=float(seed % 2),
            queue=float(draw.choice((0, 0, 0, 1, 4))),
            deadline=draw.choice((None, 0.004, 0.01, 0.03)),
        )
        point = chooser.choose(look)
        seen.append((look, point, budget))
        row = next(row for row in profile.rows if row.point == point)
        chooser.observe((row.cost.latency or 0) * slow[number] * draw.lognormvariate(0, 0.2))
    return chooser, seen


@pytest.mark.parametrize("block", range(10))
def test_invariants_hold_on_a_thousand_load_traces(block: int) -> None:
    switches = 0
    for seed in range(block * N_TRACES // 10, (block + 1) * N_TRACES // 10):
        chooser, seen = simulate(seed)
        check_budgets(chooser, seen)
        check_dwell(chooser)
        switches += len(chooser.decisions) - 1
    assert switches > 300, "traces on which nothing happens show nothing"


def check_budgets(chooser: Governor, seen: list[tuple[Signals, str, Budget | None]]) -> None:
    """A point outside the budget runs only where no point is inside."""
    rows = {row.point: row for row in chooser.profile.rows}
    reference = chooser.profile.rows[-1].cost
    for _, point, budget in seen:
        if budget is None or budget.admits(rows[point].cost, reference):
            continue
        assert not any(budget.admits(row.cost, reference) for row in rows.values())


def check_dwell(chooser: Governor) -> None:
    """Switches out of turn only fall; all others keep the dwell time, and so their number is bounded."""
    latency = {row.point: row.cost.latency or 0.0 for row in chooser.profile.rows}
    made = list(chooser.decisions)
    for before, after in itertools.pairwise(made):
        assert after.before == before.point != after.point
        if after.at_once:
            assert latency[after.point] < latency[after.before]
        else:
            assert after.time - before.time >= chooser.dwell
    in_turn = [decision for decision in made[1:] if not decision.at_once]
    out_of_turn = len(made) - 1 - len(in_turn)
    if chooser.dwell:
        assert len(in_turn) <= (made[-1].time - made[0].time) / chooser.dwell
    assert out_of_turn <= (len(in_turn) + 1) * (len(latency) - 1)


@pytest.mark.parametrize("block", range(4))
def test_signals_within_the_band_cause_no_oscillation(block: int) -> None:
    """Whatever the cuts: while a signal moves by less than the band, the point does not go back and forth."""
    for seed in range(100 * block, 100 * block + 100):
        draw = random.Random(seed)
        profile = made_profile(draw.randint(1, 6), 1.5)
        band = draw.uniform(0.02, 0.3)
        load = Thresholds("cpu", draw.uniform(0, 0.4), draw.uniform(0.6, 1), band)
        start = draw.uniform(0, 1 - band)
        check_one_direction(
            Governor(profile, (load,), dwell=0.0),
            [Signals(float(t), cpu=start + 0.999 * band * draw.random()) for t in range(60)],
        )
        time = draw.uniform(0.0005, 0.02)
        check_one_direction(
            Governor(profile, (Deadline(band=0.2),), dwell=0.0),
            [Signals(float(t), deadline=time * draw.uniform(1.001, 1 / 0.8 - 0.001)) for t in range(60)],
        )


def check_one_direction(chooser: Governor, looks: list[Signals]) -> None:
    for look in looks:
        chooser.choose(look)
    places = {row.point: place for place, row in enumerate(chooser.profile.rows)}
    path = [places[decision.point] for decision in chooser.decisions]
    steps = {after > before for before, after in itertools.pairwise(path)}
    assert len(steps) <= 1, path


@pytest.mark.parametrize("cut", [0.5, 0.7])
def test_the_point_stays_within_the_band_around_a_cut(cut: float) -> None:
    draw = random.Random(0)
    chooser = governor(policies=(Thresholds("cpu", full=0.4, least=0.8, band=0.1),), dwell=0.0)
    for tick in range(500):
        chooser.choose(Signals(float(tick), cpu=cut + draw.uniform(-0.0499, 0.0499)))
    assert len(chooser.decisions) == 1


def test_the_cheapest_of_all_bounds_holds() -> None:
    view = View(made_profile().rows, Signals(0.0, cpu=0.7, deadline=0.003), (0.001, 0.002, 0.004))
    wishes = [policy(view) for policy in (Deadline(), Thresholds("cpu", 0.4, 0.8, 0.1), EnergySaver())]
    found = combined(wishes)
    for name in ("low", "high", "limit"):
        assert getattr(found, name) == min(getattr(wish, name) for wish in wishes)
