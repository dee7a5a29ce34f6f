"""Watch the batches that a network meets in use; raise an alarm when they leave what it was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from plisse.compress.datafree.blocks import (
    Blocks,
    distances,
    mean_confidence,
    measured_targets,
    observed,
    pooled,
)
from plisse.compress.datafree.divergence import KL
from plisse.compress.datafree.order import gathered
from plisse.compress.datafree.statistics import Targets
from plisse.core.batch import Batch, Batches, n_samples
from plisse.errors import InputError

FEWEST = 4  # reference batches that a spread can be read from


@dataclass(frozen=True)
class Limits:
    """Where the averages of a monitor start, and where they raise an alarm.

    distance, confidence: means over reference batches. highest: of the distance's average. lowest: of the
    confidence's; confidence and lowest are None for networks that give no logits.
    """

    distance: float
    highest: float
    confidence: float | None = None
    lowest: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.distance < self.highest < math.inf:
            raise InputError(
                f"distance {self.distance}, highest {self.highest}", expected="0 <= distance < highest"
            )
        if (self.confidence is None) != (self.lowest is None):
            raise InputError("confidence without lowest, or lowest without it", expected="both or none")


@dataclass(frozen=True)
class DriftState:
    """After one more batch. distance, confidence: of this batch. average, average_confidence: exponentially
    weighted. reasons: "distance" and "confidence", as far as their averages are beyond their limits."""

    batches: int
    distance: float
    average: float
    confidence: float | None
    average_confidence: float | None
    reasons: tuple[str, ...]

    @property
    def alarm(self) -> bool:
        return bool(self.reasons)


class DriftMonitor:
    """Distance of each batch from the training data, and the network's confidence, as exponentially weighted
    averages: a <- (1 - weight) a + weight x (Roberts 1959), with an alarm beyond the limits.

    limits: from `learned_limits`, for batches of the same size and the same weight. weight: above 0, at most
    1; small ones see small drifts, large ones fast. Nothing of a batch is kept. An alarm ends when the
    averages come back; `reset` starts anew.

    >>> net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> draw = torch.Generator().manual_seed(0)
    >>> _ = [net(torch.randn(64, 3, generator=draw)) for _ in range(100)]
    >>> from plisse.core.batch import BatchList
    >>> seen = BatchList(tuple(Batch(torch.randn(64, 3, generator=draw)) for _ in range(8)))
    >>> monitor = DriftMonitor(net, learned_limits(net, seen))
    >>> monitor.observe(Batch(torch.randn(64, 3, generator=draw))).alarm
    False
    >>> monitor.observe(Batch(torch.randn(64, 3, generator=draw) + 1)).reasons
    ('distance',)
    """

    def __init__(self, model: nn.Module, limits: Limits, weight: float = 0.2) -> None:
        _check_weight(weight)
        self.model, self.limits, self.weight = model, limits, weight
        self.wanted = measured_targets(model)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.batches, self.average, self.average_confidence = 0, self.limits.distance, self.limits.confidence

    def observe(self, batch: Batch) -> DriftState:
        """Take in one more batch. Raises InputError where it makes no finite distance."""
        blocks = observed(self.model, self.wanted, batch.inputs, n_samples(batch.inputs))
        distance, confidence = _each(blocks, self.wanted)[0]
        if not math.isfinite(distance):
            raise InputError(f"a batch at distance {distance}", expected="finite inputs")
        self.batches += 1
        self.average += self.weight * (distance - self.average)
        if self.average_confidence is not None and confidence is not None:
            self.average_confidence += self.weight * (confidence - self.average_confidence)
        return DriftState(
            *(self.batches, distance, self.average, confidence, self.average_confidence), self._reasons()
        )

    def _reasons(self) -> tuple[str, ...]:
        reasons = ["distance"] if self.average > self.limits.highest else []
        lowest = self.limits.lowest
        if lowest is not None and self.average_confidence is not None and self.average_confidence < lowest:
            reasons.append("confidence")
        return tuple(reasons)


def learned_limits(
    model: nn.Module,
    reference: Batches,
    *,
    size: int | None = None,
    weight: float = 0.2,
    deviations: float = 4.0,
    samples: int = 2048,
    seed: int = 0,
) -> Limits:
    """Limits from reference data that are as they should be, but that the network was not trained on, for of
    those it is surer than of any other: mean over batches, plus (for the confidence
    minus) `deviations` standard deviations of the weighted average, s sqrt(weight / (2 - weight)).

    size: samples per batch, that of the first reference batch unless given; small batches scatter more and
    lie further off, so that it must be that of the batches to come. Samples are shuffled first. weight: that
    of the monitor. Raises InputError for fewer than 4 such batches.
    """
    _check_weight(weight)
    wanted = measured_targets(model)
    found = gathered(reference, samples, seed)
    size = size or n_samples(reference[0].inputs)
    whole = n_samples(found.inputs) // size
    if whole < FEWEST:
        raise InputError(
            f"{whole} reference batches of {size} samples",
            expected=f"at least {FEWEST}",
            hint="a smaller size",
        )
    pairs = _each(observed(model, wanted, found.inputs, size), wanted)[:whole]
    room = deviations * math.sqrt(weight / (2 - weight))
    values = torch.tensor([distance for distance, _ in pairs], dtype=torch.float64)
    highest = float(values.mean() + room * values.std())
    sure = [confidence for _, confidence in pairs if confidence is not None]
    if not sure:
        return Limits(float(values.mean()), highest)
    sures = torch.tensor(sure, dtype=torch.float64)
    return Limits(
        float(values.mean()), highest, float(sures.mean()), float(sures.mean() - room * sures.std())
    )


def _each(blocks: Blocks, wanted: Targets) -> list[tuple[float, float | None]]:
    """Distance and confidence of every block by itself."""
    alone = distances(pooled(blocks, torch.eye(len(blocks), dtype=torch.float64)), wanted, KL()).tolist()
    if blocks.logits is None:
        return [(value, None) for value in alone]
    return list(zip(alone, map(mean_confidence, blocks.logits.split(blocks.size)), strict=True))


def _check_weight(weight: float) -> None:
    if not 0 < weight <= 1:
        raise InputError(f"weight {weight}", expected="above 0, at most 1")
