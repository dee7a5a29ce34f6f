"""Frames as the frame before, moved, plus what a latent in a cosine basis adds: motion and latent are the
step.

frame_t = round(moved(frame_{t-1}; v_t) + synthesis(q_t D)). What is carried from frame to frame are the
decoded planes, rounded to 8 bits, and the model of the coder; each frame's motion v and latents q are new.
Blocks of 8 x 8 or 16 x 16 per frame, chroma in 8 x 8. All of q is chosen while it is coded (see `latents`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from plisse.codec import latents
from plisse.codec.adaptive import Model, Tape
from plisse.codec.motion import (
    LARGE,
    SMALL,
    UNIT,
    analysed,
    diagonals,
    enlarged,
    moved_chroma,
    moved_luma,
    search,
    synthesised,
)
from plisse.codec.pictures import Planes
from plisse.codec.scheme import WEIGHT, State, check_crf, qstep_at
from plisse.errors import FormatError, InputError

REACH = {"fast": 6, "medium": 12, "slow": 20}
"""Pixels of motion that are searched each way."""
MIDDLE = 128.0


@dataclass(frozen=True, eq=False)
class Latent:
    """Of one plane: symbols [R, C, n n] and how many of each block count [R, C]."""

    q: np.ndarray
    lasts: np.ndarray

    @classmethod
    def zeros(cls, sides: tuple[int, int], n: int) -> Latent:
        rows, columns = sides[0] // n, sides[1] // n
        return cls(np.zeros((rows, columns, n * n), np.int64), np.zeros((rows, columns), np.int64))


@dataclass(frozen=True, eq=False)
class WarpState:
    planes: Planes
    model: Model
    vectors: np.ndarray
    latents: tuple[Latent, Latent, Latent]


@dataclass(frozen=True)
class Warp:
    """A scheme. size: height and width of frames. preset: how far an encoder searches; decoders do not
    mind."""

    size: tuple[int, int]
    preset: str = "medium"
    key_offset: float = 3.0

    @property
    def padded(self) -> tuple[int, int]:
        """Sides of luma in whole blocks of 16."""
        height, width = (-(-side // LARGE) * LARGE for side in self.size)
        return height, width

    def encode(self, planes: Planes, before: State | None, crf: float, seed: int) -> tuple[bytes, WarpState]:
        check_crf(crf)
        assert before is None or isinstance(before, WarpState)
        image = [_padded(plane.numpy(), self._sides(k)) for k, plane in enumerate(planes)]
        tries = []
        for n in (SMALL, LARGE) if self.preset != "fast" else (SMALL,):
            payload, state, cost = self._encoded(image, before, crf, n)
            tries.append((cost, payload, state))
        _, payload, state = min(tries, key=lambda item: item[0])
        return payload, state

    def _encoded(
        self, image: list[np.ndarray], before: WarpState | None, crf: float, n: int
    ) -> tuple[bytes, WarpState, float]:
        tape = Tape.to_write(3 * self.padded[0] * self.padded[1])
        old = self._start(before)
        work = replace(old, model=old.model.copy(), vectors=np.zeros_like(old.vectors))
        split = np.zeros((self.padded[0] // LARGE, self.padded[1] // LARGE), np.int64)
        qstep = qstep_at(crf)
        if before is not None:
            up = enlarged(_padded(before.planes[0].numpy(), self.padded))
            weight = WEIGHT * qstep**2 * UNIT**2
            wide = image[0].astype(np.int32) * UNIT
            search(wide, up, before.vectors, REACH[self.preset], weight, work.vectors, split)
        state = self._coded(work, old, before, split, n, qstep, tape, image)
        payload = bytes([n == LARGE]) + tape.finished()
        error = sum(
            float(((plane.astype(np.float64) - _padded(made.numpy(), plane.shape)) ** 2).sum())
            for plane, made in zip(image, state.planes, strict=True)
        )
        return payload, state, error + WEIGHT * qstep**2 * 8 * len(payload)

    def decode(self, payload: bytes, before: State | None, offset: int, crf: float = 0.0) -> WarpState:
        assert before is None or isinstance(before, WarpState)
        if not payload or payload[0] > 1:
            raise FormatError("a frame without a block size", offset=offset, expected="0 or 1")
        n = LARGE if payload[0] else SMALL
        data = payload[1:]
        tape = Tape.to_read(data)
        old = self._start(before)
        work = replace(old, model=old.model.copy(), vectors=np.zeros_like(old.vectors))
        split = np.zeros((self.padded[0] // LARGE, self.padded[1] // LARGE), np.int64)
        state = self._coded(work, old, before, split, n, qstep_at(crf), tape, None)
        tape.check_end(data, offset + 1)
        return state

    def _start(self, before: WarpState | None) -> WarpState:
        """What contexts look at: the state before, or nothing."""
        if before is not None:
            return before
        nothing = torch.zeros(0, 0, dtype=torch.uint8)
        vectors = np.zeros((self.padded[0] // SMALL, self.padded[1] // SMALL, 2), np.int64)
        empty = [Latent.zeros(self._sides(k), SMALL) for k in range(3)]
        return WarpState(
            (nothing, nothing, nothing),
            Model.fresh(latents.N_CONTEXTS),
            vectors,
            (empty[0], empty[1], empty[2]),
        )

    def _sides(self, plane: int) -> tuple[int, int]:
        height, width = self.padded
        return (height, width) if plane == 0 else (height // 2, width // 2)

    def _coded(
        self,
        work: WarpState,
        old: WarpState,
        before: WarpState | None,
        split: np.ndarray,
        n: int,
        qstep: float,
        tape: Tape,
        image: list[np.ndarray] | None,
    ) -> WarpState:
        """Write for `image`, or read, a frame; `work.model` and `work.vectors` are changed in place."""
        arrays = (tape.state, tape.data, work.model.chances, work.model.counts, work.model.weights)
        if before is not None:
            latents.code_vectors(work.vectors, split, old.vectors, latents.MOTION, *arrays)
        guesses = self._guesses(before, work.vectors)
        planes, found = [], []
        for k, guess in enumerate(guesses):
            side = n if k == 0 else SMALL
            latent, past = Latent.zeros(guess.shape, side), old.latents[k]
            if past.q.shape != latent.q.shape:
                past = Latent.zeros(guess.shape, side)
            real = analysed(image[k] - guess, side) / qstep if image is not None else np.zeros((1, 1, 1))
            first = latents.PER_CLASS * ((2 if k else int(n == LARGE)) + 3 * (before is not None))
            order = diagonals(side)
            place_of = np.argsort(order)
            latents.code_blocks(
                real,
                latent.q,
                latent.lasts,
                past.q,
                past.lasts,
                order,
                place_of,
                before is None,
                first,
                WEIGHT,
                *arrays,
            )
            made = guess + synthesised(latent.q * qstep, side)
            planes.append(self._cut(made, k))
            found.append(latent)
        return WarpState(
            (planes[0], planes[1], planes[2]), work.model, work.vectors, (found[0], found[1], found[2])
        )

    def _guesses(self, before: WarpState | None, vectors: np.ndarray) -> list[np.ndarray]:
        """What latents are added to: mid-grey, or the moved frame before."""
        if before is None:
            return [np.full(self._sides(k), MIDDLE) for k in range(3)]
        guesses = []
        for k, plane in enumerate(before.planes):
            up = enlarged(_padded(plane.numpy(), self._sides(k)))
            out = np.zeros(self._sides(k), np.int32)
            (moved_chroma if k else moved_luma)(up, vectors, out)
            guesses.append(out / UNIT)
        return guesses

    def _cut(self, made: np.ndarray, plane: int) -> torch.Tensor:
        height, width = self.size if plane == 0 else ((self.size[0] + 1) // 2, (self.size[1] + 1) // 2)
        whole = np.clip(np.floor(made[:height, :width] + 0.5), 0, 255)
        return torch.from_numpy(whole.astype(np.uint8))

    def resized(self, state: State, size: tuple[int, int]) -> Planes:
        raise InputError("another size from latents", expected="a clip of siren or fourier")


def _padded(plane: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Borders repeated to the right and below."""
    return np.pad(plane, [(0, sides[0] - plane.shape[0]), (0, sides[1] - plane.shape[1])], mode="edge")
