"""Networks that are a picture: from coordinates to colours, or from a learned latent to a whole frame."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.errors import InputError

OMEGA = 30.0


def coordinates(height: int, width: int) -> Tensor:
    """Centres of pixels, (row, column) from -1 to 1 along each side: [height * width, 2], row by row.

    The same picture on a finer grid has its new centres between the old ones: that is super-sampling.

    >>> coordinates(1, 2).tolist()
    [[0.0, -0.5], [0.0, 0.5]]
    """
    rows = (torch.arange(height) * 2 + 1) / height - 1
    columns = (torch.arange(width) * 2 + 1) / width - 1
    return torch.cartesian_prod(rows, columns)


class Sine(nn.Module):
    """sin(omega x)."""

    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)


def siren(
    width: int = 28, depth: int = 4, inputs: int = 2, outputs: int = 3, omega: float = OMEGA
) -> nn.Module:
    """Sine layers, then a linear one: coordinates [P, inputs] -> colours [P, outputs], 0 black to 1 white.

    y = W_L h_{L-1} + b_L with h_k = sin(omega (W_k h_{k-1} + b_k)). `depth` sine layers of `width` units. The
    first layer starts within 1 / inputs, the others within sqrt(6 / width) / omega, which keeps the spread of
    every layer the same; the last bias starts at mid-grey (Sitzmann et al. 2020, section 3.2).

    >>> siren(8, 2)(coordinates(4, 5)).shape
    torch.Size([20, 3])
    """
    _positive(width=width, depth=depth, inputs=inputs, outputs=outputs)
    layers: list[nn.Module] = []
    fan_in = inputs
    for index in range(depth):
        linear = nn.Linear(fan_in, width)
        bound = 1 / fan_in if index == 0 else math.sqrt(6 / fan_in) / omega
        nn.init.uniform_(linear.weight, -bound, bound)
        layers += [linear, Sine(omega)]
        fan_in = width
    last = nn.Linear(fan_in, outputs)
    nn.init.uniform_(last.weight, -math.sqrt(6 / fan_in) / omega, math.sqrt(6 / fan_in) / omega)
    nn.init.constant_(last.bias, 0.5)
    return nn.Sequential(*layers, last)


class FourierFeatures(nn.Module):
    """[cos 2 pi v B, sin 2 pi v B] for v [P, inputs]; B [inputs, features] ~ N(0, sigma^2), from `seed`.

    B belongs to the structure, not to the weights: the seed stands for it in a file (Tancik et al. 2020).
    """

    frequencies: Tensor

    def __init__(self, inputs: int, features: int, sigma: float, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        frequencies = sigma * torch.randn(inputs, features, generator=draw)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        angles = 2 * math.pi * v @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)


def fourier_mlp(
    width: int = 32,
    depth: int = 3,
    features: int = 32,
    sigma: float = 4.0,
    inputs: int = 2,
    outputs: int = 3,
    seed: int = 0,
) -> nn.Module:
    """ReLU layers on random Fourier features: coordinates [P, inputs] -> colours [P, outputs].

    sigma: spread of the frequencies, in cycles per half side; the larger, the finer the detail that is
    learned first, and the more noise. features: so many cosines and as many sines.

    >>> fourier_mlp(8, 1, 4)(coordinates(4, 5)).shape
    torch.Size([20, 3])
    """
    _positive(width=width, depth=depth, features=features, inputs=inputs, outputs=outputs, sigma=sigma)
    layers: list[nn.Module] = [FourierFeatures(inputs, features, sigma, seed)]
    fan_in = 2 * features
    for _ in range(depth):
        layers += [nn.Linear(fan_in, width), nn.ReLU()]
        fan_in = width
    last = nn.Linear(fan_in, outputs)
    nn.init.constant_(last.bias, 0.5)
    return nn.Sequential(*layers, last)


class FrameGenerator(nn.Module):
    """A latent [1, C, h, w] that is learned with the rest, doubled by 3 x 3 convolutions until it is a frame.

    Each of `doublings` steps is GELU(shuffle(conv(x))), where shuffle turns 4 C channels into C of twice the
    height and width; a last convolution gives `outputs` channels, cut to height x width. Calling it takes
    nothing and gives [outputs, height, width], 0 black to 1 white (in the manner of NeRV, Chen et al. 2021).

    >>> FrameGenerator(18, 22, width=4, doublings=2)().shape
    torch.Size([3, 18, 22])
    """

    def __init__(
        self, height: int, width_pixels: int, width: int = 8, doublings: int = 4, outputs: int = 3
    ) -> None:
        super().__init__()
        _positive(height=height, width_pixels=width_pixels, width=width, doublings=doublings, outputs=outputs)
        self.size = (height, width_pixels)
        block = 2**doublings
        self.latent = nn.Parameter(
            0.1 * torch.randn(1, width, -(-height // block), -(-width_pixels // block))
        )
        self.steps = nn.ModuleList(nn.Conv2d(width, 4 * width, 3, padding=1) for _ in range(doublings))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.constant_(self.last.bias, 0.5)  # type: ignore[arg-type]

    def forward(self) -> Tensor:
        x: Tensor = self.latent
        for step in self.steps:
            x = F.gelu(F.pixel_shuffle(step(x), 2))
        return self.last(x)[0, :, : self.size[0], : self.size[1]]  # type: ignore[no-any-return]


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name}={value}", expected="above zero")
