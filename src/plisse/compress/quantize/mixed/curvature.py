"""What a weight loses at a width, from the curvature of the loss around the trained network.

To second order, moving W_i by D costs 1/2 D^T H_i D; the gradient is about zero where training ended.
HAWQ-V2 takes the mean of the diagonal of H_i for all of it, Fisher an estimate of every entry. Both need a
few passes, however many widths there are; neither sees what happens far from the trained weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from plisse.compress.quantize.mixed.candidates import Candidates
from plisse.compress.quantize.mixed.sensitivity import as_losses, check_count, spread_batches
from plisse.compress.quantize.rounding.capture import check_inputs
from plisse.core import modules
from plisse.core.batch import Batch, Batches, BatchList, call, n_samples
from plisse.errors import InputError
from plisse.train.task import Task


class Target(Protocol):
    """What the curved loss compares outputs with."""

    def batches(self, task: Task, count: int) -> Batches:
        """The inputs that it is measured on."""
        ...

    def loss(self, model: nn.Module, task: Task, batch: Batch, draw: torch.Generator) -> Tensor:
        """The mean loss of one batch."""
        ...


@dataclass(frozen=True)
class Itself:
    """The task's divergence from the network's own outputs. No labels. Its gradient is zero, its Hessian the
    Gauss-Newton matrix: for `HessianTrace`."""

    def batches(self, task: Task, count: int) -> Batches:
        return spread_batches(task.calibration, count)

    def loss(self, model: nn.Module, task: Task, batch: Batch, draw: torch.Generator) -> Tensor:
        outputs = call(model, batch.inputs)
        return task.divergence(outputs.detach(), outputs)


@dataclass(frozen=True)
class SampledLabels:
    """Cross-entropy against classes drawn from the network's own softmax: the true Fisher information
    (Martens 2020, section 5). No labels. For networks that give logits [..., K]."""

    def batches(self, task: Task, count: int) -> Batches:
        return spread_batches(task.calibration, count)

    def loss(self, model: nn.Module, task: Task, batch: Batch, draw: torch.Generator) -> Tensor:
        logits = call(model, batch.inputs).float().flatten(0, -2)
        classes = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=draw)[:, 0]
        return F.cross_entropy(logits, classes.to(logits.device))


@dataclass(frozen=True)
class Labels:
    """The task's objective on training batches: the empirical Fisher information, the Hessian of training."""

    def batches(self, task: Task, count: int) -> Batches:
        return task.train

    def loss(self, model: nn.Module, task: Task, batch: Batch, draw: torch.Generator) -> Tensor:
        return task.objective(model, batch).total


@dataclass(frozen=True)
class HessianTrace:
    """1/2 mean(diag H_i) ||Q(W_i) - W_i||^2 (HAWQ-V2, Dong et al. 2020, section 3.1), the trace by
    Hutchinson's estimate E[v^T H v] with v of random signs.

    One weight is probed at a time, since the blocks of H between weights would add noise that hides small
    traces. samples: of v per weight, at least 1, each on one batch; they cost a backward pass per weight.
    target: what the loss compares with, `Itself()` or `Labels()`. seed: of v.
    """

    samples: int = 4
    target: Target = field(default_factory=Itself)
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.samples, "samples")

    def losses(self, model: nn.Module, task: Task, options: Candidates) -> dict[str, list[float]]:
        means = {
            name: max(0.0, trace) / max(1, modules.tensor(model, name).numel())
            for name, trace in self.traces(model, task, tuple(options)).items()
        }
        return _quadratic(model, options, {name: torch.tensor(mean) for name, mean in means.items()})

    def traces(self, model: nn.Module, task: Task, names: Sequence[str]) -> dict[str, float]:
        """tr(H_i) of the mean loss, for every named weight."""
        probe, weights = _differentiable(model, names)
        draw = torch.Generator().manual_seed(self.seed)
        batches = checked_batches(probe, self.target.batches(task, self.samples))
        totals = dict.fromkeys(names, 0.0)
        with modules.evaluating(probe), sdpa_kernel(SDPBackend.MATH):  # fused has no second derivative
            for index in range(self.samples):
                loss = self.target.loss(probe, task, batches[index % len(batches)], draw)
                for name, found in zip(names, _signed_products(loss, weights, draw), strict=True):
                    totals[name] += found / self.samples
        return totals


