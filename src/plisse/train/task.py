"""The task: all that a compression method may ask of the problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core.batch import Batch, Batches, Inputs, call
from plisse.errors import InputError


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and the named parts that it is made of."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


Objective = Callable[[nn.Module, Batch], Loss]
Divergence = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """How good outputs are; higher is better.

    predict: outputs of one batch [N, ...] to one value per sample [M] (M may be N/2 for pairs).
    summary: all predictions [M] and targets [M] to one number in its natural range (accuracy 0 to 1).
    unit: "points" for shares that people quote in percent, else "".
    """

    name: str
    predict: Callable[[Tensor], Tensor]
    summary: Callable[[Tensor, Tensor], float]
    unit: str = ""


@dataclass(frozen=True)
class Task:
    """example: inputs of one batch, for tracing and timing. train: labelled batches, shuffled per epoch.
    calibration: a few batches without need of labels. holdout: batches that nothing is fitted to.
    divergence: (reference outputs, outputs) to a scalar, zero when equal; needs no labels.
    """

    name: str
    example: Inputs
    train: Batches
    calibration: Batches
    holdout: Batches
    objective: Objective
    score: Score
    divergence: Divergence


def cross_entropy(model: nn.Module, batch: Batch) -> Loss:
    """Classification: softmax cross-entropy of logits [N, K] against class indices [N]."""
    if batch.target is None:
        raise InputError("a batch without targets", expected="labels to train on, or a teacher")
    total = F.cross_entropy(call(model, batch.inputs).float(), batch.target)
    return Loss(total, {"cross_entropy": total.detach()})


def kl_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence KL(softmax(reference) || softmax(outputs)) over [N, K], in nats."""
    return F.kl_div(
        F.log_softmax(outputs.float(), -1),
        F.log_softmax(reference.float(), -1),
        reduction="batchmean",
        log_target=True,
    )


def relative_error(reference: Tensor, outputs: Tensor) -> Tensor:
    """Squared error of outputs as a share of the reference's energy: 0 equal, 1 as bad as zero."""
    reference = reference.float()
    return (reference - outputs.float()).square().sum() / reference.square().sum().clamp_min(1e-12)


ACCURACY = Score(
    "accuracy",
    predict=lambda outputs: outputs.argmax(-1),
    summary=lambda predicted, target: float((predicted == target).float().mean()),
    unit="points",
)


def classification(
    name: str, example: Inputs, train: Batches, calibration: Batches, holdout: Batches
) -> Task:
    """A task with class-index targets: cross-entropy, accuracy, KL divergence."""
    return Task(name, example, train, calibration, holdout, cross_entropy, ACCURACY, kl_divergence)


def outputs_on(model: nn.Module, batches: Batches) -> list[Tensor]:
    """The outputs of `model` in evaluation mode on every batch of one epoch."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        outputs = [call(model, batch.inputs) for batch in batches]
    model.train(was_training)
    return outputs


def mean_divergence(task: Task, reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """The mean over batches of the task's divergence of `outputs` from `reference`, as `outputs_on` gives
    them. Raises InputError where there is no batch.

    >>> task = classification("none", torch.zeros(1, 2), (), (), ())
    >>> mean_divergence(task, [torch.zeros(3, 2)], [torch.ones(3, 2)])
    0.0
    """
    if not len(reference):
        raise InputError(
            "no calibration batch",
            expected="at least one, to measure how far outputs diverge",
            hint="a task with calibration data",
        )
    with torch.inference_mode():
        values = [float(task.divergence(a, b)) for a, b in zip(reference, outputs, strict=True)]
    return sum(values) / len(values)
