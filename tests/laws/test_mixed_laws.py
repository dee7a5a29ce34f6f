"""Laws of sensitivity measures: known traces, known Fisher information, no loss without a change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plisse.compress.quantize.grids import PerChannel
from plisse.compress.quantize.mixed.candidates import Candidate, Uniformly, candidates
from plisse.compress.quantize.mixed.curvature import Fisher, HessianTrace, Itself, Labels, SampledLabels
from plisse.compress.quantize.mixed.sensitivity import Perturbation, Sensitivity
from plisse.compress.quantize.ranges import MinMax
from plisse.core.batch import Batch, BatchList, call
from plisse.core.reparam import Plain
from plisse.core.stored import raw
from plisse.train.task import Loss, Task, classification

EVERY: list[Sensitivity] = [
    Perturbation(),
    HessianTrace(samples=2),
    HessianTrace(samples=2, target=Labels()),
    Fisher(batches=2),
    Fisher(batches=2, target=Labels()),
]


def half_square(model: nn.Module, batch: Batch) -> Loss:
    """1/2 |y - f(x)|^2, mean over samples: a Gaussian's negative log-likelihood."""
    assert batch.target is not None
    return Loss(0.5 * (call(model, batch.inputs) - batch.target).square().sum(1).mean())


def gaussian_task(net: nn.Linear, count: int, n: int) -> Task:
    """y = W x + noise of variance 1, x with a different variance per feature."""
    torch.manual_seed(3)
    spread = torch.linspace(0.5, 2, net.in_features)
    items = []
    for _ in range(count):
        x = torch.randn(n, net.in_features) * spread
        items.append(Batch(x, net(x).detach() + torch.randn(n, net.out_features)))
    batches = BatchList(tuple(items))
    return Task("line", items[0].inputs, batches, batches, batches, half_square, None, None)  # type: ignore[arg-type]


def exact(weight: torch.Tensor) -> Candidate:
    return Candidate(32, raw(weight.detach().numpy()), 0)


def classifier() -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    batches = BatchList(tuple(Batch(torch.randn(64, 6), torch.randint(3, (64,))) for _ in range(3)))
    return net, classification("made", batches[0].inputs, batches, batches, batches)


def test_hutchinson_finds_the_trace_of_a_quadratic() -> None:
    # 1/2 |y - W x|^2 has the Hessian I (x) E[x x^T], whose trace is K E|x|^2
    net = nn.Linear(5, 3, bias=False)
    task = gaussian_task(net, 1, 400)
    x = task.train[0].inputs
    assert isinstance(x, torch.Tensor)
    wanted = 3 * float(x.square().sum(1).mean())
    found = HessianTrace(samples=200, target=Labels()).traces(net, task, ["weight"])["weight"]
    assert found == pytest.approx(wanted, rel=0.02)


def test_hutchinson_is_exact_where_the_hessian_is_diagonal() -> None:
    net = nn.Linear(4, 2, bias=False)
    batches = BatchList((Batch(torch.eye(4), torch.zeros(4, 2)),))  # E[x x^T] = I / 4
    task = Task("eye", torch.eye(4), batches, batches, batches, half_square, None, None)  # type: ignore[arg-type]
    found = HessianTrace(samples=1, target=Labels()).traces(net, task, ["weight"])["weight"]
    assert found == pytest.approx(8 / 4, rel=1e-5)


def test_fisher_of_a_linear_gaussian_model_is_the_second_moment_of_its_inputs() -> None:
    net = nn.Linear(5, 3, bias=False)
    task = gaussian_task(net, 400, 16)
    found = Fisher(batches=400, target=Labels()).information(net, task, ["weight"])["weight"]
    wanted = torch.linspace(0.5, 2, 5).square().expand(3, 5)  # E[(noise x_j)^2] = E x_j^2
    assert torch.allclose(found, wanted, rtol=0.35)
    assert torch.allclose(found.mean(0), wanted[0], rtol=0.2)
    assert torch.allclose(found.mean(), wanted.mean(), rtol=0.06)


def test_fisher_with_drawn_labels_is_the_curvature_of_the_divergence_from_itself() -> None:
    net, task = classifier()
    trace = HessianTrace(samples=40, target=Itself()).traces(net, task, ["0.weight", "2.weight"])
    fisher = Fisher(batches=120, target=SampledLabels()).information(net, task, ["0.weight", "2.weight"])
    for name, value in trace.items():
        assert float(fisher[name].sum()) == pytest.approx(value, rel=0.12)


def test_curvature_predicts_what_small_changes_cost_on_average() -> None:
    net, task = classifier()
    weight = net[0].weight.detach()  # type: ignore[index, union-attr]
    moved = [weight + 0.02 * torch.randint(0, 2, weight.shape).mul(2).sub(1) for _ in range(60)]
    options = {"0.weight": [Candidate(4, raw(value.numpy()), 0) for value in moved]}
    tried, *curved = (
        sum(measure.losses(net, task, options)["0.weight"])
        for measure in (Perturbation(batches=3), HessianTrace(samples=30), Fisher(batches=90))
    )
    assert curved == pytest.approx([tried, tried], rel=0.2)


@pytest.mark.parametrize("measure", EVERY, ids=repr)
def test_no_change_costs_nothing(measure: Sensitivity) -> None:
    net, task = classifier()
    names = {"0.weight": net[0].weight, "2.weight": net[2].weight}  # type: ignore[index]
    options = {name: (exact(weight),) for name, weight in names.items()}
    assert measure.losses(net, task, options) == {"0.weight": [0.0], "2.weight": [0.0]}


@pytest.mark.parametrize("measure", EVERY, ids=repr)
def test_wider_loses_less_and_the_network_stays(measure: Sensitivity) -> None:
    net, task = classifier()
    how = [Uniformly(True, PerChannel(), MinMax())]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    options = {n: candidates(Plain(net.get_parameter(n)), (2, 4, 8), how) for n in ("0.weight", "2.weight")}
    for row in measure.losses(net, task, options).values():
        assert row[0] > row[1] > row[2] >= 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
