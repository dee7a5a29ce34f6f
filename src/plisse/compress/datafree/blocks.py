"""Moments of many small blocks of samples, pooled at will: what distances and their intervals are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plisse.compress.datafree.divergence import MomentDivergence
from plisse.compress.datafree.statistics import Moments, Targets, observing, targets
from plisse.core import modules
from plisse.core.batch import Inputs, call, map_inputs, n_samples
from plisse.errors import GraphError

RESAMPLES = 300
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Blocks:
    """B blocks of `size` samples, the last one maybe fewer. n: values per channel [B] at each layer; mean,
    variance: [B, C]. logits: [N, K] of all samples, None where the network's outputs are none."""

    n: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor]
    logits: Tensor | None
    size: int

    def __len__(self) -> int:
        return len(next(iter(self.n.values())))


def measured_targets(model: nn.Module) -> Targets:
    """The statistics of `model` to measure distances from. Raises GraphError where it has none."""
    found = targets(model)
    if not found:
        raise GraphError(
            f"a {type(model).__name__} without batch-norm statistics, stored or kept",
            expected="statistics of the training data to measure a distance from",
            hint="the network before its batch norms were folded or absorbed, or a file that was made with "
            "keep_statistics=True or with --data none",
        )
    return found


def observed(model: nn.Module, wanted: Targets, inputs: Inputs, size: int) -> Blocks:
    """Moments of every `size` samples of `inputs` in turn.

    The network runs in evaluation mode, without gradients; its flags are put back. Raises GraphError where
    it calls none of the layers in `wanted`.
    """
    device = next(iter([*model.parameters(), *model.buffers()])).device
    seen: list[dict[str, Moments]] = []
    outputs = []
    with modules.evaluating(model), torch.no_grad(), observing(model, wanted) as table:
        for start in range(0, n_samples(inputs), size):
            table.clear()
            piece = map_inputs(inputs, lambda t, at=start: t[at : at + size].to(device))  # type: ignore[misc]
            outputs.append(call(model, piece).float().cpu())
            seen.append(dict(table))
    if not seen or not seen[0]:
        raise GraphError("a network that calls none of the layers with statistics", expected="at least one")
    return _stacked(seen, torch.cat(outputs), size)


def pooled(blocks: Blocks, weights: Tensor | None = None) -> dict[str, Moments]:
    """Moments of all blocks together; with weights [R, B], how often each counts, those of R mixtures."""
    found = {}
    for name, n in blocks.n.items():
        share = n if weights is None else weights * n
        share = share / share.sum(-1, keepdim=True)
        mean = share @ blocks.mean[name]
        second = share @ (blocks.variance[name] + blocks.mean[name].square())
        found[name] = Moments(int(n.sum()), mean.float(), (second - mean.square()).clamp_min(0).float())
    return found


def distances(measured: Mapping[str, Moments], wanted: Targets, divergence: MomentDivergence) -> Tensor:
    """Divergence from `wanted`, mean over channels, then over layers: a scalar, or [R] for R mixtures."""
    each = [
        divergence(found.mean, found.std, *(value.cpu() for value in wanted[name])).mean(-1)
        for name, found in measured.items()
    ]
    return torch.stack(each).mean(0)


def bootstrap(
    blocks: Blocks, wanted: Targets, divergence: MomentDivergence, seed: int
) -> tuple[float, float, float]:
    """The distance of all blocks together, and its 95 % interval by resampling blocks (Efron 1979).

    A mixture repeats blocks, so that its moments are noisier and its distance a little larger: what counts is
    how mixtures scatter around their own mean. One block gives no interval: both ends are the value.
    """
    value = float(distances(pooled(blocks), wanted, divergence))
    if len(blocks) < 2:
        return value, value, value
    picks = torch.randint(
        len(blocks), (RESAMPLES, len(blocks)), generator=torch.Generator().manual_seed(seed)
    )
    weights = torch.zeros(RESAMPLES, len(blocks), dtype=torch.float64)
    weights.scatter_add_(1, picks, torch.ones_like(weights))
    draws = distances(pooled(blocks, weights), wanted, divergence)
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = (value + (draws - draws.mean())).quantile(tails).tolist()
    return value, max(0.0, low), high


def mean_confidence(logits: Tensor) -> float:
    """Mean largest probability of logits [N, K]."""
    return float(logits.softmax(1).amax(1).mean())


def _stacked(seen: list[dict[str, Moments]], outputs: Tensor, size: int) -> Blocks:
    names = list(seen[0])
    return Blocks(
        {name: torch.tensor([float(block[name].n) for block in seen], dtype=torch.float64) for name in names},
        {name: torch.stack([block[name].mean.double().cpu() for block in seen]) for name in names},
        {name: torch.stack([block[name].variance.double().cpu() for block in seen]) for name in names},
        outputs if outputs.dim() == 2 and outputs.shape[1] > 1 else None,
        size,
    )
