"""What a weight loses at a width, by the largest curvature of the loss: HAWQ's first measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from plisse.compress.quantize.mixed.candidates import Candidates
from plisse.compress.quantize.mixed.curvature import (
    Itself,
    Target,
    _differentiable,
    _quadratic,
    checked_batches,
)
from plisse.compress.quantize.mixed.sensitivity import check_count
from plisse.core import modules
from plisse.train.task import Task


@dataclass(frozen=True)
class HessianEigenvalue:
    """1/2 lambda_i ||Q(W_i) - W_i||^2, lambda_i the largest eigenvalue of the Hessian block of W_i, by power
    iteration v <- H v / |H v| (HAWQ, Dong et al. 2019, section 3.2): an upper bound to second order, where
    `HessianTrace` gives the mean over directions. The paper ranks by lambda_i / N_i and picks widths by hand.

    iterations: Hessian-vector products per weight, at least 1, on one batch. target: what the loss compares
    with. seed: of the start.
    """

    iterations: int = 8
    target: Target = field(default_factory=Itself)
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.iterations, "iterations")

    def losses(self, model: nn.Module, task: Task, options: Candidates) -> dict[str, list[float]]:
        found = self.eigenvalues(model, task, tuple(options))
        return _quadratic(
            model, options, {name: torch.tensor(max(0.0, each)) for name, each in found.items()}
        )

    def eigenvalues(self, model: nn.Module, task: Task, names: Sequence[str]) -> dict[str, float]:
        """The eigenvalue of largest size of every named weight's block of the Hessian of the mean loss."""
        probe, weights = _differentiable(model, names)
        draw = torch.Generator().manual_seed(self.seed)
        batch = checked_batches(probe, self.target.batches(task, 1))[0]
        with modules.evaluating(probe), sdpa_kernel(SDPBackend.MATH):  # fused has no second derivative
            loss = self.target.loss(probe, task, batch, draw)
            gradients = torch.autograd.grad(
                loss, weights, create_graph=True, allow_unused=True, materialize_grads=True
            )
            return {
                name: self._largest(weight, gradient, draw)
                for name, weight, gradient in zip(names, weights, gradients, strict=True)
            }

    def _largest(self, weight: Tensor, gradient: Tensor, draw: torch.Generator) -> float:
        if not gradient.requires_grad:
            return 0.0
        along = torch.randn(weight.shape, generator=draw).to(weight.device)
        value = 0.0
        for _ in range(self.iterations):
            along = along / along.norm().clamp_min(1e-30)
            product = torch.autograd.grad(
                (gradient * along).sum(), weight, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            value, along = float((along * product).sum()), product.detach()
        return value
