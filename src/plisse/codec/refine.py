"""A small network that takes off what coarse latents leave behind, as a loop filter does.

y = x + D F((x - 128) / D) with F = conv3x3(relu(conv1x1(relu(conv5x5)))), 16 channels; the first filters
have no mean, so that F does not see brightness, and D is the quantizer step, so that one F serves all rates.
F starts from weights that belong to the format (fitted to other clips) and moves by weight steps, as a whole
network does.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.bitstream.bytesreader import BytesReader
from plisse.bitstream.tensors import decode_tensor
from plisse.codec.pictures import Planes
from plisse.core.stored import Uniform

CHANNELS = 16
MARGIN = 3
START = Path(__file__).parent / "refiner.bin"
MIDDLE = 128.0
STRIPE = 64
"""Rows that are refined at a time: convolutions in float64 hold 9 x 16 numbers for every pixel."""


class Refiner(nn.Module):
    """Planes in units of the quantizer step [H, W] -> what is added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS, 5)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.last = nn.Conv2d(CHANNELS, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.pad(x[None, None], (MARGIN,) * 4, mode="replicate")
        rows, step = x.shape[0], x.shape[0] if torch.is_grad_enabled() else STRIPE
        parts = [self._inside(wide[:, :, at : at + step + 2 * MARGIN]) for at in range(0, rows, step)]
        return torch.cat(parts)

    def _inside(self, wide: Tensor) -> Tensor:
        """What is added to the pixels that are `MARGIN` or more away from the border."""
        weight = self.first.weight
        flat = weight - weight.mean((1, 2, 3), keepdim=True)
        hidden = F.relu(self.second(F.relu(F.conv2d(wide, flat, self.first.bias))))
        added: Tensor = self.last(hidden)
        return added[0, 0]


class Refined(nn.Module):
    """Fixed planes (uint8 steps, float) with a refiner behind them, as `fit_change` wants it: planes 0 to
    1."""

    def __init__(self, planes: Planes, qstep: float, mask: Tensor) -> None:
        super().__init__()
        self.refiner, self.planes, self.qstep, self.mask = Refiner(), planes, qstep, mask

    def forward(self) -> Planes:
        luma, u, v = self.planes
        added = self.mask * self.qstep * self.refiner((luma - MIDDLE) / self.qstep)
        return (luma + added) / 255, u / 255, v / 255


@cache
def start() -> dict[str, Tensor]:
    """The weights that every clip begins with."""
    reader, found = BytesReader(START.read_bytes()), {}
    for name, parameter in Refiner().named_parameters():
        part = reader.part()
        stored = decode_tensor(part.rest())
        assert isinstance(stored.grid, Uniform)
        values = stored.symbols.astype(np.float32) * stored.grid.scale[0]
        found[name] = torch.from_numpy(values).view(parameter.shape)
    return found


@torch.no_grad()
def added(plane: np.ndarray, qstep: float, weights: dict[str, Tensor]) -> np.ndarray:
    """What a plane [H, W] gets, float64."""
    double = {name: tensor.double() for name, tensor in weights.items()}
    x = torch.from_numpy((plane - MIDDLE) / qstep)
    made: Tensor = torch.func.functional_call(_shape(), double, (x,))
    return np.nan_to_num(qstep * made.numpy())


@cache
def _shape() -> nn.Module:
    return Refiner().double()
