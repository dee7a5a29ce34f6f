"""Fit a network, or a step away from one, to a frame: distortion and rate at once.

J = sum of squared errors + lambda bits, over base + delta: delta is what is coded, in symbols q = delta / D
of each group of tensors with its own step D. Bits are those of a discretised Laplace distribution with scale
b, R = -log2 [F(q + 1/2) - F(q - 1/2)]; D and b are learned with the rest. In the first 60 % of the steps q is
disturbed by uniform noise, then it is rounded, gradients passing straight through.

A convolutional network that starts from nothing has lambda grow for the first half of its steps, from 1/64:
with all of it from the start the rate wins before the picture is learned, and a product of layers that are
all zero has no gradient that leads out again. (Coordinate networks do not collapse, and gain nothing by it.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.codec.pictures import Planes, squared_error
from plisse.core.batch import Batch, BatchList
from plisse.train.loop import fit
from plisse.train.task import Loss

EXPONENTS_PER_OCTAVE = 8
NOISE_SHARE = 0.6
RAMP_SHARE, RAMP_OCTAVES = 0.5, 6
SCALE_LR, STEP_LR = 0.05, 0.01
LEAST_SCALE = 0.05

Shown = tuple[tuple[Any, ...], Planes]
"""What a network is called with, and the frame that should come out, 0 to 1."""


def qstep_of(exponent: int) -> float:
    """2^(e/8): steps are told by whole numbers."""
    return float(2.0 ** (exponent / EXPONENTS_PER_OCTAVE))


def group_of(name: str, tensor: Tensor) -> str:
    """Matrices and filters are groups of their own; all vectors together are one."""
    return name if tensor.dim() > 1 else "vectors"


def groups_of(network: nn.Module) -> dict[str, list[str]]:
    """Names of parameters by group, in the order of the network."""
    groups: dict[str, list[str]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(group_of(name, parameter), []).append(name)
    return groups


def bits(q: Tensor, scale: Tensor) -> Tensor:
    """Bits of symbols under a discretised Laplace distribution of `scale`, elementwise.

    >>> float(bits(torch.zeros(1), torch.tensor(0.2))) < 0.2
    True
    """
    size = q.abs()
    tail = (size - 0.5).clamp_min(0) / scale * math.log2(math.e) + 1 - torch.log2(-torch.expm1(-1 / scale))
    inside = 1 - 0.5 * (torch.exp(-(0.5 - size).clamp_min(0) / scale) + torch.exp(-(0.5 + size) / scale))
    return torch.where(size < 0.5, -torch.log2(inside.clamp_min(1e-9)), tail)


class Change(nn.Module):
    """base + q D for every parameter of `network`, which itself stays as it is."""

    def __init__(
        self,
        network: nn.Module,
        base: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        qsteps: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.network = (network,)
        self.groups = groups_of(network)
        self.base = dict(base)
        self.deltas = nn.ParameterList([nn.Parameter(start[name].clone()) for name in base])
        logs = [math.log2(qsteps[group]) for group in self.groups]
        self.log_qsteps = nn.Parameter(torch.tensor(logs))
        self.log_scales = nn.Parameter(
            torch.tensor([self._scale(names, qsteps[g]) for g, names in self.groups.items()])
        )

    def _scale(self, names: list[str], qstep: float) -> float:
        order = list(self.base)
        values = torch.cat([self.deltas[order.index(name)].detach().reshape(-1) for name in names])
        return math.log(max(float(values.abs().mean()) / qstep, 0.2))

    def symbols(self, share: float) -> dict[str, tuple[Tensor, Tensor, int]]:
        """q, D and group of each parameter; noisy for a share of training below 60 %, then whole."""
        order, found = list(self.base), {}
        logs: Tensor = self.log_qsteps
        if share >= NOISE_SHARE:
            logs = logs + (torch.round(logs * EXPONENTS_PER_OCTAVE) / EXPONENTS_PER_OCTAVE - logs).detach()
        for index, names in enumerate(self.groups.values()):
            qstep = torch.exp2(logs[index])
            for name in names:
                q = self.deltas[order.index(name)] / qstep
                shift = torch.round(q) - q if share >= NOISE_SHARE else torch.rand_like(q) - 0.5
                found[name] = (q + shift.detach(), qstep, index)
        return found

    def forward(self, share: float, inputs: tuple[Any, ...]) -> tuple[Planes, Tensor]:
        """A frame and the bits of the change."""
        found = self.symbols(share)
        scales = torch.exp(self.log_scales).clamp_min(LEAST_SCALE)
        total = torch.stack([bits(q, scales[index]).sum() for q, _, index in found.values()]).sum()
        weights = {name: self.base[name] + q * qstep for name, (q, qstep, _) in found.items()}
        return torch.func.functional_call(self.network[0], weights, inputs), total


@dataclass(frozen=True)
class AdamByPart:
    """Adam with a learning rate for weights, and those of scales and steps relative to it."""

    lr: float

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        change: Any = model
        groups: list[dict[str, Any]] = [
            {"params": list(change.deltas)},
            {"params": [change.log_scales], "share": SCALE_LR / self.lr},
            {"params": [change.log_qsteps], "share": STEP_LR / self.lr},
        ]
        return torch.optim.Adam(groups, lr=self.lr)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Symbols of each parameter, the exponent of each group's step, and estimated bits."""

    symbols: dict[str, Tensor]
    exponents: dict[str, int]
    bits: float
    squared_error: float


