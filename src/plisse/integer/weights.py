"""Weights as the integers that they are: from what a step says, or found again in the values of a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from plisse.core import modules
from plisse.core.reparam import Reparametrized, plain
from plisse.core.stored import Stored, Uniform

HIGHEST = 127
LOOKED_AT = 64  # values per channel on which a scale is tried before all are


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """weight = symbols * scale, one scale per output channel. symbols: int8 [C, ...]; scale: float32 [C]."""

    symbols: Tensor
    scale: Tensor


def integer_weight(model: nn.Module, name: str) -> IntegerWeight | None:
    """The weight `name` as signed 8-bit integers with one scale per channel; None where it is on no such grid
    (never quantized, scales per group, more than 8 bits, values that are no multiples of a step)."""
    if isinstance(model, Reparametrized) and name in model.reparams:
        stored = model.reparams[name].stored()
        found = _from_stored(stored)
        return found or from_values(torch.from_numpy(stored.values().copy()))
    return from_values(modules.tensor(plain(model), name).detach().cpu().float())


def from_values(weight: Tensor) -> IntegerWeight | None:
    """Find, per channel, the largest bfloat16 step of which all values are multiples, at most 127 of it.

    >>> from_values(torch.tensor([[0.5, -1.5], [0.25, 0.0]])).symbols.tolist()
    [[1, -3], [1, 0]]
    """
    rows = weight.flatten(1) if weight.dim() > 1 else weight.reshape(1, -1)
    largest = rows.abs().amax(1)
    probe = torch.topk(rows.abs(), min(LOOKED_AT, rows.shape[1]), largest=False).values
    step = torch.where(largest > 0, 0.0, 1.0)
    for count in range(1, HIGHEST + 1):
        waiting = torch.nonzero(step == 0).flatten()
        if not len(waiting):
            break
        tried = (largest[waiting] / count).to(torch.bfloat16).float()
        likely = _multiples(probe[waiting], tried) & (tried * count == largest[waiting])
        sure = waiting[likely][_multiples(rows[waiting[likely]], tried[likely])]
        step[sure] = (largest[sure] / count).to(torch.bfloat16).float()
    if bool((step == 0).any()):
        return None
    symbols = torch.round(rows / step[:, None]).to(torch.int8).reshape(weight.shape)
    return IntegerWeight(symbols, step)


def _multiples(values: Tensor, step: Tensor) -> Tensor:
    """For each row, whether every value is exactly a whole number of steps."""
    steps = step[:, None]
    return ((torch.round(values / steps) * steps) == values).all(1)


def _from_stored(stored: Stored) -> IntegerWeight | None:
    grid = stored.grid
    if not isinstance(grid, Uniform) or grid.scale.ndim != 1 or len(stored.shape) < 2:
        return None
    symbols = stored.symbols.reshape(stored.shape).astype(np.int32)
    if grid.zero_point is not None:
        symbols = symbols - grid.zero_point.reshape(-1, *([1] * (len(stored.shape) - 1)))
    if symbols.size and int(np.abs(symbols).max()) > HIGHEST:
        return None
    scale = np.broadcast_to(grid.scale, (stored.shape[0],)).copy()
    return IntegerWeight(torch.from_numpy(symbols.astype(np.int8)), torch.from_numpy(scale))
