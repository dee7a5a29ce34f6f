"""The benchmark of spectra: its ways to come by statistics, its files, its tables."""

from __future__ import annotations

import torch

from benchmarks.subspace import __main__ as run
from benchmarks.subspace import tables
from benchmarks.subspace.machine import _toggling, file_bytes, session
from benchmarks.subspace.methods import SMALL, methods
from plisse.adapt.bits import bits_subspace
from plisse.adapt.elastic import Point, Switching
from plisse.adapt.statistics import measure_statistics
from plisse.adapt.width import width_subspace
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin
from plisse.networks.build import build
from plisse.train.task import classification

INPUTS = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = BatchList((Batch(INPUTS, torch.arange(8)),))
TASK = classification("random", INPUTS, BATCHES, BATCHES, BATCHES)


def subspace():
    net = build(Origin("builtin", "digits_cnn"))
    made = width_subspace(net, INPUTS, widths=(0.25, 0.5, 0.6, 0.75, 1.0)).eval()
    measure_statistics(made, BATCHES)
    return made


def outputs(way):
    setting = run.Setting(TASK, BATCHES, 1, 0.1, "cpu", statistics=1)
    return {point.value: network.eval()(INPUTS) for point, network in run.found(setting, subspace(), way)}


def test_stored_statistics_are_those_of_a_recalibration_on_the_same_images():
    stored, again, shared = outputs("stored"), outputs("recalibrated"), outputs("shared")
    for width, found in stored.items():
        assert torch.allclose(found, again[width], atol=1e-2)
    assert torch.allclose(shared[1.0], stored[1.0])
    assert not torch.allclose(shared[0.25], stored[0.25], atol=1e-2)


def test_no_way_changes_the_subspace_for_the_next():
    setting = run.Setting(TASK, BATCHES, 1, 0.1, "cpu", statistics=1)
    made = subspace()
    points = made.space.points
    for way in ("between", "shared", "stored"):
        assert [point for point, _ in run.found(setting, made, way)] == list(points)
    assert made.space.points == points


def test_every_method_makes_a_subspace_of_its_axis_and_small_has_one_of_each():
    assert sorted(method.axis for method in SMALL) == ["bits", "sparsity", "width"]
    keys = [(method.axis, method.name) for method in methods()]
    assert len(set(keys)) == len(keys)


def test_members_of_bits_are_written_on_their_grid():
    net = build(Origin("builtin", "digits_cnn"))
    made = bits_subspace(net, BATCHES, bits=(3, 4)).eval()
    measure_statistics(made, BATCHES)
    found = file_bytes(made, (3,))
    assert found["members"]["3"] < found["members"]["4"] < 60_000
    assert found["share_of_largest"] < 1.2


def test_a_toggle_switches_at_every_call():
    net = subspace().elastic()
    for held in (True, False):
        switch = _toggling(net, Point("width", 0.5), held)
        seen = []
        for _ in range(4):
            switch(None)
            seen.append(net.point.value)
        assert len(set(seen)) == 2
        assert seen[:2] == seen[2:]


def test_a_session_counts_first_switches():
    net = subspace().elastic()
    found = session(net, 30)
    assert found["first"] == len(net.space.points) - 1
    made = []
    one = Switching(net.space, lambda point: made.append(point) or net.extract(point))
    session(one, 30)
    assert len(made) == len(net.space.points), "each network is made once, the others are switches"


def test_tables_show_every_row_once():
    point = {"point": 0.5, "score": 0.9, "interval": [0.8, 1.0], "val": 0.8}
    full = {**point, "point": 1.0}
    files = {"axis": "width", "spectrum": 1100, "members": {"0.5": 400, "1": 1000}, "share_of_largest": 1.1}
    rows = [
        {
            "axis": "width",
            "method": "ours",
            "steps": 5,
            "start": "pretrained",
            "statistics": "stored",
            "points": [point, full],
            "files": files,
        },
        {
            "axis": "width",
            "method": "alone at 0.5",
            "steps": 5,
            "start": "pretrained",
            "statistics": "stored",
            "points": [point],
            "files": None,
        },
    ]
    timed = {
        "network": "resnet20",
        "axis": "width",
        "to": "width=0.5",
        "seconds": {"held": 1e-5, "made": 2e-3},
        "session": {"median": 2e-5, "mean": 3e-4, "first": 2},
    }
    late = {
        "network": "resnet20",
        "width": 0.5,
        "macs": 64_000_000,
        "seconds": 0.01,
        "spread": 0.001,
        "speedup": 1.9,
    }
    text = tables.section({"rows": rows, "switch": [timed], "latency": [late]})
    assert "| ours | stored | 5 | 90.0 (80.0) | 90.0 (80.0) |" in text
    assert "| alone | stored | 5 | 90.0 (80.0) | – |" in text
    assert "| width | ours, 5 steps | 1,100 | 1.100 | 0.5: 400, 1: 1,000 | 1,400 |" in text
    assert "| resnet20 | width=0.5 | 0.01 | 2 | 0.02 | 0.3 |" in text
    assert "| resnet20 | 0.5 | 2.0 | 10.0 ± 1.0 | 1.90 |" in text
