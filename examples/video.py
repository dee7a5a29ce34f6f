"""A clip as a key network and small weight steps, and as motion and latents: python examples/video.py"""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import torch
import torch.nn.functional as F

from plisse.codec import presets
from plisse.codec.rate import Rate
from plisse.codec.stream import ClipReader
from plisse.codec.video import Settings, decode, encode
from plisse.data.frames import Colour, Frame, to_bytes
from plisse.data.quality import luma_psnr

SIZE = (48, 64)
N_FRAMES = 5


def clip() -> list[Frame]:
    """A soft texture that moves by (1, 2) pixels a frame."""
    draw = torch.Generator().manual_seed(0)
    grid = torch.randn(1, 1, 9, 11, generator=draw)
    texture = F.interpolate(grid, (SIZE[0] + 20, SIZE[1] + 20), mode="bicubic")[0, 0]
    frames = []
    for t in range(N_FRAMES):
        luma = to_bytes(120 + 40 * texture[t : t + SIZE[0], 2 * t : 2 * t + SIZE[1]])
        grey = torch.full((SIZE[0] // 2, SIZE[1] // 2), 128, dtype=torch.uint8)
        frames.append(Frame((luma, grey, grey), Colour(), Fraction(t, 25)))
    return frames


def told(name: str, data: bytes, frames: list[Frame]) -> None:
    """Bytes of the key frame and of the steps, and the quality of what is decoded from them."""
    sizes = [chunk.length for chunk in ClipReader(io.BytesIO(data))]
    quality = [luma_psnr(a, b) for a, b in zip(decode(data), frames, strict=True)]
    bpp = 8 * len(data) / (len(frames) * SIZE[0] * SIZE[1])
    mean = sum(quality) / len(quality)
    print(f"{name:6} {len(data):6,} bytes ({bpp:.2f} bits per pixel), luma {mean:.1f} dB,")
    print(f"       key frame {sizes[0]:,} bytes, steps {', '.join(map(str, sizes[1:]))}")


def main() -> None:
    torch.set_num_threads(1)
    # The presets are for larger pictures; a few training steps are enough here.
    presets.COARSE = {
        "conv": {"fast": presets.Preset(6, 3, 150, 30)},
        "siren": {"fast": presets.Preset(16, 2, 150, 30)},
    }
    frames, settings = clip(), Settings(preset="fast", rate=Rate(crf=30))
    for scheme in ("conv", "siren", "warp"):
        told(scheme, encode(frames, Fraction(25), replace(settings, scheme=scheme)), frames)

    data = encode(frames, Fraction(25), replace(settings, scheme="siren"))
    large = next(iter(decode(data, size=(2 * SIZE[0], 2 * SIZE[1]))))
    print(f"the siren clip at twice its size: {large.size[1]} x {large.size[0]} pixels")


if __name__ == "__main__":
    main()
