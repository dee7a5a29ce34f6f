"""What a range must do, and how one is applied to samples that come in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from plisse.compress.quantize.grids import Format

Interval = tuple[Tensor, Tensor]


class Range(Protocol):
    """Contract: tests/contracts/test_ranges.py."""

    def range(self, samples: Tensor, form: Format) -> Interval: ...


@runtime_checkable
class BatchRange(Range, Protocol):
    """A range that looks at batches one after the other."""

    def over(self, batches: Sequence[Tensor], form: Format) -> Interval:
        """Low and high [U] from samples [U, n] of each batch, n may differ; at least one batch."""
        ...


def over_batches(chosen: Range, batches: Sequence[Tensor], form: Format) -> Interval:
    """The range of samples that came in batches: one by one for a `BatchRange`, else all together.

    batches: samples [U, n] of each batch, n may differ; at least one.
    """
    if isinstance(chosen, BatchRange):
        return chosen.over(batches, form)
    return chosen.range(torch.cat(list(batches), 1), form)


def balanced(low: Tensor, high: Tensor, form: Format) -> Interval:
    """The interval, or for a symmetric grid the smallest symmetric one that holds it."""
    reach = torch.maximum(-low, high)
    return (-reach, reach) if form.symmetric else (low, high)
