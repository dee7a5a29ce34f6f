"""GPTQ: columns of a weight are rounded one after the other; those that are left make up for the error."""

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
class GPTQ:
    """Column k of W is rounded; the columns R after it are moved by -(w_k - w^_k) / U_kk U_kR, where U is the
    upper Cholesky factor of H^-1 and H = X X^T + damping mean(diag(X X^T)) I (Frantar et al. 2022, sect. 3).

    X holds what enters the layer in the network that is rounded so far, after input quantizers; a convolution
    is the linear map on its patches. Layers are taken in the order in which they are called.

    order: columns with large H_kk first. damping: above 0. block: columns whose moves are put off and done at
    once; changes speed only. follow: 0 to 1, the share by which W is first moved to make up for inputs that
    differ from the original's, W + follow (W (X0 - X) X^T) H^-1 (Li et al. 2025). refit: scales are fitted to
    the chosen symbols by least squares of the outputs, w^ = argmin_s |(W - s Q) X|. samples: of calibration.
    progress: label of a bar on standard error.

    Fitted scales are any bfloat16 numbers: for powers of two, refit=False. Embeddings, other grids than
    uniform ones and 3-D convolutions stay rounded to nearest, with a note.
    Raises InputError for calibration without batches or with NaN.

    >>> from plisse.compress.quantize.quantize import Quantize
    >>> from plisse.compress.quantize.grids import PerGroup
    >>> Quantize(bits=3, granularity=PerGroup(64), rounding=GPTQ()).rounding.order
    True
    """

    order: bool = True
    damping: float = 0.01
    block: int = 128
    follow: float = 0.0
    refit: bool = True
    samples: int = 256
    progress: str | None = None

    def __post_init__(self) -> None:
        if not self.damping > 0 or self.block < 1 or not 0 <= self.follow <= 1:
            raise InputError(
                f"damping={self.damping}, block={self.block}, follow={self.follow}",
                expected="damping above 0, block at least 1, follow from 0 to 1",
                hint="GPTQ(damping=0.01, block=128)",
            )

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        goal = original if self.follow else None
        return by_layers(quantized, goal, task, self.round, samples=self.samples, progress=self.progress)

    def round(self, fake: FakeQuantized, layer: nn.Module, found: Gram) -> None:
        """Choose the symbols of one layer's weight, in place."""
        with torch.no_grad():
            weight = fake.source().detach().float()
            scale, zero = (part.expand_as(weight) for part in spread_grid(fake, weight))
            hold = pinned(fake)
            symbols = torch.empty_like(weight)
            for group, rows in enumerate(rows_of(layer, weight)):
                hessian = damped(found.squares[group], self.damping)
                target = weight[rows].flatten(1).double()
                if self.follow:
                    cross = target @ found.cross[group]
                    target = target + self.follow * torch.linalg.solve(hessian, cross.T).T
                    target = target * ~hold[rows].flatten(1)
                grid = tuple(part[rows].flatten(1) for part in (scale, zero, hold))
                chosen = rounded_columns(target.float(), hessian, grid, fake.form, self.order, self.block)
                symbols[rows] = chosen.reshape(weight[rows].shape)
            scales = fitted_scale(fake, layer, symbols, found, self.damping) if self.refit else None
            choose(fake, symbols, scales)


def rounded_columns(
    weight: Tensor,
    hessian: Tensor,
    grid: tuple[Tensor, ...],
    form: grids.Format,
    order: bool,
    block: int,
) -> Tensor:
    """The symbols [R, K] of `weight` [R, K] for H [K, K]. grid: scale, zero point and whether the value
    stays zero, each [R, K]."""
    if order:
        first = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    else:
        first = torch.arange(len(hessian), device=hessian.device)
    hessian = hessian[first][:, first]
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True).float()
    left, scale, zero, hold = (part.T[first].contiguous() for part in (weight, *grid))  # [K, R]
    found = torch.empty_like(left)
    errors = torch.empty_like(left)
    for start in range(0, len(left), block):
        stop = min(start + block, len(left))
        for k in range(start, stop):
            symbol = torch.where(hold[k], zero[k], grids.symbols(left[k], scale[k], zero[k], form))
            errors[k] = (left[k] - grids.values_of(symbol, scale[k], zero[k])) / upper[k, k]
            left[k:stop] -= upper[k, k:stop, None] * errors[k]
            found[k] = symbol
        left[stop:] -= upper[start:stop, stop:].T @ errors[start:stop]
    return found[torch.argsort(first)].T