def fit_change(
    network: nn.Module,
    shown: Sequence[Shown],
    base: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    qsteps: Mapping[str, float],
    *,
    weight: float,
    steps: int,
    lr: float,
    seed: int = 0,
    ramp: bool = False,
) -> Fitted:
    """The change of `base` that minimises squared error + `weight` bits over all frames of `shown`.

    Every training step looks at one frame, in an order drawn from `seed`. start: where delta begins. qsteps:
    the step of each group at the beginning. weight: lambda, squared steps of 8 bits per bit. ramp: let it
    grow to that, for networks that start from nothing.
    """
    change = Change(network, base, start, qsteps)
    pixels = shown[0][1][0].numel()

    def objective(model: nn.Module, batch: Batch) -> Loss:
        share, index = batch.inputs.tolist()  # type: ignore[union-attr]
        inputs, target = shown[int(index)]
        made, rate = model(share, inputs)
        error = squared_error(made, target) / pixels
        heavy = weight * (ramped(share) if ramp else 1.0)
        total = error + heavy / len(shown) * rate / pixels
        return Loss(total, {"error": error, "bits": rate})

    order = _order(len(shown), steps, seed)
    shares = BatchList(tuple(Batch(torch.tensor([i / steps, order[i]])) for i in range(steps)))
    optimizer: Any = AdamByPart(lr)
    fit(
        change, objective, shares, steps=steps, optimizer=optimizer, precision="32-true", channels_last=False,
        accelerator="cpu", seed=seed,
    )  # fmt: skip
    return _rounded(change, shown, weight)


def ramped(share: float) -> float:
    """The share of lambda that counts at a share of training.

    >>> ramped(0.0), ramped(0.25), ramped(0.5), ramped(1.0)
    (0.015625, 0.125, 1.0, 1.0)
    """
    return 2.0 ** (-RAMP_OCTAVES * max(0.0, 1 - share / RAMP_SHARE))


def _order(n: int, steps: int, seed: int) -> list[int]:
    """Which frame each training step looks at: all of them in turn, shuffled anew each time."""
    draw = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(n, generator=draw) for _ in range(-(-steps // n))]).tolist()


def _rounded(change: Change, shown: Sequence[Shown], weight: float) -> Fitted:
    exponents = {
        group: round(float(log) * EXPONENTS_PER_OCTAVE)
        for group, log in zip(change.groups, change.log_qsteps.detach().tolist(), strict=True)
    }
    found = change.symbols(1.0)
    symbols = {name: found[name][0].detach().round() for name in change.base}
    return _without_waste(change, symbols, exponents, shown, weight)


def _without_waste(
    change: Change,
    symbols: dict[str, Tensor],
    exponents: dict[str, int],
    shown: Sequence[Shown],
    weight: float,
) -> Fitted:
    """Zero the ones of least effect, by |gradient D|, where J falls: half of them, else a quarter, and so
    on."""
    best = _measured(change, symbols, exponents, shown)
    for attempt in range(5):
        effects = _effects(change, best, shown)
        ones = torch.cat([effects[n][best.symbols[n].abs() == 1] for n in best.symbols])
        if ones.numel() < 2:
            break
        bound = ones.kthvalue(max(1, ones.numel() >> (attempt + 1))).values
        trial = {
            name: torch.where((q.abs() == 1) & (effects[name] <= bound), 0.0, q)
            for name, q in best.symbols.items()
        }
        measured = _measured(change, trial, exponents, shown)
        if _cost(measured, weight) < _cost(best, weight):
            best = measured
    return best


def _cost(fitted: Fitted, weight: float) -> float:
    return fitted.squared_error + weight * fitted.bits


def _weights(
    change: Change, symbols: Mapping[str, Tensor], exponents: Mapping[str, int]
) -> dict[str, Tensor]:
    where = {name: group for group, names in change.groups.items() for name in names}
    return {n: change.base[n] + q * qstep_of(exponents[where[n]]) for n, q in symbols.items()}


def _effects(change: Change, fitted: Fitted, shown: Sequence[Shown]) -> dict[str, Tensor]:
    """What zeroing each symbol adds to the squared error, to first order."""
    weights = _weights(change, fitted.symbols, fitted.exponents)
    leaves = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    tensors = list(leaves.values())
    sums = [torch.zeros_like(tensor) for tensor in tensors]
    for inputs, target in shown:
        error = squared_error(torch.func.functional_call(change.network[0], leaves, inputs), target)
        sums = [a + b for a, b in zip(sums, torch.autograd.grad(error, tensors), strict=True)]
    where = {name: group for group, names in change.groups.items() for name in names}
    return {
        name: -grad * q * qstep_of(fitted.exponents[where[name]])
        for (name, q), grad in zip(fitted.symbols.items(), sums, strict=True)
    }


@torch.no_grad()
def _measured(
    change: Change, symbols: dict[str, Tensor], exponents: dict[str, int], shown: Sequence[Shown]
) -> Fitted:
    weights = _weights(change, symbols, exponents)
    error, total = 0.0, 0.0
    for inputs, target in shown:
        error += float(squared_error(torch.func.functional_call(change.network[0], weights, inputs), target))
    for names in change.groups.values():
        q = torch.cat([symbols[name].reshape(-1) for name in names])
        scale = (q.abs().mean()).clamp_min(LEAST_SCALE)
        total += float(min(bits(q, scale * factor).sum() for factor in (0.5, 0.7, 1.0, 1.4)))
    return Fitted(symbols, exponents, total, error)


def default_qsteps(network: nn.Module) -> dict[str, float]:
    """A sixteenth of the standard deviation of each group."""
    found = {}
    parameters = dict(network.named_parameters())
    for group, names in groups_of(network).items():
        values = torch.cat([parameters[name].detach().reshape(-1) for name in names])
        spread = float(values.std()) if values.numel() > 1 else 1.0
        found[group] = max(spread, 1e-3) / 16
    return found
