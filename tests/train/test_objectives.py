from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core.batch import Batch
from plisse.core.reparam import Plain, reparametrize
from plisse.errors import InputError
from plisse.train.objectives import distillation, feature_matching, weighted, with_penalty
from plisse.train.task import cross_entropy


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    return Batch(torch.randn(6, 5), torch.randint(3, (6,)))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return nn.Linear(5, 3), nn.Linear(5, 3)


def weight_energy(model: nn.Module) -> Tensor:
    return sum((p.square().sum() for p in model.parameters()), torch.zeros(()))


def test_distillation_is_hintons_formula(batch: Batch, pair: tuple[nn.Module, nn.Module]) -> None:
    teacher, student = pair
    loss = distillation(teacher, temperature=3.0, hard=0.5)(student, batch)
    wanted, found = (F.softmax(net(batch.inputs) / 3.0, -1) for net in (teacher, student))
    soft = 9.0 * (wanted * (wanted / found).log()).sum(-1).mean()
    hard = F.cross_entropy(student(batch.inputs), batch.target)
    assert torch.allclose(loss.total, soft + 0.5 * hard, atol=1e-5)
    assert set(loss.parts) == {"distillation", "cross_entropy"}


def test_soft_gradients_keep_their_size_when_the_temperature_is_high(
    batch: Batch, pair: tuple[nn.Module, nn.Module]
) -> None:
    teacher, student = pair
    norms = []
    for temperature in (20.0, 40.0):
        student.zero_grad()
        distillation(teacher, temperature)(student, batch).total.backward()
        norms.append(float(student.weight.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_the_given_teacher_stays_as_it_is_and_gets_no_gradient(
    batch: Batch, pair: tuple[nn.Module, nn.Module]
) -> None:
    teacher, student = pair
    objective = distillation(teacher.train())
    objective(student, batch).total.backward()
    assert teacher.training
    assert not objective.teacher.training
    assert teacher.weight.requires_grad
    assert not objective.teacher.weight.requires_grad
    assert teacher.weight.grad is None


def test_a_reparametrized_teacher_teaches_its_effective_weights(batch: Batch) -> None:
    network = nn.Linear(5, 3)
    computed = reparametrize(network, {"weight": Plain(torch.zeros(3, 5))})
    objective = feature_matching(computed)
    assert torch.equal(objective.teacher.weight, torch.zeros(3, 5))


def test_hard_labels_need_targets(batch: Batch, pair: tuple[nn.Module, nn.Module]) -> None:
    with pytest.raises(InputError, match="without targets"):
        distillation(pair[0], hard=1.0)(pair[1], Batch(batch.inputs))
    distillation(pair[0])(pair[1], Batch(batch.inputs))


def test_temperature_must_be_positive() -> None:
    with pytest.raises(InputError, match="temperature"):
        distillation(nn.Linear(1, 1), temperature=0.0)


def test_feature_matching_of_unit_vectors_is_twice_the_cosine_distance(batch: Batch) -> None:
    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.linear(x), dim=-1)

    teacher, student = Unit(), Unit()
    loss = feature_matching(teacher)(student, batch)
    assert torch.allclose(loss.total, 2 * (1 - loss.parts["cosine"]), atol=1e-6)
    assert float(feature_matching(teacher)(teacher, batch).total.detach()) == 0.0


def test_weighted_is_the_weighted_sum_and_keeps_every_part(
    batch: Batch, pair: tuple[nn.Module, nn.Module]
) -> None:
    loss = weighted((2.0, cross_entropy), (0.5, cross_entropy))(pair[1], batch)
    assert torch.allclose(loss.total, 2.5 * cross_entropy(pair[1], batch).total)
    assert set(loss.parts) == {"cross_entropy", "cross_entropy.1"}


def test_penalty_adds_its_gradient(batch: Batch, pair: tuple[nn.Module, nn.Module]) -> None:
    model = pair[1]
    with_penalty(lambda m, b: cross_entropy(m, b), weight_energy, 0.1)(model, batch).total.backward()
    found = model.weight.grad.clone()
    model.zero_grad()
    cross_entropy(model, batch).total.backward()
    assert torch.allclose(found, model.weight.grad + 0.2 * model.weight, atol=1e-6)


def test_objectives_can_be_sent_to_another_process(batch: Batch, pair: tuple[nn.Module, nn.Module]) -> None:
    objective = with_penalty(
        weighted((1.0, distillation(pair[0])), (0.1, cross_entropy)), weight_energy, 0.01
    )
    again = pickle.loads(pickle.dumps(objective))
    assert torch.equal(again(pair[1], batch).total, objective(pair[1], batch).total)
