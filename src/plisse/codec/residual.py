"""Latents of three planes in a cosine basis: what a frame has that motion or a network did not give it.

Blocks of 8 x 8 or 16 x 16 of luma, of 8 x 8 of chroma; a coarser step for luma than for chroma. Symbols are
chosen while they are coded (see `latents`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from plisse.codec import latents
from plisse.codec.adaptive import Model, Tape
from plisse.codec.motion import LARGE, SMALL, analysed, diagonals, synthesised
from plisse.codec.moving import sides_of
from plisse.codec.pictures import Planes
from plisse.codec.scheme import WEIGHT
from plisse.data.frames import halved

CHROMA_STEP = 0.75
"""The quantizer step of chroma, relative to that of luma: a sample of it colours four pixels."""
SIZES = {"fast": (SMALL,), "medium": (SMALL, LARGE), "slow": (SMALL, LARGE)}
"""Sides of luma blocks that are tried for each frame, by preset."""


@dataclass(frozen=True, eq=False)
class Latent:
    """Of one plane: symbols [R, C, n n] and how many of each block count [R, C]."""

    q: np.ndarray
    lasts: np.ndarray

    @classmethod
    def zeros(cls, sides: tuple[int, int], n: int) -> Latent:
        rows, columns = sides[0] // n, sides[1] // n
        return cls(np.zeros((rows, columns, n * n), np.int64), np.zeros((rows, columns), np.int64))


def no_latents(size: tuple[int, int]) -> tuple[Latent, ...]:
    """What contexts look at where no frame came before."""
    return tuple(Latent.zeros(sides_of(k, size), SMALL) for k in range(3))


def qstep_in(plane: int, qstep: float) -> float:
    """The quantizer step of luma (0) or chroma (1, 2)."""
    return qstep * CHROMA_STEP if plane else qstep


def code_planes(
    guesses: Sequence[np.ndarray],
    image: Sequence[np.ndarray] | None,
    past: tuple[Latent, ...],
    n: int,
    qstep: float,
    key: bool,
    tape: Tape,
    model: Model,
) -> tuple[list[np.ndarray], tuple[Latent, ...]]:
    """Write, or read, what planes of `image` are beyond `guesses`, whole blocks [H, W], 0 to 255: what is to
    be added to them, float64, and its symbols. past: those of the frame before. n: side of luma blocks. key:
    first coefficients are predicted from other blocks."""
    drawn, found = [], []
    arrays = (tape.state, tape.data, model.chances, model.counts, model.weights)
    for k, guess in enumerate(guesses):
        side, step = SMALL if k else n, qstep_in(k, qstep)
        latent, old = Latent.zeros(guess.shape, side), past[k]
        if old.q.shape != latent.q.shape:
            old = Latent.zeros(guess.shape, side)
        real = np.zeros((1, 1, 1)) if image is None else analysed(image[k] - guess, side) / step
        first = latents.PER_CLASS * ((2 if k else int(n == LARGE)) + 3 * (not key))
        order = diagonals(side)
        latents.code_blocks(
            real, latent.q, latent.lasts, old.q, old.lasts, order, np.argsort(order), key, first, WEIGHT,
            *arrays,
        )  # fmt: skip
        drawn.append(synthesised(latent.q * step, side))
        found.append(latent)
    return drawn, tuple(found)


@dataclass(frozen=True, eq=False)
class Residual:
    """Latents that are added to a network's picture, and what the coding of the next ones knows. added: what
    they stand for, in whole blocks, float64, steps of 8 bits."""

    latents: tuple[Latent, ...]
    model: Model
    added: tuple[np.ndarray, ...] = ()

    @classmethod
    def nothing(cls, size: tuple[int, int]) -> Residual:
        return cls(no_latents(size), Model.fresh(latents.MOTION))

    def coded(
        self,
        guesses: Sequence[np.ndarray],
        image: Sequence[np.ndarray] | None,
        n: int,
        qstep: float,
        tape: Tape,
    ) -> Residual:
        """The next one: written where there is an `image`, else read."""
        model = self.model.copy()
        drawn, found = code_planes(guesses, image, self.latents, n, qstep, False, tape, model)
        return Residual(found, model, tuple(drawn))


def _sizes(size: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    """Of luma and both planes of chroma."""
    return size, halved(size), halved(size)


def rounded(plane: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 255, still float64. Halves go up."""
    return np.asarray(np.clip(np.floor(plane + 0.5), 0, 255))


def cut_planes(planes: Sequence[np.ndarray], size: tuple[int, int]) -> Planes:
    """Whole blocks, rounded and cut to a frame of uint8."""
    y, u, v = (
        torch.from_numpy(np.clip(np.floor(plane + 0.5), 0, 255)[: cut[0], : cut[1]].astype(np.uint8))
        for plane, cut in zip(planes, _sizes(size), strict=True)
    )
    return y, u, v
