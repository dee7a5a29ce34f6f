"""The ways in which one weight may be written: whole, as two factors, or with zeros, at different steps.

What an option loses is measured at the layer's output, E |(W - W^) x|^2 for the layer's own inputs x, before
anybody runs the network: an option that takes as many bytes as the whole weight and loses more is dropped.
Values are rounded to nearest here. Columns that compensate for each other (Compensate) come after the choice:
divergences measured with them were tried, and choices made from these were worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plisse.bitstream.symbols import encode_symbols
from plisse.compress.lowrank.schemes import Channel
from plisse.compress.lowrank.spectrum import spectrum
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.rounding.moments import Gram
from plisse.core.reparam import Plain

RANK_SHARES = (0.25, 0.5, 0.75)
"""Candidate ranks, in shares of the largest one at which factors hold fewer numbers than the weight."""

SPARSITIES = (0.5, 0.75)
"""Candidate shares of weights set to zero by magnitude."""

STEPS = (-5, -3, -1, 1)
"""Candidate steps of factors and of sparse weights, in half powers of two of their root mean squares."""

FLOOR = 1e-12


@dataclass(frozen=True)
class Option:
    """steps: one, or one per factor. rank: None for a whole weight. sparsity: share set to zero first."""

    steps: tuple[float, ...]
    rank: int | None = None
    sparsity: float = 0.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """An option, what the weight becomes, and what the coder writes for it, in bytes."""

    option: Option
    values: Tensor
    bytes: int


def written(values: Tensor, step: float) -> tuple[np.ndarray, int]:
    """Values rounded to the grid of `step`, and the bytes of the symbols (without contexts)."""
    stored = RateQuantize({}).quantized(Plain(values), step).stored()
    return stored.values().copy(), len(encode_symbols(stored.symbols.reshape(-1)))


def root_mean_square(values: Tensor) -> float:
    """Above zero."""
    return max(float(values.square().mean().sqrt()), FLOOR)


def factored(layer: Any, found: Gram) -> list[Candidate]:
    """The weight as two factors that keep what the inputs use (whitened)."""
    scheme = Channel()
    if scheme.reason(layer) is not None:
        return []
    spectral = spectrum(layer, scheme, found.squares[0])
    ranks = sorted({round(share * spectral.break_even) for share in RANK_SHARES} - {0})
    candidates = []
    for rank in ranks:
        first, second = (part.float() for part in spectral.factors(rank))
        for power in STEPS:
            steps = tuple(root_mean_square(part) * 2 ** (power / 2) for part in (first, second))
            candidates.append(_pair(layer, rank, (first, second), steps))
    return candidates


def _pair(layer: Any, rank: int, factors: tuple[Tensor, Tensor], steps: tuple[float, ...]) -> Candidate:
    (first, second), sizes = zip(*map(written, factors, steps), strict=True)
    values = torch.from_numpy(second @ first).reshape(layer.weight.shape)
    return Candidate(Option(steps, rank=rank), values, sum(sizes))


def sparse(layer: Any) -> list[Candidate]:
    """The weight with its smallest values zero."""
    weight = layer.weight.detach().float()
    candidates = []
    for sparsity in SPARSITIES:
        kept = weight.abs() > weight.abs().flatten().kthvalue(max(1, round(sparsity * weight.numel()))).values
        masked = torch.where(kept, weight, 0.0)
        unit = root_mean_square(masked[kept]) if bool(kept.any()) else 1.0
        for power in STEPS:
            step = unit * 2 ** (power / 2)
            values, size = written(masked, step)
            candidates.append(Candidate(Option((step,), sparsity=sparsity), torch.from_numpy(values), size))
    return candidates


def output_error(weight: Tensor, values: Tensor, found: Gram) -> float:
    """E |(W - W^) x|^2, summed over output channels."""
    per_group = len(weight) // len(found.squares)
    rows = (weight - values).flatten(1).double().split(per_group)
    total = sum(((part @ squares) * part).sum() for part, squares in zip(rows, found.squares, strict=True))
    return max(float(total), FLOOR)


def worthwhile(
    candidates: list[Candidate], errors: list[float], sizes: list[int], whole_errors: list[float]
) -> list[Candidate]:
    """The candidates whose error lies below that of the whole weight at as many bytes.

    sizes, whole_errors: of the whole weight at some steps, in any order; between them the logarithm of the
    error is interpolated, beyond them nothing is claimed, and the candidate stays.
    """
    order = np.argsort(sizes)
    size, error = np.asarray(sizes, float)[order], np.log(np.asarray(whole_errors)[order])
    kept = []
    for candidate, own in zip(candidates, errors, strict=True):
        inside = size[0] <= candidate.bytes <= size[-1]
        if candidate.bytes <= size[-1] and (
            not inside or np.log(own) < float(np.interp(candidate.bytes, size, error))
        ):
            kept.append(candidate)
    return kept
