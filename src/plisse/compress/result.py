"""What a compression did: costs and scores before and after, step by step and tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from plisse.cost.budget import Cost
from plisse.train.evaluate import Difference, Evaluation


@dataclass(frozen=True)
class StepRow:
    """The state after one step. The first row is the network as it came.

    name: the step, as printed. cost: bytes as written and latency as measured after this step. score: on the
    holdout, None where it was not scored. saved_nothing: neither bytes, MACs nor time went down. notes: what
    the step left alone, and why.
    """

    name: str
    cost: Cost
    score: float | None = None
    saved_nothing: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorRow:
    """One tensor in the file. bytes: as written, with its own header. coding: how the symbols were coded."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    coding: str
    zeros: float

    @property
    def values(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def bits_per_value(self) -> float:
        return 8 * self.bytes / max(self.values, 1)


@dataclass(frozen=True)
class FrontierPoint:
    """A point that the search visited: predicted bytes of the file and divergence from the original."""

    bytes: float
    divergence: float
    chosen: bool = False


@dataclass(frozen=True, eq=False)
class Result:
    """The decoded network and everything that was measured on the way.

    model: what a reader of the file gets, already decoded. data: the bytes of the file.
    """

    model: nn.Module
    data: bytes
    before: Cost
    after: Cost
    score_before: Evaluation
    score_after: Evaluation
    difference: Difference
    steps: tuple[StepRow, ...]
    tensors: tuple[TensorRow, ...]
    frontier: tuple[FrontierPoint, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Bytes before by bytes after."""
        return self.before.bytes / self.after.bytes
