"""What happened during training, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from plisse.errors import WeightsError
from plisse.train.task import Loss


@dataclass(frozen=True)
class Row:
    """step: steps done so far. loss, parts: means over the steps since the last row. lr: in the last step."""

    step: int
    loss: float
    lr: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """rows: in order of steps. seconds: time spent in training, over all resumed runs. precision, devices,
    device: what was used ("bf16-mixed" or "32-true"; number of processes; cpu, cuda or mps)."""

    rows: tuple[Row, ...]
    seconds: float
    precision: str
    devices: int
    device: str

    @property
    def loss(self) -> float:
        """The last row's loss."""
        return self.rows[-1].loss

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> History:
        """The inverse of `to_data`."""
        return cls(**{**data, "rows": tuple(Row(**row) for row in data["rows"])})


@dataclass(eq=False)
class Recorder:
    """Collects the losses of single steps and turns them into rows, with one wait for the device per row.

    mean: averages a tensor over all processes.
    """

    mean: Callable[[Tensor], Tensor]
    rows: list[Row] = field(default_factory=list)
    pending: list[tuple[int, float, tuple[str, ...], Tensor]] = field(default_factory=list)

    def add(self, step: int, lr: float, loss: Loss) -> None:
        """Note the loss of `step` (0, 1, ...), this process's share of it."""
        values = torch.stack([loss.total.detach(), *(part.detach() for part in loss.parts.values())])
        self.pending.append((step, lr, tuple(loss.parts), values.float()))

    def flush(self) -> None:
        """Close a row.

        Raises WeightsError with the first step whose loss was not finite, in every process alike.
        """
        if not self.pending:
            return
        numbers = self.mean(torch.cat([values for *_, values in self.pending])).tolist()
        totals: list[float] = []
        parts: dict[str, list[float]] = {}
        for step, lr, names, _ in self.pending:
            total, numbers = numbers[0], numbers[1:]
            _check_loss(total, step, lr)
            totals.append(total)
            for name, value in zip(names, numbers, strict=False):
                parts.setdefault(name, []).append(value)
            numbers = numbers[len(names) :]
        step, lr, *_ = self.pending[-1]
        means = {name: math.fsum(values) / len(values) for name, values in parts.items()}
        self.rows.append(Row(step + 1, math.fsum(totals) / len(totals), lr, means))
        self.pending.clear()


def _check_loss(total: float, step: int, lr: float) -> None:
    if not math.isfinite(total):
        raise WeightsError(
            f"a loss of {total} in step {step}",
            expected="a finite loss",
            hint=f"a learning rate below {lr:.2g}, clip=1.0, or precision='32-true'",
        )
