"""Networks whose output is a frame: planes of luma and of halved chroma, 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.data.frames import halved, to_bytes
from plisse.errors import InputError
from plisse.networks.coordinate import FrameGenerator, coordinates, fourier_mlp, siren

Planes = tuple[Tensor, Tensor, Tensor]
KINDS = ("siren", "fourier", "conv")
LARGEST = {"siren": (256, 8), "fourier": (256, 8), "conv": (64, 6)}
"""Bounds on width and depth, so that a hostile header asks for no more."""


@dataclass(frozen=True)
class Arch:
    """kind: "siren", "fourier" (coordinates -> Y, U, V) or "conv" (a learned latent -> planes). width: units
    or channels. depth: hidden layers, or doublings."""

    kind: str
    width: int
    depth: int

    def __post_init__(self) -> None:
        widest, deepest = LARGEST.get(self.kind, (0, 0))
        if not 1 <= self.width <= widest or not 1 <= self.depth <= deepest:
            bounds = ", ".join(f"{kind} up to {w} x {d}" for kind, (w, d) in LARGEST.items())
            raise InputError(f"a network {self.kind} of {self.width} x {self.depth}", expected=bounds)

    @property
    def scalable(self) -> bool:
        """Whether it gives a frame of any size."""
        return self.kind != "conv"


class CoordinatePicture(nn.Module):
    """A coordinate network at the pixels of luma, and at those of chroma."""

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, size: tuple[int, int] | None = None) -> Planes:
        size = size or self.size
        dtype = next(self.parameters()).dtype
        luma = self.network(coordinates(*size).to(dtype))[:, 0]
        chroma = self.network(coordinates(*halved(size)).to(dtype))[:, 1:]
        return luma.view(size), chroma[:, 0].view(halved(size)), chroma[:, 1].view(halved(size))


class GeneratedPicture(nn.Module):
    """A frame generator at half the size: four channels are shuffled to luma, two are chroma."""

    def __init__(self, size: tuple[int, int], width: int, doublings: int) -> None:
        super().__init__()
        self.generator = FrameGenerator((size[0] + 1) // 2, (size[1] + 1) // 2, width, doublings, outputs=6)
        self.size = size

    def forward(self, size: tuple[int, int] | None = None) -> Planes:
        return shuffled(self.generator(), self.size)


def shuffled(made: Tensor, size: tuple[int, int]) -> Planes:
    """Six channels of half the size to planes: four are luma, two are chroma."""
    luma = F.pixel_shuffle(made[None, :4], 2)[0, 0, : size[0], : size[1]]
    return luma, made[4], made[5]


def build(arch: Arch, size: tuple[int, int], seed: int = 0) -> nn.Module:
    """The network of a clip at its start; what `seed` draws is the same on one machine only."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if arch.kind == "conv":
            return GeneratedPicture(size, arch.width, arch.depth)
        if arch.kind == "siren":
            return CoordinatePicture(siren(arch.width, arch.depth), size)
        return CoordinatePicture(fourier_mlp(arch.width, arch.depth, arch.width), size)


def squared_error(made: Planes, target: Planes) -> Tensor:
    """Sum of squared differences of all samples, in steps of 8 bits."""
    return torch.stack([(a - b).square().sum() for a, b in zip(made, target, strict=True)]).sum() * 255**2


def as_units(planes: Planes) -> Planes:
    """Planes of uint8 as float32 from 0 to 1."""
    y, u, v = (plane.float() / 255 for plane in planes)
    return y, u, v


@torch.no_grad()
def rendered(network: nn.Module, weights: Mapping[str, Tensor], *inputs: Any) -> Planes:
    """The frame that weights stand for, called with `inputs`, 0 to 1. In float64, so that machines round to
    the same bytes (but for values within 1e-9 or so of the middle of two)."""
    double = {name: tensor.double() for name, tensor in weights.items()}
    for name, buffer in network.named_buffers():
        double[name] = buffer.double()
    y, u, v = torch.func.functional_call(network, double, inputs)
    return y, u, v


def as_bytes(planes: Planes) -> Planes:
    """Planes from 0 to 1 as uint8."""
    y, u, v = (to_bytes(plane * 255) for plane in planes)
    return y, u, v


def scaled(planes: Planes, size: tuple[int, int]) -> Planes:
    """Planes at another size of luma, by cubic interpolation."""
    sizes = (size, halved(size), halved(size))
    y, u, v = (
        F.interpolate(plane[None, None], to, mode="bicubic", antialias=True)[0, 0]
        for plane, to in zip(planes, sizes, strict=True)
    )
    return y, u, v


def difference(one: Planes, other: Planes) -> Planes:
    """one - other, plane by plane."""
    y, u, v = (a - b for a, b in zip(one, other, strict=True))
    return y, u, v


def total(one: Planes, other: Planes) -> Planes:
    """one + other, plane by plane."""
    y, u, v = (a + b for a, b in zip(one, other, strict=True))
    return y, u, v


def n_parameters(network: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in network.parameters())
