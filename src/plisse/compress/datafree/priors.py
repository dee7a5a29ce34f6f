"""What is known of images without seeing any: the range and grid of pixels, smoothness, and that a shifted,
mirrored or partly covered image is one of the same kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from plisse.data.images import IMAGENET, UNIT, Normalization
from plisse.errors import InputError


@dataclass(frozen=True)
class Domain:
    """Where images live: values 0, 1, ..., white, divided by white, then normalized.

    normalization: mean and deviation per channel that the network's inputs are normalized with, for pixels
    from 0 to 1; one channel stands for all. white: the largest pixel value, 255 for 8 bits.
    """

    normalization: Normalization = IMAGENET
    white: int = 255

    def __post_init__(self) -> None:
        if self.white < 1 or not all(std > 0 for std in self.normalization.std):
            raise InputError(f"domain {self}", expected="white of at least 1, deviations above 0")

    @property
    def centred(self) -> bool:
        """Whether inputs are normalized to mean 0 and deviation 1, so far as the data set's own are."""
        return self.normalization != UNIT

    def pixels(self, inputs: Tensor) -> Tensor:
        """Inputs [N, C, H, W] as pixels from 0 to 1, not clamped."""
        mean, std = self._planes(inputs)
        return inputs * std + mean

    def inputs(self, pixels: Tensor) -> Tensor:
        """The inverse of `pixels`."""
        mean, std = self._planes(pixels)
        return (pixels - mean) / std

    def on_grid(self, inputs: Tensor) -> Tensor:
        """Inputs moved to the nearest pixel value; moving twice changes nothing.

        >>> Domain(UNIT, white=4).on_grid(torch.tensor([[[[-1.0, 0.3, 0.9]]]]))
        tensor([[[[0.0000, 0.2500, 1.0000]]]])
        """
        return self.inputs(self.symbols(inputs) / self.white)

    def symbols(self, inputs: Tensor) -> Tensor:
        """The nearest pixel values 0, 1, ..., white, as floats."""
        return (self.pixels(inputs) * self.white).round().clamp(0, self.white)

    def clamped(self, inputs: Tensor) -> Tensor:
        """Inputs brought into the range of pixels."""
        return self.inputs(self.pixels(inputs).clamp(0, 1))

    def _planes(self, like: Tensor) -> tuple[Tensor, Tensor]:
        values = (self.normalization.mean, self.normalization.std)
        if any(len(value) not in (1, like.shape[1]) for value in values):
            raise InputError(
                f"images of {like.shape[1]} channels in a domain of {len(values[0])}",
                expected="mean and deviation for every channel",
                hint="Domain(Normalization(mean, std))",
            )
        mean, std = (like.new_tensor(value).view(1, -1, 1, 1) for value in values)
        return mean, std


