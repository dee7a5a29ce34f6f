"""Learning from a teacher at several depths."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plisse.compress.finetune import distilled
from plisse.compress.fold import FoldBatchNorm
from plisse.core.batch import Batch, BatchList
from plisse.core.modules import clone
from plisse.core.reparam import Plain, reparametrize
from plisse.errors import GraphError, InputError
from plisse.networks.resnet import resnet20
from plisse.train.intermediate import depths, intermediate, outputs_of
from plisse.train.loop import fit
from plisse.train.objectives import distillation, weighted
from plisse.train.optimizers import SGD
from plisse.train.task import Task, classification, relative_error


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
    )
    model.append(nn.Linear(16, 3))
    for _ in range(5):
        model(torch.randn(32, 2, 6, 6))
    return model.eval()


def batch() -> Batch:
    return Batch(torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(0)))


def task() -> Task:
    batches = BatchList((batch(),))
    return classification("none", batch().inputs, batches, batches, batches)


def test_a_teacher_has_nothing_to_learn_from_itself_folded_or_not() -> None:
    objective = intermediate(net())
    assert objective.layers == ("1", "4")
    for student in (net(), FoldBatchNorm()(net(), task())):
        found = objective(student, batch())
        assert float(found.total.detach()) < 1e-6


def test_the_terms_are_those_of_the_paper() -> None:
    teacher, student = net(0), net(1)
    found = intermediate(teacher, weight=0.5, temperature=2.0)(student, batch())
    inputs = batch().inputs
    early = F.smooth_l1_loss(student[:2](inputs), teacher[:2](inputs))
    late = F.smooth_l1_loss(student[:5](inputs), teacher[:5](inputs))
    near = early / 3 + late * 2 / 3
    soft = distillation(teacher, 2.0)(student, batch()).total
    torch.testing.assert_close(found.parts["intermediate"], near.detach())
    torch.testing.assert_close(found.total, soft + 0.5 * near)


def test_it_composes() -> None:
    teacher, student = net(0), net(1)
    alone = intermediate(teacher, weight=1.0, soft=0.0)
    sum_ = weighted((1.0, distillation(teacher, 1.0)), (0.01, alone))(student, batch())
    torch.testing.assert_close(sum_.total, intermediate(teacher)(student, batch()).total)


def test_blocks_are_compared_where_there_are_some() -> None:
    assert depths(resnet20()) == tuple(f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3))
    with pytest.raises(InputError, match="layers="):
        depths(nn.Sequential(nn.Linear(3, 2)))


def test_training_with_it_brings_layers_nearer() -> None:
    teacher, student = net(0), net(1)
    objective = intermediate(teacher, weight=1.0)
    before = objective(student, batch()).parts["intermediate"]
    fit(student, objective, BatchList((batch(),)), steps=60, optimizer=SGD(lr=0.3))
    after = objective(student.eval(), batch()).parts["intermediate"]
    assert float(after) < 0.6 * float(before)


def test_computed_weights_are_seen_through() -> None:
    teacher = net(0)
    student = reparametrize(net(1), {"0.weight": Plain(teacher[0].weight)})
    with outputs_of(student, ("0",)) as found:
        student(batch().inputs)
    plain = clone(net(1))
    plain[0].weight.data = teacher[0].weight.data
    torch.testing.assert_close(found["0"], plain[0](batch().inputs))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="layer 'none'"):
        intermediate(net(), ("none",))
    with pytest.raises(InputError, match="temperature"):
        intermediate(net(), temperature=0.0)
    narrow = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(80, 3)).eval()
    with pytest.raises(GraphError, match="outputs of"):
        intermediate(net(), ("1",))(narrow, batch())
    with pytest.raises(InputError, match="hints"):
        distilled(task(), net(), hard=0.5, hints=0.01)


def test_distilled_with_hints_learns_intermediate_outputs() -> None:
    found = distilled(task(), net(), temperature=1.0, hints=0.02).objective
    assert (found.weight, found.layers) == (0.02, ("1", "4"))
    vectors = dataclasses.replace(task(), divergence=relative_error)
    with pytest.raises(InputError, match="hints"):
        distilled(vectors, net(), hints=0.02)
