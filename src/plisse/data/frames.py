"""One frame of video: planes of luma and chroma, and the way between them and RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plisse.errors import InputError

Chroma = Literal["420", "444"]
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Shares of red and of blue in luma (ITU-R BT.601-7, BT.709-6, BT.2020-2)."""


@dataclass(frozen=True)
class Colour:
    """What the numbers in the planes mean.

    matrix: "bt601", "bt709" or "bt2020". full: luma and chroma span 0 to 255; else luma spans 16 to 235 and
    chroma 16 to 240, as video usually does.
    """

    matrix: str = "bt601"
    full: bool = False

    def __post_init__(self) -> None:
        if self.matrix not in MATRICES:
            raise InputError(f"colour matrix {self.matrix!r}", expected=f"one of {', '.join(MATRICES)}")

    @property
    def luma(self) -> tuple[float, float]:
        """Offset and span of luma, in steps of 8 bits."""
        return (0.0, 255.0) if self.full else (16.0, 219.0)

    @property
    def chroma_span(self) -> float:
        """Span of chroma around 128, in steps of 8 bits."""
        return 255.0 if self.full else 224.0


@dataclass(frozen=True, eq=False)
class Frame:
    """planes: luma [H, W] and two of chroma, uint8; chroma [H, W] ("444") or [ceil(H/2), ceil(W/2)] ("420").
    time: seconds since the first frame, exact.

    >>> grey = Frame.from_rgb(torch.full((3, 5, 3), 128, dtype=torch.uint8), Colour(full=True), "420")
    >>> grey.size, grey.chroma, [tuple(plane.shape) for plane in grey.planes], int(grey.planes[0][0, 0])
    ((3, 5), '420', [(3, 5), (2, 3), (2, 3)], 128)
    """

    planes: tuple[Tensor, Tensor, Tensor]
    colour: Colour = Colour()
    time: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        shapes = [tuple(plane.shape) for plane in self.planes]
        dtypes = {plane.dtype for plane in self.planes}
        if len(shapes) != 3 or len(shapes[0]) != 2 or min(shapes[0]) < 1 or dtypes != {torch.uint8}:
            raise InputError(f"planes {shapes} of {dtypes}", expected="three [H, W] planes of uint8")
        if any(shape not in (shapes[0], halved(shapes[0])) or shape != shapes[1] for shape in shapes[1:]):
            raise InputError(f"chroma planes {shapes[1:]}", expected=f"{shapes[0]} or {halved(shapes[0])}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.planes[0].shape
        return int(height), int(width)

    @property
    def chroma(self) -> Chroma:
        """A frame of one pixel has both forms; it counts as "444"."""
        return "444" if self.planes[1].shape == self.planes[0].shape else "420"

    def rgb(self) -> Tensor:
        """[H, W, 3] uint8. Chroma of "420" is interpolated; its samples lie amid four pixels."""
        return to_bytes(self.rgb_unit().permute(1, 2, 0) * 255)

    def rgb_unit(self) -> Tensor:
        """[3, H, W] float32, not clamped: 0 is black, 1 is white."""
        offset, span = self.colour.luma
        luma = (self.planes[0].float() - offset) / span
        blue, red = ((_full_size(p, self.size) - 128) / self.colour.chroma_span for p in self.planes[1:])
        of_red, of_blue = MATRICES[self.colour.matrix]
        r = luma + 2 * (1 - of_red) * red
        b = luma + 2 * (1 - of_blue) * blue
        return torch.stack([r, (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue), b])

    def with_chroma(self, chroma: Chroma) -> Frame:
        """The frame with chroma of another layout; itself where it is that already."""
        if chroma == self.chroma:
            return self
        change = _half_size if chroma == "420" else (lambda plane: _full_size(plane, self.size))
        blue, red = (to_bytes(change(plane)) for plane in self.planes[1:])
        return replace(self, planes=(self.planes[0], blue, red))

    @classmethod
    def from_rgb(
        cls, rgb: Tensor, colour: Colour, chroma: Chroma = "420", time: Fraction = Fraction(0)
    ) -> Frame:
        """A frame from pixels [H, W, 3] uint8. Chroma of "420" is the mean of its four pixels."""
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != torch.uint8:
            raise InputError(f"pixels {tuple(rgb.shape)} of {rgb.dtype}", expected="[H, W, 3] uint8")
        r, g, b = rgb.permute(2, 0, 1).float() / 255
        of_red, of_blue = MATRICES[colour.matrix]
        luma = of_red * r + (1 - of_red - of_blue) * g + of_blue * b
        offset, span = colour.luma
        chromas = ((b - luma) / (2 * (1 - of_blue)), (r - luma) / (2 * (1 - of_red)))
        blue, red = (plane * colour.chroma_span + 128 for plane in chromas)
        if chroma == "420":
            blue, red = _half_size(blue), _half_size(red)
        return cls((to_bytes(luma * span + offset), to_bytes(blue), to_bytes(red)), colour, time)


def halved(size: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of a chroma plane of "420": halves, rounded up."""
    return tuple((side + 1) // 2 for side in size)


def to_bytes(values: Tensor) -> Tensor:
    """The nearest whole numbers from 0 to 255, as uint8."""
    return values.round().clamp(0, 255).to(torch.uint8)


def _half_size(plane: Tensor) -> Tensor:
    """Means over 2 x 2 pixels; at an odd border over those that exist."""
    pooled = F.avg_pool2d(plane.float()[None, None], 2, ceil_mode=True, count_include_pad=False)
    return pooled[0, 0]


def _full_size(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """A chroma plane at every pixel: bilinear, samples amid their four pixels."""
    plane = plane.float()
    if tuple(plane.shape) == size:
        return plane
    doubled = F.interpolate(plane[None, None], scale_factor=2, mode="bilinear", align_corners=False)
    return doubled[0, 0, : size[0], : size[1]]
