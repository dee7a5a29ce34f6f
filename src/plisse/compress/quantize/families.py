"""What a member of each family of quantization must do. Members are frozen dataclasses; contracts test them.

A *grid* says which values a weight may take. A *range* (ranges) says where a uniform grid ends. A *rounding*
picks, for a network whose grids are chosen, the symbols of its weights. An *estimator* is the gradient that
rounding is given in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from plisse.core.reparam import Reparam, Reparametrized
from plisse.train.task import Task


class Grid(Protocol):
    """Any set of values other than the uniform one: codebooks, binary codes, vectors, small floats."""

    def quantized(self, source: Reparam) -> Reparam:
        """The source's values rounded to this grid, fitted to them as they are now. Contract:
        tests/contracts/test_grids.py: idempotent, `forward` equals the stored values bit for bit."""
        ...


class Rounding(Protocol):
    """Contract: tests/contracts/test_roundings.py."""

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        """The same network with other symbols (and, where the method says so, scales and biases), chosen so
        that outputs stay near those of `original` on `task.calibration`. No labels. Arguments stay as they
        were."""
        ...


class Estimator(Protocol):
    """Contract: tests/contracts/test_estimators.py."""

    def round(self, value: Tensor) -> Tensor:
        """`value` rounded to whole numbers in the forward pass, with this estimator's gradient."""
        ...


@dataclass(frozen=True)
class Nearest:
    """Round to nearest: the symbols stay as they are."""

    def __call__(self, quantized: Reparametrized, original: nn.Module, task: Task) -> Reparametrized:
        return quantized
