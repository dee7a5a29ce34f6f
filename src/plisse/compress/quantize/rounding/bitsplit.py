"""Bit-Split: the digits of the symbols are chosen one plane at a time, then put together again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plisse.compress.quantize import grids
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rounding.chosen import choose, pinned, spread_grid
from plisse.compress.quantize.rounding.layerwise import by_layers, damped
from plisse.compress.quantize.rounding.moments import Gram, fitted_scale, rows_of
from plisse.core.reparam import Reparametrized
from plisse.errors import InputError
from plisse.train.task import Task


@dataclass(frozen=True)
class BitSplit:
    """Symbols q = z + sum_k 2^k t_k with digits t_k of -1, 0 or 1, for the least |(W - s (q - z)) X|^2: plane
    after plane, from the largest, every digit in turn is set to the best one with all others as they are,
    t_ki = clip(round(t_ki + (E H)_i / (s 2^k H_ii)), -1, 1) with the error E = W - s (q - z) and
    H = X X^T + damping mean(diag(X X^T)) I; then scales are fitted by least squares (Wang et al. 2020,
    "Towards Accurate Post-training Network Quantization via Bit-Split and Stitching", section 3).

    Starts at the nearest symbols; no digit's change makes the error larger. Layers, and what is left out, are
    those of `GPTQ`. rounds: 1 and up, over all planes. damping: above 0. refit: of scales, in every round.
    samples: of calibration. progress: label of a bar on standard error.

    Raises InputError for calibration without batches or with NaN.

    >>> from plisse.compress.quantize.quantize import Quantize
    >>> Quantize(bits=3, rounding=BitSplit()).rounding.rounds
    3
    """

    rounds: int = 3
    damping: float = 0.01
    refit: bool = True
    samples: int = 256
    progress: str | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.damping > 0:
            raise InputError(
                f"rounds={self.rounds}, damping={self.damping}",
                expected="at least 1 round, damping above 0",
                hint="BitSplit(rounds=3, damping=0.01)",
            )

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        return by_layers(quantized, None, task, self.round, samples=self.samples, progress=self.progress)

    def round(self, fake: FakeQuantized, layer: nn.Module, found: Gram) -> None:
        """Choose the symbols of one layer's weight, in place."""
        with torch.no_grad():
            weight, hold = fake.source().detach().float(), pinned(fake)
            scale, zero = (part.expand_as(weight) for part in spread_grid(fake, weight))
            steps = torch.where(hold, 0.0, grids.symbols(weight, scale, zero, fake.form) - zero)
            bounds = (fake.form.low - zero, fake.form.high - zero)
            for _ in range(self.rounds):
                scale = spread_grid(fake, weight)[0].expand_as(weight)
                for group, rows in enumerate(rows_of(layer, weight)):
                    hessian = damped(found.squares[group], self.damping).float()
                    flat = [part[rows].flatten(1) for part in (weight, scale, *bounds, hold, steps)]
                    steps[rows] = digits_chosen(hessian, *flat).reshape(weight[rows].shape)
                scales = fitted_scale(fake, layer, steps + zero, found, self.damping) if self.refit else None
                if scales is not None:
                    fake.scale.copy_(grids.bfloat16_through(scales))
            choose(fake, steps + zero)


def digits_chosen(
    hessian: Tensor, weight: Tensor, scale: Tensor, low: Tensor, high: Tensor, hold: Tensor, steps: Tensor
) -> Tensor:
    """Whole numbers q [R, K] within [low, high] after one round over all digits of `steps`, for the weight
    [R, K], its scales and H [K, K]. hold: where q stays.

    >>> one = torch.ones(1, 1)
    >>> digits_chosen(one, 5.2 * one, one, -7 * one, 7 * one, one > 1, 0 * one).item()
    5.0
    """
    steps = steps.clone()
    error = weight - scale * steps
    pull = error @ hessian  # [R, K], kept up to date
    size = hessian.diagonal()
    top = int(torch.maximum(high.abs(), low.abs()).max())
    for plane in reversed(range(max(top.bit_length(), 1))):
        power = float(2**plane)
        for column in range(steps.shape[1]):
            now = digit(steps[:, column], plane)
            best = now + pull[:, column] / (scale[:, column] * power * size[column])
            moved = steps[:, column] + power * (best.round().clamp(-1, 1) - now)
            allowed = (moved >= low[:, column]) & (moved <= high[:, column]) & ~hold[:, column]
            moved = torch.where(allowed, moved, steps[:, column])
            change = scale[:, column] * (moved - steps[:, column])
            if change.any():
                pull -= change[:, None] * hessian[column]
                steps[:, column] = moved
    return steps


def digit(steps: Tensor, plane: int) -> Tensor:
    """The digit 2^plane of whole numbers, with their sign.

    >>> [digit(torch.tensor([-5.0, 6.0]), plane).tolist() for plane in (0, 1, 2)]
    [[-1.0, 0.0], [-0.0, 1.0], [-1.0, 1.0]]
    """
    return steps.sign() * (steps.abs() / 2**plane).floor().remainder(2)
