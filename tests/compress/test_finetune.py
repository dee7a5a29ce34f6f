from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from plisse.compress.finetune import FineTune, ReestimateNorm, distilled
from plisse.compress.step import Step, chain
from plisse.core.batch import Batch, BatchList
from plisse.core.config import from_data, to_data
from plisse.core.reparam import Plain, Reparametrized, baked, reparametrize
from plisse.train.objectives import Distillation, FeatureMatching
from plisse.train.optimizers import SGD, AdamW
from plisse.train.schedules import Constant, Cosine
from plisse.train.statistics import reestimate_statistics
from plisse.train.task import Task, classification, kl_divergence, relative_error


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 2, 1, 1, generator=generator)
    items = []
    for _ in range(4):
        target = torch.randint(3, (16,), generator=generator)
        items.append(Batch(centres[target] + 0.3 * torch.randn(16, 2, 5, 5, generator=generator), target))
    batches = BatchList(tuple(items))
    return classification("blobs", batches[0].inputs, batches, batches, batches)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()


def divergence(model: nn.Module, original: nn.Module) -> float:
    inputs = task().example
    with torch.inference_mode():
        return float(kl_divergence(original(inputs), baked(model).eval()(inputs)))


@pytest.mark.parametrize("step", [FineTune(5), FineTune(0), ReestimateNorm(2)])
def test_steps_are_pure_and_comparable(step: Step, model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = step(model, task())
    assert result is not model
    assert not model.training
    assert not result.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step == replace(step)
    assert isinstance(step, Step)


def test_finetuning_lowers_the_tasks_objective(model: nn.Module) -> None:
    tuned = FineTune(60, lr=0.1)(model, task())
    batch = task().train[0]
    losses = [float(task().objective(network.eval(), batch).total.detach()) for network in (model, tuned)]
    assert losses[1] < 0.5 * losses[0]


def test_computed_weights_stay_computed(model: nn.Module) -> None:
    computed = reparametrize(model, {"0.weight": Plain(model[0].weight)})
    tuned = FineTune(5)(computed, task())
    assert isinstance(tuned, Reparametrized)
    moved = tuned.reparams["0.weight"]().detach() - computed.reparams["0.weight"]().detach()
    assert moved.abs().max() > 0


def test_distillation_brings_a_damaged_network_back_to_the_original(model: nn.Module) -> None:
    damaged = reparametrize(model, {"0.weight": Plain(0.5 * torch.ones_like(model[0].weight))})
    tuned = FineTune(80, lr=0.1, precision="32-true")(damaged, distilled(task(), model))
    assert divergence(tuned, model) < 0.3 * divergence(damaged, model)


def test_distilled_asks_for_what_the_task_compares(model: nn.Module) -> None:
    probabilities = distilled(task(), model, temperature=3.0, hard=0.2).objective
    assert isinstance(probabilities, Distillation)
    assert (probabilities.temperature, probabilities.hard) == (3.0, 0.2)
    vectors = replace(task(), divergence=relative_error)
    assert isinstance(distilled(vectors, model).objective, FeatureMatching)
    assert vectors.objective is task().objective


def test_reestimated_statistics_are_those_of_the_inputs(model: nn.Module) -> None:
    model.train()
    model[1].momentum = 0.3
    model[0].bias.data += 5.0
    batches = task().train
    reestimate_statistics(model, batches, n=3)
    with torch.no_grad():
        activations = torch.cat([model[0](batches[i].inputs) for i in range(3)])
    assert torch.allclose(model[1].running_mean, activations.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[1].running_var, activations.var((0, 2, 3)), rtol=0.1)
    assert model[1].momentum == 0.3
    assert model.training
    assert model[1].num_batches_tracked == 3


def test_networks_without_batch_norm_are_left_alone() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2, 2)
    assert torch.equal(ReestimateNorm()(linear, task()).weight, linear.weight)


def test_steps_go_through_plain_data() -> None:
    types = {kind.__name__: kind for kind in (FineTune, ReestimateNorm, AdamW, SGD, Constant, Cosine)}
    for step in (FineTune(30), FineTune(7, optimizer=AdamW(), schedule=Constant()), ReestimateNorm(3)):
        assert from_data(to_data(step), types) == step
    assert to_data(FineTune(30)) == {"type": "FineTune", "steps": 30}


def test_in_a_chain(model: nn.Module) -> None:
    result = chain(FineTune(3), ReestimateNorm(2))(model, task())
    assert result[1].num_batches_tracked == 2
