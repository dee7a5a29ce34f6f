"""The frame before, moved: how the motion of blocks is searched, coded, and applied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plisse.codec.adaptive import Model, Tape
from plisse.codec.latents import MOTION, N_CONTEXTS, code_vectors
from plisse.codec.motion import LARGE, SMALL, UNIT, enlarged, moved_chroma, moved_luma, search
from plisse.codec.pictures import Planes
from plisse.codec.scheme import WEIGHT

REACH = {"fast": 6, "medium": 12, "slow": 20}
"""Pixels of motion that are searched each way, by preset. Decoders do not mind."""


def whole_blocks(size: tuple[int, int]) -> tuple[int, int]:
    """Sides of luma in whole blocks of 16.

    >>> whole_blocks((33, 48))
    (48, 48)
    """
    height, width = (-(-side // LARGE) * LARGE for side in size)
    return height, width


def sides_of(plane: int, size: tuple[int, int]) -> tuple[int, int]:
    """Sides of luma (0) or chroma (1, 2) in whole blocks."""
    height, width = whole_blocks(size)
    return (height, width) if plane == 0 else (height // 2, width // 2)


def padded(plane: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Borders repeated to the right and below."""
    return np.pad(plane, [(0, sides[0] - plane.shape[0]), (0, sides[1] - plane.shape[1])], mode="edge")


def no_vectors(size: tuple[int, int]) -> np.ndarray:
    """Motion of a frame that stays: a vector for each 8 x 8 pixels."""
    height, width = whole_blocks(size)
    return np.zeros((height // SMALL, width // SMALL, 2), np.int64)


def no_splits(size: tuple[int, int]) -> np.ndarray:
    """Blocks of 16 x 16 with a vector each."""
    height, width = whole_blocks(size)
    return np.zeros((height // LARGE, width // LARGE), np.int64)


def find_motion(
    image: np.ndarray, before: np.ndarray, past: np.ndarray, reach: int, qstep: float
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and splits that bring luma `before`, uint8 [H, W], near `image`. past: vectors of the frame
    before. qstep: what a bit is worth follows from it."""
    sides = whole_blocks((image.shape[0], image.shape[1]))
    vectors, split = no_vectors(sides), no_splits(sides)
    wide = padded(image, sides).astype(np.int32) * UNIT
    weight = WEIGHT * qstep**2 * UNIT**2
    search(wide, enlarged(padded(before, sides)), past, reach, weight, vectors, split)
    return vectors, split


def moved_blocks(planes: Planes, vectors: np.ndarray) -> list[np.ndarray]:
    """Planes moved by vectors, in whole blocks: float64 [H, W], 0 to 255 or a little beyond."""
    size, found = (planes[0].shape[0], planes[0].shape[1]), []
    for k, plane in enumerate(planes):
        sides = sides_of(k, size)
        out = np.zeros(sides, np.int32)
        (moved_chroma if k else moved_luma)(enlarged(padded(plane.numpy(), sides)), vectors, out)
        found.append(out / UNIT)
    return found


def moved_planes(planes: Planes, vectors: np.ndarray) -> list[Tensor]:
    """`moved_blocks`, cut to the planes."""
    moved = map(torch.from_numpy, moved_blocks(planes, vectors))
    return [m[: p.shape[0], : p.shape[1]] for m, p in zip(moved, planes, strict=True)]


@dataclass(frozen=True, eq=False)
class Motion:
    """Of a step, and what the coding of the next one knows. vectors [R, C, 2]: quarters of a luma pixel, down
    and right, for each 8 x 8 of them. split [R / 2, C / 2]: where four of them differ. past: vectors of the
    frame before."""

    vectors: np.ndarray
    split: np.ndarray
    past: np.ndarray
    model: Model

    @classmethod
    def still(cls, size: tuple[int, int]) -> Motion:
        """Of a key frame of `size`."""
        vectors = no_vectors(size)
        return cls(vectors, no_splits(size), vectors, Model.fresh(N_CONTEXTS - MOTION))

    def blank(self) -> Motion:
        """The next one, before it is read."""
        nothing = np.zeros_like(self.vectors), np.zeros_like(self.split)
        return Motion(*nothing, self.vectors, self.model.copy())

    def searched(self, luma: Tensor, before: Tensor, reach: int, qstep: float) -> Motion:
        """The next one: what brings the decoded luma `before` near `luma`."""
        found = find_motion(luma.numpy(), before.numpy(), self.vectors, reach, qstep)
        return Motion(*found, self.vectors, self.model.copy())

    def code(self, tape: Tape) -> None:
        """Write, or read into, vectors and splits; the model learns from them."""
        model = self.model
        arrays = (tape.state, tape.data, model.chances, model.counts, model.weights)
        code_vectors(self.vectors, self.split, self.past, 0, *arrays)
