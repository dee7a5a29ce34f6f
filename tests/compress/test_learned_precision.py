"""Widths that are learned or searched: within the mean or the budget, better than what they start from."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.grids import PerChannel
from plisse.compress.quantize.mixed.candidates import Uniformly
from plisse.compress.quantize.mixed.costs import float_bytes, written_bytes
from plisse.compress.quantize.mixed.eigenvalue import HessianEigenvalue
from plisse.compress.quantize.mixed.learned import LearnedPrecision
from plisse.compress.quantize.mixed.mixed import MixedPrecision, widths_of
from plisse.compress.quantize.mixed.refine import company
from plisse.compress.quantize.mixed.search import SearchedPrecision, fitting
from plisse.compress.quantize.mixed.sensitivity import Perturbation
from plisse.compress.quantize.mixed.table import bytes_of, total
from plisse.compress.quantize.mixed.widths import (
    BitPlanes,
    Blend,
    LearnedRange,
    Planes,
    Ranged,
    WidthLearning,
)
from plisse.compress.quantize.ranges import MSE
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Plain
from plisse.errors import BudgetError, InputError
from plisse.train.loop import fit
from plisse.train.optimizers import SGD
from plisse.train.task import Task, classification

METHODS: list[WidthLearning] = [Blend(), LearnedRange(), BitPlanes(every=5)]
HOW = Uniformly(True, PerChannel(), MSE())


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 16), nn.ReLU(), nn.Linear(16, 3)
    )


@pytest.fixture(scope="module")
def task() -> Task:
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 1, 8, 8, generator=draw)
    targets = [torch.randint(3, (32,), generator=draw) for _ in range(3)]
    items = tuple(Batch(centres[t] + 0.8 * torch.randn(32, 1, 8, 8, generator=draw), t) for t in targets)
    return classification("made", items[0].inputs, *[BatchList(items)] * 3)


@pytest.fixture(scope="module")
def net(task: Task) -> nn.Module:
    torch.manual_seed(1)
    model = with_origin(small(), Origin("factory", f"{__name__}:small", {}))
    fit(model, task.objective, task.train, steps=40, optimizer=SGD(lr=0.05), precision="32-true")
    return model.eval()


def learned(method: WidthLearning, mean: float = 3.5) -> LearnedPrecision:
    search = Aware(15, lr=0.02, precision="32-true")
    return LearnedPrecision(mean, method, search, bits=(2, 4, 8))


def mean_bits(model: nn.Module, net: nn.Module) -> float:
    sizes = {name: modules.tensor(net, name).numel() for name in modules.weight_names(net)}
    return sum(sizes[name] * bits for name, bits in widths_of(model).items()) / sum(sizes.values())


@pytest.mark.parametrize("method", METHODS, ids=repr)
class TestMethods:
    def test_keeps_the_mean_the_network_and_the_file(self, method, net, task):
        before = copy.deepcopy(net.state_dict())
        made = learned(method)(net, task)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert 2 <= mean_bits(made, net) <= 3.5
        again = learned(method)(net, task)
        assert widths_of(made) == widths_of(again)
        found = modelfile.loads(modelfile.dumps(made, small()), lambda _: small())
        assert torch.allclose(found(task.example), made.eval()(task.example), atol=1e-5)

    def test_room_for_all_is_used_and_training_goes_on(self, method, net, task):
        assert set(widths_of(learned(method, 2.0)(net, task)).values()) == {2}
        step = replace(learned(method, 4.0), aware=Aware(5, precision="32-true"), activations=Activations(8))
        made = step(net, task)
        assert hasattr(made.model[0], "input_quantizer")
        assert mean_bits(made, net) <= 4

    def test_starts_near_the_widest_grid(self, method, net):
        weight = net[3].weight
        part = method.wrapped(Plain(weight), (2, 4, 8), HOW)
        assert float((part() - weight).detach().abs().max()) < 0.35 * float(weight.detach().abs().max())
        part().sum().backward()
        gradients = [p.grad for p in part.parameters() if p.requires_grad]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


def test_learned_widths_are_the_logarithm_of_range_and_step() -> None:
    part = Ranged(Plain(torch.tensor([1.0, -7.0, 3.0])), 4)
    assert float(part.bits().detach()) == pytest.approx(4.0)
    assert part().detach().tolist() == pytest.approx([1.0, -7.0, 3.0], abs=1e-5)
    with torch.no_grad():
        part.log_step += 1
    assert float(part.bits().detach()) == pytest.approx(np.log2(4.5) + 1)


def test_planes_hold_the_bits_of_whole_numbers_and_empty_ones_cost_nothing() -> None:
    values = torch.tensor([0.0, 1.0, -4.0, 7.0])
    part = Planes(Plain(values), 4, HOW)
    assert torch.equal(part().detach(), values)
    assert part.bits_up[:, 3].tolist() == [1.0, 1.0, 1.0]
    assert part.bits_down[:, 2].tolist() == [0.0, 0.0, 1.0]
    before = float(part.bits().detach())
    with torch.no_grad():
        part.bits_up[0] *= 0.2
    part.rebuild()
    assert part().detach().tolist() == [0.0, 0.0, -4.0, 6.0]
    assert float(part.bits().detach()) < before


def test_a_strong_group_lasso_empties_planes(net: nn.Module, task: Task) -> None:
    weight = net[3].weight
    parts = [Planes(Plain(weight), 8, HOW) for _ in range(2)]
    method = BitPlanes(weight=1.0)
    holder = nn.ModuleList([parts[1]])
    optimizer = torch.optim.SGD(holder.parameters(), lr=2.0)
    for _ in range(40):
        optimizer.zero_grad()
        method.penalty(holder, 4.0).backward()
        optimizer.step()
        parts[1].limit()
    parts[1].rebuild()
    counts = [int(sum(p.bits_up.abs().sum() + p.bits_down.abs().sum() for p in [part])) for part in parts]
    assert counts[1] < counts[0]


def test_a_search_never_ends_worse_than_the_solver_and_holds_its_budget(net: nn.Module, task: Task) -> None:
    mixed = MixedPrecision("bytes=0.16x", bits=(2, 3, 4, 8), sensitivity=Perturbation(1), sweeps=0)
    step = SearchedPrecision(mixed, rounds=3, samples=10, batches=1)
    made = step(net, task)
    assert written_bytes(made, net, task.name) <= 0.16 * float_bytes(net)
    table, lost = mixed.table(net, task), company(net, task, 1)
    budget = sum(bytes_of(name, options[2]) for name, options in table.options.items())
    picks, _ = step.found(table, budget, bytes_of, lost)
    assert total(picks, bytes_of) <= budget
    assert lost(picks) <= lost(table.choose(budget, bytes_of)) + 1e-9


def test_searched_widths_hold_bit_operations(net: nn.Module, task: Task) -> None:
    mixed = MixedPrecision("bitops=0.15x", bits=(2, 4, 8), sensitivity=Perturbation(1), sweeps=0)
    assert set(widths_of(SearchedPrecision(mixed, rounds=2, samples=5)(net, task)).values()) <= {2, 4, 8}


def test_choices_beyond_the_budget_are_made_cheaper(net: nn.Module, task: Task) -> None:
    table = MixedPrecision("bytes=1x", bits=(2, 8), sensitivity=Perturbation(1)).table(net, task)
    most = {name: len(options) - 1 for name, options in table.options.items()}
    least = total(table.cheapest(bytes_of), bytes_of)
    draw = np.random.default_rng(0)
    places = fitting(table, most, least, bytes_of, draw)
    assert sum(bytes_of(n, table.options[n][i]) for n, i in places.items()) == least
    with pytest.raises(BudgetError):
        fitting(table, most, least - 1, bytes_of, draw)


def test_power_iteration_finds_the_eigenvalue_of_a_quadratic() -> None:
    """1/2 |y - W x|^2 has the Hessian I (x) E[x x^T]."""
    net = nn.Linear(5, 3, bias=False)
    inputs = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1, 1, 1, 1])

    class Square:
        def batches(self, task, count):
            return BatchList((Batch(inputs),))

        def loss(self, model, task, batch, draw):
            return 0.5 * model(batch.inputs).square().sum(1).mean()

    found = HessianEigenvalue(20, Square()).eigenvalues(net, None, ("weight",))["weight"]  # type: ignore[arg-type]
    wanted = float(torch.linalg.eigvalsh(inputs.T @ inputs / 400)[-1])
    assert found == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LearnedPrecision(1.5),
        lambda: LearnedPrecision(float("nan")),
        lambda: LearnedPrecision(4, bits=(1, 4)),
        lambda: LearnedPrecision(4, bits=()),
        lambda: Blend(-1.0),
        lambda: Blend(1.0, 0.0),
        lambda: LearnedRange(0.0),
        lambda: BitPlanes(0.1, 0),
        lambda: SearchedPrecision(MixedPrecision("bytes=1x"), rounds=0),
        lambda: SearchedPrecision(MixedPrecision("bytes=1x"), elite=1.0),
        lambda: SearchedPrecision(MixedPrecision("bytes=1x"), smoothing=0.0),
        lambda: HessianEigenvalue(0),
    ],
)
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError):
        make()
