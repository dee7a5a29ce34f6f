"""Softenings: what the forward pass uses in place of the rounded weight while a network is trained. Evaluated
and written networks are rounded as ever.

A member of the family wraps the reparametrization that rounds; after training the wrapper is taken off.
To add one: a frozen dataclass with `wrapped` and `__call__`, and a line in tests/contracts/test_aware.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from plisse.core.reparam import Reparam
from plisse.core.stored import Stored
from plisse.errors import InputError
from plisse.train.run import State


class Softening(Protocol):
    """Contract: tests/contracts/test_aware.py."""

    def wrapped(self, quantized: Reparam) -> Softened: ...

    def __call__(self, state: State) -> None:
        """A hook of `fit`: what changes after every step."""
        ...


class Softened(Reparam):
    """`inner`, which has a `source`, in evaluation and in files; `softened` of both in training."""

    def __init__(self, inner: Reparam) -> None:
        super().__init__()
        self.inner = inner

    def forward(self) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return self.inner()
        source: Any = self.inner.source
        return self.softened(source().float(), self.inner())

    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        raise NotImplementedError

    def stored(self) -> Stored:
        return self.inner.stored()


@dataclass(frozen=True)
class QuantNoise:
    """Rounds a random share of the blocks in every forward pass; the others stay exact and get exact
    gradients (Fan et al. 2021).

    share: of the blocks, above 0, at most 1 (all: as without). block: neighbouring values of a flattened
    channel that are rounded together.
    """

    share: float = 0.5
    block: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share {self.share}", expected="above 0, at most 1", hint="QuantNoise(0.5)")
        if self.block < 1:
            raise InputError(
                f"blocks of {self.block} values", expected="at least 1", hint="QuantNoise(0.5, 8)"
            )

    def wrapped(self, quantized: Reparam) -> Softened:
        return PartlyRounded(quantized, self.share, self.block)

    def __call__(self, state: State) -> None:
        pass


class PartlyRounded(Softened):
    def __init__(self, inner: Reparam, share: float, block: int) -> None:
        super().__init__(inner)
        self.share, self.block = share, block

    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        rows = exact.flatten(1) if exact.dim() > 1 else exact.reshape(1, -1)
        blocks = -(-rows.shape[1] // self.block)
        chosen = torch.rand(rows.shape[0], blocks, device=exact.device) < self.share
        mask = chosen.repeat_interleave(self.block, 1)[:, : rows.shape[1]].reshape(exact.shape)
        return torch.where(mask, rounded, exact)


@dataclass(frozen=True)
class AdditiveNoise:
    """Adds uniform noise as strong as the rounding error of each channel in place of rounding, which gives
    exact gradients (UNIQ, Baskin et al. 2018, on any grid); rounds from the share `until` of the steps on.

    until: 0 to 1.
    """

    until: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.until <= 1:
            raise InputError(f"until {self.until}", expected="0 to 1, a share of the steps")

    def wrapped(self, quantized: Reparam) -> Softened:
        return Noisy(quantized)

    def __call__(self, state: State) -> None:
        if (state.step + 1) >= self.until * state.steps:
            for module in state.model.modules():
                if isinstance(module, Noisy):
                    module.noisy = False


class Noisy(Softened):
    def __init__(self, inner: Reparam) -> None:
        super().__init__(inner)
        self.noisy = True

    def softened(self, exact: Tensor, rounded: Tensor) -> Tensor:
        if not self.noisy:
            return rounded
        error = (rounded - exact).detach()
        rows = error.flatten(1) if error.dim() > 1 else error.reshape(1, -1)
        reach = (3 * rows.square().mean(1)).sqrt()  # of the uniform density with that variance
        noise = (2 * torch.rand_like(rows) - 1) * reach[:, None]
        return exact + noise.reshape(exact.shape)
