"""Objectives: learning from a teacher, weighted sums, penalties on weights. All are frozen dataclasses that
can be sent to another process; a teacher is a frozen copy in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core import modules, reparam
from plisse.core.batch import Batch, Inputs, call, first_tensor
from plisse.errors import InputError
from plisse.train.task import Loss, Objective, kl_divergence, relative_error

Penalty = Callable[[nn.Module], Tensor]


@dataclass(frozen=True, eq=False)
class Distillation:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) + hard * cross-entropy, for logits [N, K].

    temperature: T > 0; higher shows more of the small probabilities. hard: weight of the labels;
    0 needs none.
    Source: Hinton, Vinyals and Dean 2015.
    """

    teacher: nn.Module
    temperature: float = 2.0
    hard: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        reference = _answers(self.teacher, batch.inputs).float() / self.temperature  # [N, K]
        logits = call(model, batch.inputs).float()  # [N, K]
        soft = self.temperature**2 * kl_divergence(reference, logits / self.temperature)
        if self.hard == 0.0:
            return Loss(soft, {"distillation": soft.detach()})
        if batch.target is None:
            raise InputError("batches without targets", expected="labels where hard > 0", hint="hard=0.0")
        labels = F.cross_entropy(logits, batch.target)
        parts = {"distillation": soft.detach(), "cross_entropy": labels.detach()}
        return Loss(soft + self.hard * labels, parts)


@dataclass(frozen=True, eq=False)
class FeatureMatching:
    """Squared error of outputs [N, D] as a share of the teacher's energy; for unit vectors 2 (1 - cosine).

    Source: Romero et al. 2015 (hints), on the last layer.
    """

    teacher: nn.Module

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        reference = _answers(self.teacher, batch.inputs).float()  # [N, D]
        outputs = call(model, batch.inputs).float()  # [N, D]
        error = relative_error(reference, outputs)
        cosine = F.cosine_similarity(reference, outputs.detach(), dim=-1).mean()
        return Loss(error, {"relative_error": error.detach(), "cosine": cosine})


@dataclass(frozen=True, eq=False)
class Weighted:
    """sum of weight * objective. Parts keep their names; a name that is taken gets the term's number."""

    terms: tuple[tuple[float, Objective], ...]

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        losses = [objective(model, batch) for _, objective in self.terms]
        parts: dict[str, Tensor] = {}
        for number, loss in enumerate(losses):
            for name, part in loss.parts.items():
                parts[name if name not in parts else f"{name}.{number}"] = part
        totals = [weight * loss.total for (weight, _), loss in zip(self.terms, losses, strict=True)]
        return Loss(torch.stack(totals).sum(), parts)


@dataclass(frozen=True, eq=False)
class WithPenalty:
    """objective + weight * penalty(model), where the penalty looks at weights only."""

    objective: Objective
    penalty: Penalty
    weight: float

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        loss, penalty = self.objective(model, batch), self.penalty(model)
        parts = {**loss.parts, "penalty": penalty.detach()}
        return Loss(loss.total + self.weight * penalty, parts)


def distillation(teacher: nn.Module, temperature: float = 2.0, hard: float = 0.0) -> Distillation:
    """Learn the teacher's class probabilities. The given network stays as it is.

    >>> teacher = nn.Linear(3, 2)
    >>> objective = distillation(teacher, temperature=4.0)
    >>> objective(teacher, Batch(torch.ones(5, 3))).parts
    {'distillation': tensor(0.)}
    """
    if not temperature > 0:
        raise InputError(f"temperature {temperature}", expected="a number above zero")
    return Distillation(frozen(teacher), temperature, hard)


def feature_matching(teacher: nn.Module) -> FeatureMatching:
    """Learn the teacher's outputs, such as sentence embeddings. The given network stays as it is."""
    return FeatureMatching(frozen(teacher))


def weighted(*terms: tuple[float, Objective]) -> Weighted:
    """A sum of (weight, objective) terms.

    >>> from plisse.train.task import cross_entropy
    >>> objective = weighted((1.0, distillation(nn.Linear(3, 2))), (0.1, cross_entropy))
    >>> sorted(objective(nn.Linear(3, 2), Batch(torch.ones(1, 3), torch.tensor([1]))).parts)
    ['cross_entropy', 'distillation']
    """
    return Weighted(terms)


def with_penalty(objective: Objective, penalty: Penalty, weight: float) -> WithPenalty:
    """Add weight * penalty(model) to an objective."""
    return WithPenalty(objective, penalty, weight)


def frozen(model: nn.Module) -> nn.Module:
    """A baked copy in evaluation mode that nothing trains, filters in channels-last memory order."""
    teacher = modules.clone(reparam.baked(model)).eval().requires_grad_(False)
    for parameter in teacher.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return teacher


def _answers(teacher: nn.Module, inputs: Inputs) -> Tensor:
    device = first_tensor(inputs).device
    if next(teacher.parameters()).device != device:
        teacher.to(device)
    with torch.no_grad():
        return call(teacher, inputs)
