"""Laws of rotations before rounding and of codes chosen by outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.notes import notes_of
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.codebooks.vectors import ProductQuantization, ResidualQuantization
from plisse.compress.quantize.families import Nearest
from plisse.compress.quantize.incoherent import Incoherent
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.compress.quantize.rounding.additive import AdditiveCodes, FixedVectors, error, fitted_books
from plisse.compress.quantize.rounding.gptq import GPTQ
from plisse.compress.step import chain
from plisse.core.batch import Batch, BatchList, call
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Reparametrized
from plisse.errors import InputError
from plisse.train.task import Task, classification


def skeleton() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(8 * 16, 24), nn.ReLU(), nn.Linear(24, 10)]
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), *head).eval()


def problem() -> tuple[nn.Module, Task]:
    model = with_origin(skeleton(), Origin("builtin", "small", {}))
    draw = torch.Generator().manual_seed(1)
    items = tuple(
        Batch(torch.randn(24, 4, 4, 4, generator=draw).cumsum(2).cumsum(3), torch.arange(24) % 10)
        for _ in range(3)
    )
    return model, classification("made", items[0].inputs, *[BatchList(items)] * 3)


def lost(model: nn.Module, other: nn.Module, task: Task) -> float:
    with torch.no_grad():
        pairs = [(call(model, b.inputs), call(other.eval(), b.inputs)) for b in task.calibration]
    return sum(float((a - b).square().sum()) for a, b in pairs)


@pytest.mark.parametrize("sides", ["both", "input", "output"])
def test_rotated_networks_compute_the_same(sides: str) -> None:
    model, task = problem()
    before = copy.deepcopy(model.state_dict())
    rotated = Incoherent(3, sides)(model, task)
    assert torch.allclose(rotated(task.example), model(task.example), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = modelfile.loads(modelfile.dumps(rotated, skeleton()), lambda _: skeleton())
    assert torch.equal(found(task.example), rotated(task.example))


def test_rotation_takes_outliers_away() -> None:
    """Weights with heavy tails lose less by rounding once they are rotated, with and without GPTQ."""
    model, task = problem()
    with torch.no_grad():
        for layer in (model[0], model[3], model[5]):  # type: ignore[index]
            draw = torch.Generator().manual_seed(4)
            weight = torch.randn(layer.weight.shape, generator=draw)
            layer.weight.copy_(weight**5 / weight[0].numel() ** 0.5 / 10)
    rotated = Incoherent()(model, task)
    first, turned = (net[3].weight.detach() for net in (model, rotated))  # type: ignore[index, operator, union-attr]
    assert float(turned.abs().max() / turned.std()) < 0.5 * float(first.abs().max() / first.std())
    for rounding in (Nearest(), GPTQ()):
        step = Quantize(4, range=MinMax(), rounding=rounding)
        assert lost(model, chain(Incoherent(), step)(model, task), task) < lost(
            model, step(model, task), task
        )


def test_rotated_layers_take_rounded_inputs_and_are_stored_small() -> None:
    model, task = problem()
    step = chain(Incoherent(), Quantize(4, activations=Activations(8)))
    made = step(model, task).eval()
    data = modelfile.dumps(made, skeleton())
    found = modelfile.loads(data, lambda _: skeleton())
    assert torch.allclose(found(task.example), made(task.example), atol=1e-4)
    plain = len(modelfile.dumps(Quantize(4, activations=Activations(8))(model, task), skeleton()))
    assert len(data) < plain + 400


def test_what_has_no_rotation_stays_and_is_named() -> None:
    model = nn.Sequential(nn.Embedding(5, 6), nn.Conv1d(4, 4, 1, groups=2))
    notes = notes_of(Incoherent()(model, problem()[1]))
    assert len(notes) == 2


@pytest.mark.parametrize(
    "grid",
    [ResidualQuantization(4, 4, 2), ProductQuantization(4, 5), ResidualQuantization(2, 2, 3)],
    ids=repr,
)
def test_codes_chosen_by_outputs_lose_less(grid) -> None:
    model, task = problem()
    nearest = Quantize(grid=grid)(model, task)
    found = Quantize(grid=grid, rounding=AdditiveCodes())(model, task)
    assert lost(model, found, task) < lost(model, nearest, task)
    assert isinstance(found, Reparametrized)
    assert sum(isinstance(each, FixedVectors) for each in found.reparams.values()) >= 3
    data = modelfile.dumps(found, skeleton())
    assert len(data) <= 1.05 * len(modelfile.dumps(nearest, skeleton()))
    assert torch.allclose(
        modelfile.loads(data, lambda _: skeleton())(task.example), found.eval()(task.example), atol=1e-5
    )


def test_fitted_codebooks_have_no_gradient_left() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, mixing = torch.randn(6, 8, generator=draw).double(), torch.randn(20, 8, generator=draw).double()
    hessian, codes = mixing.T @ mixing, torch.randint(3, (2, 24), generator=draw)
    start = torch.randn(2, 3, 2, generator=draw).double()
    books = fitted_books(rows, codes, start, hessian)
    least = error(rows, codes, books, hessian)
    for _ in range(20):
        near = books + 1e-3 * torch.randn(books.shape, generator=draw)
        assert error(rows, codes, near, hessian) >= least - 1e-9
    assert least < error(rows, codes, start, hessian)


def test_codebooks_go_on_learning_with_fixed_codes() -> None:
    model, task = problem()
    step = Quantize(grid=ResidualQuantization(4, 4, 2), rounding=AdditiveCodes(1))
    before = step(model, task)
    after = Quantize(grid=step.grid, rounding=step.rounding, aware=Aware(5, lr=0.05, precision="32-true"))(
        model, task
    )
    for name, reparam in after.reparams.items():  # type: ignore[operator, union-attr]
        symbols: Tensor = before.reparams[name].symbols  # type: ignore[index, union-attr]
        assert torch.equal(reparam.symbols, symbols)
        assert not torch.equal(reparam.codebooks, before.reparams[name].codebooks)  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdditiveCodes(0),
        lambda: AdditiveCodes(1, 0.0),
        lambda: Incoherent(-1),
        lambda: Incoherent(0, "x"),
    ],
)
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError):
        make()
