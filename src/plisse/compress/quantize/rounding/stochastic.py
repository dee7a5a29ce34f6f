"""Stochastic rounding: up with the probability of the remainder, so that the error is zero on average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rounding.chosen import choose, copied, real_symbols
from plisse.core.reparam import Reparametrized
from plisse.train.task import Task


@dataclass(frozen=True)
class Stochastic:
    """q = floor(u) + [r < u - floor(u)] with u = w / s + z and r uniform from 0 to 1 (Gupta et al. 2015).

    E[w^] = w inside the range, at the price of twice the squared error of rounding to nearest. Needs no
    calibration; of use as a start for training, and as the bound that methods by outputs have to beat.

    seed: of the draws, whole number from 0.
    """

    seed: int = 0

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        quantized = copied(quantized)
        draw = torch.Generator().manual_seed(self.seed)
        for fake in quantized.reparams.values():
            if isinstance(fake, FakeQuantized):
                real = real_symbols(fake)
                share = torch.rand(real.shape, generator=draw).to(real.device)
                low = torch.floor(real)
                choose(fake, low + (share < real - low))
        return quantized
