"""How far apart two Gaussians are, per channel. A divergence is a frozen dataclass, called with the moments
of the sample and of the reference; it is zero where they are equal, and positive elsewhere.

With m = (mean - mean_ref) / std_ref and v = std / std_ref each is a function of m and v alone, so that
channels of any scale count alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class MomentDivergence(Protocol):
    """Contract: (mean, std, reference mean, reference std), of one shape [..., C] or broadcast to it, to a
    divergence of that shape; differentiable in the first two; deviations are above zero."""

    def __call__(
        self, mean: Tensor, std: Tensor, reference_mean: Tensor, reference_std: Tensor
    ) -> Tensor: ...


@dataclass(frozen=True)
class KL:
    """KL(N(mean, std^2) || N(reference)) = (v^2 + m^2 - 1) / 2 - log v, in nats.

    The sample's Gaussian first: a logarithmic wall against images without variation, and a slope that
    grows no faster than the distance. Source: Haroush et al. 2020, as their generator computes it.

    >>> import torch
    >>> one = torch.ones(1)
    >>> KL()(0 * one, 2 * one, 0 * one, one)
    tensor([0.8069])
    """

    def __call__(self, mean: Tensor, std: Tensor, reference_mean: Tensor, reference_std: Tensor) -> Tensor:
        m, v = standardized(mean, std, reference_mean, reference_std)
        return 0.5 * (v.square() + m.square() - 1) - v.log()


@dataclass(frozen=True)
class ReverseKL:
    """KL(N(reference) || N(mean, std^2)) = (1 + m^2) / (2 v^2) - 1 / 2 + log v, in nats.

    The reference first, as the paper writes it: samples that vary too little cost most.
    Source: Haroush et al. 2020, section 3.
    """

    def __call__(self, mean: Tensor, std: Tensor, reference_mean: Tensor, reference_std: Tensor) -> Tensor:
        m, v = standardized(mean, std, reference_mean, reference_std)
        return 0.5 * ((1 + m.square()) / v.square() - 1) + v.log()


@dataclass(frozen=True)
class SymmetricKL:
    """The mean of both directions: ((v^2 + m^2) + (1 + m^2) / v^2 - 2) / 4, in nats (Jeffreys 1946)."""

    def __call__(self, mean: Tensor, std: Tensor, reference_mean: Tensor, reference_std: Tensor) -> Tensor:
        m, v = standardized(mean, std, reference_mean, reference_std)
        return 0.25 * (v.square() + m.square() + (1 + m.square()) / v.square() - 2)


@dataclass(frozen=True)
class MomentMSE:
    """m^2 + (v - 1)^2: squared errors of mean and deviation, in the reference's deviations."""

    def __call__(self, mean: Tensor, std: Tensor, reference_mean: Tensor, reference_std: Tensor) -> Tensor:
        m, v = standardized(mean, std, reference_mean, reference_std)
        return m.square() + (v - 1).square()


DIVERGENCES: tuple[type, ...] = (KL, ReverseKL, SymmetricKL, MomentMSE)


def standardized(
    mean: Tensor, std: Tensor, reference_mean: Tensor, reference_std: Tensor
) -> tuple[Tensor, Tensor]:
    """m and v: the sample's mean and deviation where the reference has 0 and 1."""
    return (mean - reference_mean) / reference_std, std / reference_std