@dataclass(frozen=True)
class Fisher:
    """1/2 sum_j F_j (Q(w_j) - w_j)^2 with F the mean squared gradient (Optimal Brain Damage with the Fisher
    information for the Hessian, LeCun et al. 1990; BRECQ, Li et al. 2021, section 3.1).

    The squared gradient of a batch's mean loss times its samples is an unbiased estimate of their mean
    squared gradient where labels are drawn independently from the network, since cross terms vanish.

    batches: gradients that are averaged, at least 1. target: `SampledLabels()` or `Labels()`. seed: of the
    drawn labels. Raises InputError with `Itself()`, whose gradient is zero.
    """

    batches: int = 8
    target: Target = field(default_factory=SampledLabels)
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.batches, "batches")
        if isinstance(self.target, Itself):
            raise InputError(
                "Fisher(target=Itself())",
                expected="SampledLabels() or Labels(): outputs differ from themselves with gradient zero",
            )

    def losses(self, model: nn.Module, task: Task, options: Candidates) -> dict[str, list[float]]:
        return _quadratic(model, options, self.information(model, task, tuple(options)))

    def information(self, model: nn.Module, task: Task, names: Sequence[str]) -> dict[str, Tensor]:
        """F of every named weight, in its shape."""
        probe, weights = _differentiable(model, names)
        draw = torch.Generator().manual_seed(self.seed)
        batches = checked_batches(probe, self.target.batches(task, self.batches))
        totals = [torch.zeros_like(weight) for weight in weights]
        with modules.evaluating(probe):
            for index in range(self.batches):
                batch = batches[index % len(batches)]
                loss = self.target.loss(probe, task, batch, draw)
                gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
                for total, gradient in zip(totals, gradients, strict=True):
                    total += gradient.square() * (_count(batch) / self.batches)
        return dict(zip(names, totals, strict=True))


def checked_batches(model: nn.Module, batches: Batches) -> Batches:
    """`batches`, the first of which `model` takes and which holds no NaN. Raises InputError."""
    if len(batches):
        check_inputs(model, BatchList((batches[0],)))
    return batches


def _signed_products(loss: Tensor, weights: Sequence[Tensor], draw: torch.Generator) -> list[float]:
    """v^T H_i v for every weight, with a v of random signs for each."""
    gradients = torch.autograd.grad(
        loss, weights, create_graph=True, allow_unused=True, materialize_grads=True
    )
    found = []
    for weight, gradient in zip(weights, gradients, strict=True):
        signs = (torch.randint(0, 2, weight.shape, generator=draw) * 2.0 - 1).to(weight.device)
        along = (gradient * signs).sum()
        if not along.requires_grad:  # the loss is linear in this weight, or does not see it
            found.append(0.0)
            continue
        product = torch.autograd.grad(
            along, weight, retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]
        found.append(float((signs * product).sum()))
    return found


def _quadratic(
    model: nn.Module, options: Candidates, diagonal: Mapping[str, Tensor]
) -> dict[str, list[float]]:
    """1/2 sum_j h_j (Q(w_j) - w_j)^2 of every candidate; h [] or in the weight's shape."""
    found = {}
    for name, choices in options.items():
        weight, curvature = modules.tensor(model, name).detach().float(), diagonal[name]
        changes = [candidate.values().to(weight.device) - weight for candidate in choices]
        found[name] = [0.5 * float((curvature * change.square()).double().sum()) for change in changes]
    return as_losses(found)


def _differentiable(model: nn.Module, names: Sequence[str]) -> tuple[nn.Module, list[Tensor]]:
    """A copy of `model` in which the named weights, and no others, require gradients."""
    probe = modules.clone(model).requires_grad_(False)
    weights = [modules.tensor(probe, name).requires_grad_(True) for name in names]
    return probe, weights


def _count(batch: Batch) -> int:
    """Samples that a batch's mean is over."""
    return n_samples(batch.inputs) if batch.target is None else len(batch.target)
