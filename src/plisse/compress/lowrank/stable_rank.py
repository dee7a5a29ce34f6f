"""The modified stable rank: a penalty that empties the singular values beyond a target rank, and the training
that it is part of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.lowrank.problem import Ranks
from plisse.compress.lowrank.schemes import Channel, Scheme
from plisse.core.batch import Batch
from plisse.errors import InputError
from plisse.train.run import State
from plisse.train.task import Loss, Objective


class _ModifiedStableRank(torch.autograd.Function):
    """B / A with A the sum of the first r singular values to the power p and B that of the others.

    The gradient is U diag(g) V^T with g_i = p s_i^(p-1) / A beyond r and -p s_i^(p-1) B / A^2 up to r. It
    needs no derivative of the decomposition, which does not exist where singular values are equal.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, rank: int, power: float) -> Tensor:
        # tall matrices decompose faster than wide ones
        whole, wide = matrix.detach().float(), matrix.shape[0] < matrix.shape[1]
        left, values, right = torch.linalg.svd(whole.T if wide else whole, full_matrices=False)
        kept = values[:rank].pow(power).sum().clamp_min(1e-30)
        tail = values[rank:].pow(power).sum()
        slope = power * values.clamp_min(1e-12).pow(power - 1) / kept
        slope[:rank] *= -tail / kept
        with torch.autocast(matrix.device.type, enabled=False):
            direction = left * slope @ right
        ctx.save_for_backward(direction.T if wide else direction)
        return tail / kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (direction,) = ctx.saved_tensors
        return gradient * direction, None, None


def modified_stable_rank(matrix: Tensor, rank: int, power: float = 1.0) -> Tensor:
    """sum_(i > r) s_i^p / sum_(i <= r) s_i^p of a matrix [a, b] (Eo et al. 2023): zero exactly where the rank
    is at most r, unchanged by scaling the matrix, between 0 and n / r - 1 for n singular values.

    rank: 1 to min(a, b). power: 1 or 2.

    >>> round(float(modified_stable_rank(torch.diag(torch.tensor([3.0, 1.0])), 1)), 6)
    0.333333
    """
    if not 1 <= rank <= min(matrix.shape):
        raise InputError(f"rank {rank} of a {tuple(matrix.shape)} matrix", expected="1 to its smaller side")
    result: Tensor = _ModifiedStableRank.apply(matrix, rank, power)
    return result


def stable_rank(matrix: Tensor) -> Tensor:
    """||W||_F^2 / ||W||_2^2: between 1 and the rank, unchanged by scaling."""
    values = torch.linalg.svdvals(matrix.float())
    return values.square().sum() / values[0].square()


@dataclass(frozen=True, eq=False)
class StableRank:
    """The penalty for `train.objectives.with_penalty`: the modified stable ranks of the named layers, added.

    ranks: layer name to target rank. scheme: which matrix M is meant. spaces: for the layers named there,
    M S instead (see `spectrum.input_space`), so that only what inputs make use of counts.
    """

    ranks: Ranks
    scheme: Scheme = Channel()  # noqa: RUF009
    power: float = 1.0
    spaces: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> Tensor:
        return torch.stack(list(self.terms(model).values())).sum()

    def terms(self, model: nn.Module) -> dict[str, Tensor]:
        """The modified stable rank of every named layer."""
        return {
            name: modified_stable_rank(self._matrix(model, name), rank, self.power)
            for name, rank in self.ranks.items()
        }

    def _matrix(self, model: nn.Module, name: str) -> Tensor:
        matrix = self.scheme.matrix(model.get_submodule(name))
        if name not in self.spaces:
            return matrix
        with torch.autocast(matrix.device.type, enabled=False):
            return matrix.float() @ self.spaces[name].to(matrix.device, torch.float32)


@dataclass(eq=False)
class Rising:
    """objective + share * weight * penalty, and the hook of `fit` that lets the share rise from 0 to 1 over
    the first half of the steps, by half a cosine.

    weight: of the penalty at the end. every: the penalty is computed in each `every`-th batch only and counts
    `every` times there, which adds up to the same (lazy regularisation, Karras et al. 2020); for networks
    whose decompositions take longer than their batches.
    """

    objective: Objective
    penalty: StableRank
    weight: float
    every: int = 1
    share: float = field(default=0.0, init=False)

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        loss = self.objective(model, batch)
        if self.share == 0.0:
            return loss
        penalty = self.penalty(model)
        parts = {**loss.parts, "stable_rank": penalty.detach()}
        return Loss(loss.total + self.share * self.weight * penalty, parts)

    def hook(self, state: State) -> None:
        """Set the share for the next step."""
        following = state.step + 1
        rise = 0.5 - 0.5 * math.cos(math.pi * min(1.0, 2 * following / state.steps))
        self.share = 0.0 if following % self.every else self.every * rise


def tails(model: nn.Module, penalty: StableRank) -> dict[str, float]:
    """The modified stable rank of every layer of `penalty` as it is now."""
    with torch.no_grad():
        return {name: float(term) for name, term in penalty.terms(model).items()}
