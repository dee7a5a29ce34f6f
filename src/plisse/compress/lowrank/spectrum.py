"""The singular values of every layer, found once, and the two factors at any rank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.lowrank.schemes import Channel, Scheme, Spatial
from plisse.compress.names import without
from plisse.core import modules
from plisse.core.batch import Batches, call
from plisse.core.hooks import before_calls
from plisse.errors import InputError

FLOOR = 1e-6  # of the mean eigenvalue of an input covariance, which may be singular


@dataclass(frozen=True, eq=False)
class Spectrum:
    """left [a, n], values [n] (falling), right [n, b]: the weight matrix is left diag(values) right.

    Where inputs were looked at (whitened), values are those of the matrix times the square root of the
    inputs' covariance, and right is back in the space of the weight: dropping values costs least at the
    output. All in float64.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def sides(self) -> tuple[int, int]:
        """Rows a and columns b of the matrix."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def break_even(self) -> int:
        """The largest rank at which two factors hold fewer numbers than the matrix: r (a + b) < a b.

        >>> spectrum(nn.Linear(4, 4, bias=False)).break_even
        1
        """
        rows, columns = self.sides
        return (rows * columns - 1) // (rows + columns)

    def params(self, rank: int) -> int:
        """Numbers in the two factors."""
        return rank * sum(self.sides)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """first [r, b] and second [a, r], the square root of each value in both; then each pair of a row and
        a column is scaled to the same largest magnitude, which is exact and helps a later quantization."""
        root = self.values[:rank].sqrt()
        first, second = root[:, None] * self.right[:rank], self.left[:, :rank] * root
        high = first.abs().amax(1).clamp_min(1e-30), second.abs().amax(0).clamp_min(1e-30)
        balance = (high[1] / high[0]).sqrt()
        return first * balance[:, None], second / balance

    def dropped(self, rank: int) -> float:
        """Share of the energy (sum of squared values) beyond the first `rank`."""
        energy = self.values.square()
        return float(energy[rank:].sum() / energy.sum().clamp_min(1e-300))


def spectrum(layer: nn.Module, scheme: Scheme | None = None, covariance: Tensor | None = None) -> Spectrum:
    """The singular value decomposition of a layer's matrix [a, b]; covariance [b, b] of what the columns meet
    whitens it (Wang et al. 2025, by an eigendecomposition, not Cholesky's, since it may be singular)."""
    matrix = (scheme or Channel()).matrix(layer).detach().double().cpu()
    if covariance is None:
        return Spectrum(*_svd(matrix))
    space = input_space(covariance)
    left, values, right = _svd(matrix @ space)
    return Spectrum(left, values, right @ (space / space.square().sum(0)).T)


def input_space(covariance: Tensor) -> Tensor:
    """S [b, b], float64, with S S^T the covariance: inputs are S times white noise, so ||M S|| is what a
    matrix M puts out. Directions without energy get a little, so that S can be inverted."""
    energies, directions = torch.linalg.eigh(covariance.double().cpu())
    floor = FLOOR * float(energies.clamp_min(0).mean().clamp_min(1e-30))
    return directions * energies.clamp_min(floor).sqrt()


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not bool(torch.isfinite(matrix).all()):
        raise InputError("a weight that is not finite", expected="numbers that can be decomposed")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def decomposable(
    model: nn.Module, scheme: Scheme, ignore: Iterable[str] = ()
) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """The layers that `scheme` can take and that two factors can make smaller, and a note on each other one.

    Neither the first nor the last weighted layer is taken: they are small, and dear to lose (state it in
    `ignore`-free networks by a plan of your own). ignore: more layers, or parts of the network, to leave.
    """
    every = dict(modules.weighted_layers(model))
    names = list(every)
    edges = {names[0], names[-1]} if len(names) > 2 else set()
    kept = set(without(names, ignore)) - edges
    taken, notes, bound = {}, [], modules.bound_layers(model)
    for name in names:
        reason = "first or last layer" if name in edges else "ignored" if name not in kept else None
        reason = reason or scheme.reason(every[name]) or bound.get(name)
        if reason is None and spectrum_sides(scheme, every[name])[2] < 1:
            reason = "too small for two factors"
        if reason is None:
            taken[name] = every[name]
        elif not isinstance(every[name], nn.Embedding):
            notes.append(f"{name!r} left whole: {reason}")
    return taken, tuple(notes)


def spectrum_sides(scheme: Scheme, layer: nn.Module) -> tuple[int, int, int]:
    """Rows, columns and the break-even rank of a layer's matrix."""
    rows, columns = scheme.matrix(layer).shape
    return rows, columns, (rows * columns - 1) // (rows + columns)


def covariances(
    model: nn.Module, layers: Mapping[str, Any], batches: Batches, scheme: Scheme | None = None
) -> dict[str, Tensor]:
    """E[x x^T] [b, b], float64, of what the columns of the scheme's matrix of each layer meet: the features
    of a linear layer, the patches of a convolution (Channel), or its patches of one row (Spatial, whose
    second factor then adds several rows up: a fit to each row, not to their sum). A layer that no batch
    reaches is left out.

    Raises InputError for inputs that are not finite.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, layer: Any, inputs: tuple[Any, ...]) -> None:
        rows = _columns(layer, inputs[0].detach().float(), isinstance(scheme, Spatial))
        if not bool(torch.isfinite(rows).all()):
            raise InputError(f"calibration inputs of {name!r} that are not finite", expected="finite numbers")
        sums[name] = sums.get(name, 0) + (rows.T @ rows).double()
        counts[name] = counts.get(name, 0) + rows.shape[0]

    with before_calls(layers, add), modules.evaluating(model), torch.no_grad():
        for batch in batches:
            call(model, batch.inputs)
    return {name: total / counts[name] for name, total in sums.items()}


def _columns(layer: Any, value: Tensor, one_row: bool) -> Tensor:
    """Inputs as rows [n, b] that meet the columns of the weight matrix; one_row: those of a 1 x K kernel."""
    if isinstance(layer, nn.Linear):
        return value.reshape(-1, value.shape[-1])
    padding, shape = (
        list(layer._reversed_padding_repeated_twice),
        [layer.kernel_size, layer.dilation, layer.stride],
    )
    if one_row:
        padding, shape = [*padding[:2], 0, 0], [(1, each[1]) for each in shape]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(value, padding, mode=mode)
    kernel, dilation, stride = shape
    patches = nn.functional.unfold(padded, kernel, dilation, 0, stride)  # [N, b, P]
    rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return rows[:: max(1, math.ceil(rows.shape[0] / 100_000))]