def default_domain(shape: tuple[int, ...]) -> Domain | None:
    """For inputs [C, H, W]: ImageNet's mean and deviation with three channels, pixels as they are with one;
    None for anything else, which has no range."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    return Domain() if shape[0] == 3 else Domain(UNIT)


@dataclass(frozen=True)
class Smooth:
    """weight * mean of (x - G x)^2, with a Gaussian blur G of `size` x `size` pixels and deviation `sigma`.

    Borders are continued by their own pixels, so that constant images cost nothing.
    Source: Haroush et al. 2020, the smoothness prior (5 pixels, sigma 1; their weight of 1 is for
    pixels from 0 to 1, about 0.05 here).
    """

    weight: float = 0.2
    size: int = 5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0 or self.size < 1 or self.size % 2 == 0 or not self.sigma > 0:
            raise InputError(f"{self}", expected="weight from 0, an odd size, sigma above 0")

    def __call__(self, images: Tensor) -> Tensor:
        return self.weight * (images - self.blurred(images)).square().mean()

    def blurred(self, images: Tensor) -> Tensor:
        """G x, [N, C, H, W], one axis after the other."""
        reach = self.size // 2
        taps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        taps = torch.softmax(-taps.square() / (2 * self.sigma**2), 0)
        for axis in (2, 3):
            pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
            padded = F.pad(images, pad, mode="replicate")
            pieces = [padded.narrow(axis, i, images.shape[axis]) for i in range(self.size)]
            images = torch.stack([tap * piece for tap, piece in zip(taps, pieces, strict=True)]).sum(0)
        return images


@dataclass(frozen=True)
class Views:
    """What the network sees of a batch in one iteration: `copies` changed copies of it, drawn anew.

    Each copy goes through a random choice of these, in random order: a mirror image along either axis, each
    with probability `flip`; a crop of at least `crop` of each side, scaled up again; up to `holes` squares of
    at most `hole` of a side set to the mean; a shift by up to `shift` pixels, borders continued. The paper's
    are Views(); Views(1, crop=1.0, holes=0) makes an iteration cost no more than one without.
    Source: Haroush et al. 2020, augmentation duplication.
    """

    copies: int = 4
    flip: float = 0.2
    crop: float = 1 / 3
    holes: int = 5
    hole: float = 1 / 3
    shift: int = 0

    def __post_init__(self) -> None:
        shares = (self.flip, self.crop, self.hole)
        if self.copies < 1 or min(self.holes, self.shift) < 0 or not all(0 <= each <= 1 for each in shares):
            raise InputError(f"{self}", expected="copies from 1, counts from 0, shares from 0 to 1")

    def __call__(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to [copies N, C, H, W]; random numbers are torch's."""
        return torch.cat([self._view(images) for _ in range(self.copies)])

    def _view(self, images: Tensor) -> Tensor:
        changes = [self._flipped, self._cropped, self._covered, self._shifted]
        for position in torch.randperm(len(changes)).tolist():
            images = changes[position](images)
        return images

    def _flipped(self, images: Tensor) -> Tensor:
        axes = [axis for axis in (2, 3) if float(torch.rand(())) < self.flip]
        return images.flip(axes) if axes else images

    def _cropped(self, images: Tensor) -> Tensor:
        if self.crop >= 1 or _coin():
            return images
        height, width = images.shape[2:]
        sides = [max(1, int(side * (self.crop + (1 - self.crop) * _draw()))) for side in (height, width)]
        top, left = (
            int(_draw() * (whole - side + 1)) for whole, side in zip((height, width), sides, strict=True)
        )
        part = images[:, :, top : top + sides[0], left : left + sides[1]]
        return F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)

    def _covered(self, images: Tensor) -> Tensor:
        if self.holes == 0 or _coin():
            return images
        height, width = images.shape[2:]
        seen = images.new_ones(1, 1, height, width)
        for _ in range(int(_draw() * self.holes)):
            rows, columns = (max(1, int(side * self.hole * _draw())) for side in (height, width))
            top, left = int(_draw() * (height - rows + 1)), int(_draw() * (width - columns + 1))
            seen[:, :, top : top + rows, left : left + columns] = 0
        return images * seen

    def _shifted(self, images: Tensor) -> Tensor:
        if self.shift == 0:
            return images
        down, right = (int(torch.randint(2 * self.shift + 1, ())) for _ in range(2))
        padded = F.pad(images, (self.shift,) * 4, mode="replicate")
        return padded[:, :, down : down + images.shape[2], right : right + images.shape[3]]


@dataclass(frozen=True)
class White:
    """Start from independent N(0, 1) values."""

    def __call__(self, size: int, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
        return torch.randn(size, *shape, generator=draw)


@dataclass(frozen=True)
class Pink:
    """Start images from noise whose amplitude falls with frequency as 1 / f^slope, of mean 0 and deviation 1.

    Natural images have slope 1 (Field 1987), and channels that vary together: `shared` is their correlation,
    0 to 1. From here a ResNet-20 needs a third of the iterations that it needs from white noise. Inputs that
    are no images [C, H, W] start from white noise.

    >>> Pink()(4, (3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 8, 8])
    """

    slope: float = 1.0
    shared: float = 0.8

    def __post_init__(self) -> None:
        if self.slope < 0 or not 0 <= self.shared <= 1:
            raise InputError(f"{self}", expected="a slope from 0, a correlation from 0 to 1")

    def __call__(self, size: int, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
        if len(shape) != 3:
            return White()(size, shape, draw)
        height, width = shape[1:]
        own, common = (torch.randn(size, c, height, width, generator=draw) for c in (shape[0], 1))
        white = self.shared**0.5 * common + (1 - self.shared) ** 0.5 * own
        rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
        frequency = (rows.square() + columns.square()).sqrt().clamp_min(1 / max(height, width))
        pink = torch.fft.irfft2(torch.fft.rfft2(white) * frequency**-self.slope, s=(height, width))
        return pink / pink.square().mean().sqrt()


@dataclass(frozen=True)
class Priors:
    """start: images before the first iteration. smooth, views: None leaves them out. grid: the network always
    sees pixels on their grid."""

    start: White | Pink = field(default_factory=Pink)
    smooth: Smooth | None = field(default_factory=Smooth)
    views: Views | None = None
    grid: bool = True


def _draw() -> float:
    return float(torch.rand(()))


def _coin() -> bool:
    return _draw() < 0.5
