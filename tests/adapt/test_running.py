"""Families, profiles and governed networks: what runs, and that nothing is torn."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest
import torch
from families import WIDTHS, constant, constants, made_profile
from torch import Tensor, nn

from plisse.adapt import governed
from plisse.adapt.elastic import Point, Switching
from plisse.adapt.family import by_width, family
from plisse.adapt.governed import Governed
from plisse.adapt.governor import Governor
from plisse.adapt.policies import Deadline, Thresholds
from plisse.adapt.profiling import input_form, profile, written_bytes
from plisse.adapt.signals import Signals
from plisse.core.batch import Batch, BatchList
from plisse.cost.profile import Profile, ProfileRow
from plisse.errors import InputError
from plisse.networks.open import file_bytes, open_model
from plisse.train.task import Task, classification


def task_of(shape: tuple[int, ...], n: int = 8) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((n, *shape), generator=generator)
    batches = BatchList((Batch(inputs, torch.arange(n) % 2),))
    return classification("made:place", inputs, batches, batches, batches)


def test_a_family_switches_extracts_and_refuses() -> None:
    net = constants()
    x = torch.zeros(1, 4)
    for width in WIDTHS:
        net.activate(Point("width", width))
        assert float(net(x)[0, 0]) == width
        alone = net.extract(Point("width", width))
        assert torch.equal(alone(x), net(x))
        assert alone.weight.data_ptr() != net.network.weight.data_ptr()  # type: ignore[union-attr]
    for point in (Point("width", 0.1), Point("width", 2.0), Point("bits", 4)):
        with pytest.raises(InputError):
            net.activate(point)
    assert str(net.point) == "width=1"


def test_between_two_members_the_cheaper_runs() -> None:
    net = constants()
    for asked, runs in ((0.3, 0.25), (0.49, 0.25), (0.5, 0.5), (0.99, 0.5), (1.0, 1.0)):
        net.activate(Point("width", asked))
        assert float(net(torch.zeros(1, 4))[0, 0]) == runs
    falling = family({Point("sparsity", value): constant(value) for value in (0.9, 0.5, 0.0)})
    falling.activate(Point("sparsity", 0.4))
    assert float(falling(torch.zeros(1, 4))[0, 0]) == 0.5


def test_members_of_equal_width_and_of_several_axes_are_refused() -> None:
    with pytest.raises(InputError, match="different widths"):
        by_width([constant(1.0), constant(2.0)])
    with pytest.raises(InputError, match="different widths"):
        by_width([nn.ReLU()])
    with pytest.raises(InputError, match="one axis"):
        family({Point("width", 0.5): constant(1.0), Point("bits", 4): constant(2.0)})
    with pytest.raises(InputError, match="one axis"):
        family({})
    with pytest.raises(InputError, match="in order"):
        family({Point("width", width): constant(width) for width in (0.5, 1.0, 0.25)})


def convnet(channels: int) -> nn.Module:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), pool)


def test_written_bytes_are_the_length_of_the_file_where_there_can_be_one() -> None:
    model = open_model("digits_cnn")
    assert written_bytes(model) == len(file_bytes(model))
    assert written_bytes(nn.Linear(3, 2)) == 4 * 8


def test_a_profile_measures_what_stands_in_its_rows() -> None:
    small, large = (convnet(channels) for channels in (4, 8))
    net = by_width([large, small])
    task = task_of((3, 32, 32))
    before = net.point
    found = profile(net, None, task, batch=2, repeats=3)
    assert [row.point for row in found.rows] == [str(point) for point in net.space.points]
    assert net.point == before
    for row, network in zip(found.rows, (small, large), strict=True):
        assert row.cost.params == sum(p.numel() for p in network.parameters())
        assert row.cost.bytes == written_bytes(network) == 4 * row.cost.params
        assert row.p95 is not None
        assert row.cost.latency is not None
        assert 0 < row.cost.latency <= row.p95
        assert row.switch is not None
        assert row.memory is not None
        assert row.memory > 4 * row.cost.params
    assert found.rows[0].cost.macs < found.rows[1].cost.macs
    assert found.conditions["batch"] == 2
    assert found.conditions["task"] == "made"
    assert found.conditions["inputs"] == {"": {"shape": [3, 32, 32], "type": "float32"}}


def test_a_profile_refuses_no_points_foreign_points_and_large_batches() -> None:
    net, task = constants(), task_of((4,))
    for points, batch in (([], None), ([Point("width", 3.0)], None), ([net.point] * 2, None), (None, 9)):
        with pytest.raises(InputError):
            profile(net, points, task, batch=batch, repeats=1)


def test_the_form_of_inputs_names_tuples_by_place_and_dictionaries_by_key() -> None:
    ids = torch.zeros(2, 7, dtype=torch.int64)
    assert input_form((ids,)) == {"0": {"shape": [7], "type": "int64"}}
    assert input_form({"input_ids": ids}) == {"input_ids": {"shape": [7], "type": "int64"}}


class Slow:
    """A clock that says that every pass took `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def test_governed_runs_what_the_governor_chooses_and_learns_from_the_clock() -> None:
    governor = Governor(made_profile(), (Deadline(),), dwell=0.0)
    times = iter(range(1000))
    clock = Slow(0.004)
    run = Governed(constants(), governor, lambda: Signals(float(next(times))), clock=clock)
    x = torch.zeros(1, 4)
    assert run(x, deadline=0.01).point == "width=1"
    clock.seconds = 0.016
    points = [run(x, deadline=0.01) for _ in range(8)]
    assert points[-1].point == "width=0.25"
    assert all(float(answer.outputs[0, 0]) == float(answer.point.partition("=")[2]) for answer in points)
    assert points[-1].seconds == pytest.approx(0.016)
    switched = [answer.switching > 0 for answer in points]
    assert any(switched)
    assert not all(switched)


def test_governed_measures_every_point_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    governor = Governor(made_profile())
    monkeypatch.setattr(governed, "_pause", lambda inputs: None)
    net = constants()
    Governed(net, governor, lambda: Signals(0.0), example=torch.zeros(1, 4), clock=Slow(0.007))
    assert [governor.expected(row.point) for row in governor.profile.rows] == pytest.approx([0.007] * 3)


def test_governed_refuses_a_profile_of_another_network() -> None:
    rows = (*made_profile().rows, ProfileRow("bits=4", made_profile().rows[0].cost, 0.1))
    with pytest.raises(InputError, match="a profile of this network"):
        Governed(constants(), Governor(Profile(rows)), lambda: Signals(0.0))


class Wide(nn.Module):
    """Many layers of equal numbers: were weights of two points mixed, the output would show it."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(12)])
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(torch.eye(8) * value)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_predictions_are_never_torn_while_others_switch() -> None:
    """Three threads predict with a governor that switches all the time; the answer tells which point ran."""
    net, expected = wholes()
    governor = Governor(made_profile(), (Thresholds("cpu", 0.3, 0.7, 0.0),), dwell=0.0)
    loads = itertools.count()
    run = Governed(net, governor, lambda: Signals(float(n := next(loads)), cpu=(n * 7 % 10) / 10))

    def predict() -> bool:
        answer = run(torch.ones(1, 8))
        return set(answer.outputs.flatten().tolist()) == {expected[answer.point]}

    assert all_true(predict, predict, predict)
    assert len({decision.point for decision in governor.decisions}) == 3


def test_calls_are_whole_while_another_thread_activates() -> None:
    net, expected = wholes()
    points = itertools.cycle(net.space.points)

    def switch() -> bool:
        net.activate(next(points))
        return True

    def call() -> bool:
        found = set(net(torch.ones(1, 8)).flatten().tolist())
        return len(found) == 1 and found <= set(expected.values())

    assert all_true(switch, call, call)


def wholes() -> tuple[Switching, dict[str, float]]:
    values = {0.25: 0.5, 0.5: 1.0, 1.0: 2.0}
    net = family({Point("width", width): Wide(value) for width, value in values.items()})
    return net, {f"width={width:g}": value**12 for width, value in values.items()}


def all_true(*works: Callable[[], bool], rounds: int = 100) -> bool:
    """Every work `rounds` times, each in a thread of its own, all at once."""
    found: list[bool] = []

    def repeat(work: Callable[[], bool]) -> None:
        with torch.inference_mode():
            found.extend([work() for _ in range(rounds)])

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(found) == rounds * len(works) and all(found)
