"""Fixed rotations that hang on a layer: random signs, then a fast orthogonal transform along the channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plisse.core.hooks import hang_after, hang_before
from plisse.errors import InputError

WIDEST, ODDEST = 1 << 16, 1024
"""Bounds on the channels of a rotation, and on the odd factor of their number."""


class _Rotation(nn.Module):
    """The tables of a rotation, and what there is to know of it."""

    signs: Tensor
    cosines: Tensor

    def __init__(self, width: int, seed: int = 0, axis: int = -1) -> None:
        super().__init__()
        if not can_rotate(width):
            raise InputError(
                f"a rotation of {width} channels", expected=f"1 to {WIDEST}, odd part to {ODDEST}"
            )
        self.width, self.seed, self.axis = width, seed, axis
        draw = np.random.Generator(np.random.PCG64(seed))
        signs = torch.from_numpy(draw.integers(0, 2, width).astype(np.float32) * 2 - 1)
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("cosines", _cosines(_odd_part(width)), persistent=False)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments; there is nothing else to know."""
        return {"width": self.width, "seed": self.seed, "axis": self.axis}


class InputRotation(_Rotation):
    """Rotates the first input of a layer along its channels: R x, R = (C_m x H_p) diag(signs), the matrix of
    Hadamard for the largest power of two p in `width` = m p and orthonormal cosines for the rest m.

    R is orthogonal. Signs are drawn from `seed` by numpy's PCG64, so that a file holds no more than the
    numbers of this constructor. axis: of the channels. Attached as the child `input_rotation` with a forward
    pre-hook that runs before all others. Costs log2(p) + m additions per value.

    >>> turn, back = InputRotation(12, 3), OutputRotation(12, 3)
    >>> x = torch.randn(5, 12)
    >>> bool(torch.allclose(back(turn(x)), x, atol=1e-5))
    True
    """

    def forward(self, value: Tensor) -> Tensor:
        return turned(value.float(), self.signs, self.cosines, self.axis).to(value.dtype)

    def attach(self, layer: nn.Module) -> None:
        """Hang this on `layer`, in place of one that hangs there already."""
        hang_before(layer, "input_rotation", self, first=True)


class OutputRotation(_Rotation):
    """Rotates the output of a layer back, R^T y, with R as of `InputRotation`. Attached as the child
    `output_rotation` with a forward hook."""

    def forward(self, value: Tensor) -> Tensor:
        return turned_back(value.float(), self.signs, self.cosines, self.axis).to(value.dtype)

    def attach(self, layer: nn.Module) -> None:
        """Hang this on `layer`, in place of one that hangs there already."""
        hang_after(layer, "output_rotation", self)


def can_rotate(width: int) -> bool:
    """Whether there is a rotation of so many channels."""
    return 1 <= width <= WIDEST and _odd_part(width) <= ODDEST


def turned(value: Tensor, signs: Tensor, cosines: Tensor, axis: int) -> Tensor:
    """R x along `axis`."""
    rows = value.movedim(axis, -1)
    blocks = _blocks(rows * signs, len(cosines))
    return (cosines @ hadamard(blocks)).reshape(rows.shape).movedim(rows.dim() - 1, axis)


def turned_back(value: Tensor, signs: Tensor, cosines: Tensor, axis: int) -> Tensor:
    """R^T x along `axis`."""
    rows = value.movedim(axis, -1)
    blocks = _blocks(rows, len(cosines))
    return (hadamard(cosines.T @ blocks).reshape(rows.shape) * signs).movedim(rows.dim() - 1, axis)


def _odd_part(width: int) -> int:
    return width // (width & -width)


def _blocks(rows: Tensor, m: int) -> Tensor:
    return rows.reshape(*rows.shape[:-1], m, rows.shape[-1] // m)


def hadamard(rows: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform along the last axis, whose length is a power of two."""
    n, half = rows.shape[-1], 1
    while half < n:
        pairs = rows.reshape(*rows.shape[:-1], n // (2 * half), 2, half)
        a, b = pairs.unbind(-2)
        rows = torch.stack((a + b, a - b), -2).reshape(rows.shape)
        half *= 2
    return rows / math.sqrt(n)


def _cosines(m: int) -> Tensor:
    """The orthonormal type-II cosine transform of m values."""
    k = torch.arange(m, dtype=torch.float64)
    found = torch.cos(math.pi / m * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / m)
    found[0] /= math.sqrt(2)
    return found.float()
