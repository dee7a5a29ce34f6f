"""Every `Elastic` must pass this: add a maker to ELASTICS."""

from __future__ import annotations

import threading
from functools import cache

import pytest
import torch

from plisse.adapt import file
from plisse.adapt.bits import bits_subspace
from plisse.adapt.elastic import Elastic, Point
from plisse.adapt.family import family
from plisse.adapt.sparsity import measure_thresholds, sparsity_subspace
from plisse.adapt.statistics import measure_statistics
from plisse.adapt.width import width_subspace
from plisse.core.batch import Batch, BatchList
from plisse.core.modules import clone
from plisse.core.origin import Origin
from plisse.cost.macs import count_macs
from plisse.errors import InputError
from plisse.networks.build import build

GENERATOR = torch.Generator().manual_seed(5)
BATCHES = BatchList(tuple(Batch(torch.rand(8, 1, 8, 8, generator=GENERATOR)) for _ in range(2)))
INPUTS = BATCHES[0].inputs


ORIGIN = Origin("builtin", "digits_cnn")


def network():
    return build(ORIGIN, seed=1)


def width(line=False):
    subspace = width_subspace(network(), INPUTS, widths=(0.25, 0.5, 1.0), line=line)
    measure_statistics(subspace, BATCHES)
    return subspace


def sparsity(line=False):
    subspace = sparsity_subspace(network(), sparsities=(0.9, 0.5, 0.0), line=line)
    measure_thresholds(subspace)
    measure_statistics(subspace, BATCHES)
    return subspace


def bits(line=False):
    subspace = bits_subspace(network(), BATCHES, bits=(2, 3, 4, 5), line=line)
    measure_statistics(subspace, BATCHES)
    return subspace


def from_a_file(make):
    """The same, written and read."""
    return file.loads(file.dumps(make(), build(ORIGIN)), build).elastic()


def several():
    """Networks of their own, one per point."""
    elastic = width().elastic()
    return family({point: elastic.extract(point) for point in elastic.space.points})


SUBSPACES = {
    "width": width,
    "width on a line": lambda: width(line=True),
    "sparsity": sparsity,
    "sparsity on a line": lambda: sparsity(line=True),
    "bits": bits,
    "bits on a line": lambda: bits(line=True),
}
ELASTICS = {
    **{name: (lambda make=make: make().elastic()) for name, make in SUBSPACES.items()},
    **{f"{name}, from a file": (lambda make=make: from_a_file(make)) for name, make in SUBSPACES.items()},
    "several networks": several,
}


@cache
def made(name: str) -> Elastic:
    return ELASTICS[name]()


@pytest.fixture(params=ELASTICS)
def elastic(request) -> Elastic:
    return made(request.param)


def trial_points(elastic):
    """The listed points, and one between where there are such."""
    (bounds,) = elastic.space.ranges
    between = Point(bounds.axis, (elastic.space.points[0].value + elastic.space.points[1].value) / 2)
    return (*elastic.space.points, *([] if bounds.whole else [between]))


def test_activated_equals_extracted(elastic):
    for point in trial_points(elastic):
        elastic.activate(point)
        assert elastic.point == point
        assert torch.equal(elastic(INPUTS), elastic.extract(point)(INPUTS))


def test_the_order_of_activations_does_not_matter(elastic):
    first, *_, last = elastic.space.points
    elastic.activate(first)
    before = elastic(INPUTS)
    elastic.activate(last)
    assert not torch.equal(before, elastic(INPUTS))
    elastic.activate(first)
    assert torch.equal(before, elastic(INPUTS))


def test_extracted_networks_are_plain_and_their_own(elastic):
    point = elastic.space.smallest
    elastic.activate(point)
    before = elastic(INPUTS).clone()
    network = elastic.extract(point)
    assert not network.training
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.zero_()
    assert torch.equal(elastic(INPUTS), before)
    assert torch.equal(clone(elastic.extract(point))(INPUTS), before)


def test_cost_does_not_fall_from_point_to_point(elastic):
    def nonzeros(network):
        return sum(int(tensor.count_nonzero()) for tensor in network.parameters())

    networks = [elastic.extract(point) for point in elastic.space.points]
    macs = [count_macs(network, INPUTS) for network in networks]
    numbers = [nonzeros(network) for network in networks]
    bits = [point.settings.get("bits", 32) for point in elastic.space.points]
    assert macs == sorted(macs)
    assert numbers == sorted(numbers) or bits == sorted(bits)
    assert (macs[0], numbers[0], bits[0]) != (macs[-1], numbers[-1], bits[-1])


@pytest.mark.parametrize("value", [-1.0, 0.97531, 9.5, float("nan"), float("inf")])
def test_points_outside_are_refused(elastic, value):
    (bounds,) = elastic.space.ranges
    if bounds.admits(value):
        value = 33.0
    before = elastic.point
    for refused in (elastic.activate, elastic.extract):
        with pytest.raises(InputError) as caught:
            refused(Point(bounds.axis, value))
        assert str(bounds) in caught.value.expected
    other = "bits" if bounds.axis == "width" else "width"
    with pytest.raises(InputError):
        elastic.activate(Point(other, elastic.space.largest.value))
    assert elastic.point == before


def test_calls_and_activations_in_many_threads_never_mix_points(elastic):
    """Every answer is that of one point as a whole."""
    answers = [elastic.extract(point)(INPUTS) for point in elastic.space.points]
    torn: list[int] = []
    done = threading.Event()

    def switch(start):
        for step in range(60):
            elastic.activate(elastic.space.points[(start + step) % len(elastic.space.points)])
            if step % 20 == 0 and hasattr(elastic, "forget"):
                elastic.forget()

    def ask():
        while not done.is_set():
            found = elastic(INPUTS)
            if not any(torch.equal(found, answer) for answer in answers):
                torn.append(1)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    switchers = [threading.Thread(target=switch, args=(number,)) for number in range(2)]
    elastic.activate(elastic.space.largest)
    for thread in (*askers, *switchers):
        thread.start()
    for thread in switchers:
        thread.join()
    done.set()
    for thread in askers:
        thread.join()
    assert not torn
