"""Networks quantized for the tests of integer inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.core.batch import Batch, BatchList, Inputs
from plisse.train.task import Task, classification


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task_of(example: Inputs, *more: Inputs) -> Task:
    batches = BatchList(tuple(Batch(inputs) for inputs in (example, *more)))
    return classification("none", example, batches, batches, batches)


def quantized(model: nn.Module, example: Inputs, *, fold: bool = True, **options: Any) -> nn.Module:
    """8-bit weights and activations over what `example` shows."""
    options = {"bits": 8, "range": MinMax(), "activations": Activations(8, MinMax()), **options}
    task = task_of(example)
    return Quantize(**options)(FoldBatchNorm()(model.eval(), task) if fold else model.eval(), task).eval()
