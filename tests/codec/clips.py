"""Procedural clips of a few small frames, and small networks for them."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from plisse.codec import presets
from plisse.data.frames import Colour, Frame, to_bytes


def moving(n_frames: int = 4, height: int = 32, width: int = 48, seed: int = 0) -> list[Frame]:
    """A smooth texture that moves by (1, 2) pixels a frame, under a bright square that stays."""
    draw = torch.Generator().manual_seed(seed)
    wide = torch.randn(1, 1, 12, 16, generator=draw)
    texture = torch.nn.functional.interpolate(wide, (height + 40, width + 40), mode="bicubic")[0, 0]
    frames = []
    for t in range(n_frames):
        luma = 110 + 40 * texture[t : t + height, 2 * t : 2 * t + width].clone()
        luma[4:12, 4:12] = 200
        chroma = torch.full(((height + 1) // 2, (width + 1) // 2), 120.0)
        planes = (to_bytes(luma), to_bytes(chroma), to_bytes(chroma + 20))
        frames.append(Frame(planes, Colour(), Fraction(t, 25)))
    return frames


def small_networks(monkeypatch: pytest.MonkeyPatch, **fields: int) -> None:
    """Change all presets of networks, so that these are coded in a moment, if not well."""
    for table in ("NETWORKS", "COARSE"):
        few = {
            kind: {name: replace(each, **fields) for name, each in networks.items()}
            for kind, networks in getattr(presets, table).items()
        }
        monkeypatch.setattr(presets, table, few)
