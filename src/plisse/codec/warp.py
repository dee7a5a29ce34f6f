"""Frames as the frame before, moved, plus what a latent in a cosine basis adds: motion and latent are the
step.

frame_t = round(refined(moved(frame_{t-1}; v_t) + synthesis(q_t D); theta_t)). What is carried from frame to
frame are the decoded planes, rounded to 8 bits, and the model of the coder; each frame's motion v and
latents q are new. Blocks of 8 x 8 or 16 x 16 per frame, chroma in 8 x 8. All of q is chosen while it is
coded (see `latents`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from plisse.codec import latents
from plisse.codec.adaptive import Model, Tape
from plisse.codec.fit import fit_change, groups_of, qstep_of
from plisse.codec.motion import LARGE, SMALL
from plisse.codec.moving import (
    REACH,
    find_motion,
    moved_blocks,
    no_splits,
    no_vectors,
    padded,
    sides_of,
)
from plisse.codec.pictures import Planes
from plisse.codec.refine import Refined, Refiner, added, start
from plisse.codec.residual import SIZES, Latent, code_planes, cut_planes, no_latents, qstep_in, rounded
from plisse.codec.scheme import WEIGHT, State, check_crf, qstep_at
from plisse.codec.weightcoder import Memory, code_step, flat_symbols, step_weights, within_range
from plisse.errors import FormatError, InputError

MIDDLE = 128.0
NOWHERE, ALL, CODED = range(3)
"""Where planes are refined."""
REFINER_STEPS, REFINER_LR, REFINER_EXPONENT = 25, 2e-3, -48
"""Training steps of a weight step, and the exponent that its D begins with (2^-6)."""


@dataclass(frozen=True, eq=False)
class WarpState:
    """weights, memory: of the refiner, and of the coding of its steps."""

    planes: Planes
    model: Model
    vectors: np.ndarray
    latents: tuple[Latent, ...]
    weights: dict[str, torch.Tensor]
    memory: Memory


@dataclass(eq=False)
class _Frame:
    """A frame while it is written (image: padded planes) or read (None). old: what contexts look at."""

    old: WarpState
    key: bool
    n: int
    qstep: float
    tape: Tape
    image: list[np.ndarray] | None
    model: Model
    vectors: np.ndarray
    split: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.tape.state, self.tape.data, self.model.chances, self.model.counts, self.model.weights


@dataclass(frozen=True)
class Warp:
    """A scheme. size: height and width of frames. preset: how far an encoder searches; decoders do not
    mind."""

    size: tuple[int, int]
    preset: str = "medium"
    key_offset: float = 3.0

    def encode(self, planes: Planes, before: State | None, crf: float, seed: int) -> tuple[bytes, WarpState]:
        check_crf(crf)
        assert before is None or isinstance(before, WarpState)
        image = [padded(plane.numpy(), sides_of(k, self.size)) for k, plane in enumerate(planes)]
        sizes = SIZES[self.preset]
        tries = [self._encoded(image, before, qstep_at(crf), n) for n in sizes]
        if self.preset == "slow" and before is None:
            best = min(range(len(sizes)), key=lambda index: tries[index][2])
            tries.append(self._encoded(image, before, qstep_at(crf), sizes[best], seed))
        payload, state, _ = min(tries, key=lambda item: item[2])
        return payload, state

    def _encoded(
        self, image: list[np.ndarray], before: WarpState | None, qstep: float, n: int, seed: int | None = None
    ) -> tuple[bytes, WarpState, float]:
        """Bytes, state and J with luma blocks of n x n; with a seed, the refiner may take a step."""
        frame = self._begun(before, n, qstep, Tape.to_write(3 * image[0].size), image)
        if before is not None:
            luma = padded(before.planes[0].numpy(), image[0].shape)
            frame.vectors, frame.split = find_motion(
                image[0], luma, before.vectors, REACH[self.preset], qstep
            )
        made, found = self._coded(frame, before)
        tries = [
            self._refined(made, found, frame, where, frame.old.weights) for where in (NOWHERE, ALL, CODED)
        ]
        errors = [_error(image, planes) for planes in tries]
        where, weights, memory = int(np.argmin(errors)), frame.old.weights, frame.old.memory
        stepped = None
        if seed is not None and where != NOWHERE:
            stepped = self._stepped(made, found, frame, where, seed, errors[where])
        if stepped is not None:
            weights, memory = stepped
        planes = self._refined(made, found, frame, where, weights)
        payload = bytes([(n == LARGE) | where << 1 | (stepped is not None) << 3]) + frame.tape.finished()
        state = WarpState(cut_planes(planes, self.size), frame.model, frame.vectors, found, weights, memory)
        return payload, state, _error(image, planes) + WEIGHT * qstep**2 * 8 * len(payload)

    def _stepped(
        self,
        made: list[np.ndarray],
        found: tuple[Latent, ...],
        frame: _Frame,
        where: int,
        seed: int,
        error: float,
    ) -> tuple[dict[str, torch.Tensor], Memory] | None:
        """A weight step of the refiner, written; None where it does not pay."""
        assert frame.image is not None
        y, u, v = (torch.from_numpy(plane).float() for plane in made)
        network = Refined((y, u, v), frame.qstep, torch.from_numpy(_mask(found[0], frame.n, where)).float())
        a, b, c = (torch.from_numpy(plane).float() / 255 for plane in frame.image)
        old = {f"refiner.{name}": tensor for name, tensor in frame.old.weights.items()}
        zeros = {name: torch.zeros_like(tensor) for name, tensor in old.items()}
        memory = frame.old.memory
        qsteps = {g: qstep_of(e) for g, e in zip(groups_of(network), memory.exponents, strict=True)}
        fitted = fit_change(
            network, [((), (a, b, c))], old, zeros, qsteps,
            weight=WEIGHT * frame.qstep**2, steps=REFINER_STEPS, lr=REFINER_LR, seed=seed,
        )  # fmt: skip
        symbols = {name.removeprefix("refiner."): q for name, q in fitted.symbols.items()}
        exponents = np.array([fitted.exponents[group] for group in groups_of(network)], np.int64)
        flat = flat_symbols(network.refiner, symbols)
        trial = Tape.to_write(flat.size + exponents.size)
        code_step(network.refiner, memory, memory.model.copy(), flat.copy(), exponents.copy(), trial)
        weights = step_weights(network.refiner, frame.old.weights, flat, tuple(exponents.tolist()))
        planes = self._refined(made, found, frame, where, weights)
        cost = WEIGHT * frame.qstep**2 * 8 * len(trial.finished())
        if _error(frame.image, planes) + cost >= error or not within_range(tuple(exponents.tolist())):
            return None
        return self._read_step(frame, flat, exponents)

    def _read_step(
        self, frame: _Frame, flat: np.ndarray, exponents: np.ndarray
    ) -> tuple[dict[str, torch.Tensor], Memory]:
        """Write, or read into, a step of the refiner; its new weights."""
        network, old = Refiner(), frame.old.memory
        model = old.model.copy()
        code_step(network, old, model, flat, exponents, frame.tape)
        told = tuple(int(exponent) for exponent in exponents)
        if not within_range(told):
            raise FormatError(f"exponents {told}", offset=0, expected="smaller ones")
        return step_weights(network, frame.old.weights, flat, told), Memory(told, np.abs(flat), model)

    def decode(self, payload: bytes, before: State | None, offset: int, crf: float = 0.0) -> WarpState:
        assert before is None or isinstance(before, WarpState)
        if not payload or payload[0] >> 1 & 3 > CODED or payload[0] > 15:
            raise FormatError("a frame of unknown form", offset=offset, expected="a form from 0 to 13")
        where, stepped, data = payload[0] >> 1 & 3, payload[0] >> 3, payload[1:]
        tape = Tape.to_read(data)
        frame = self._begun(before, LARGE if payload[0] & 1 else SMALL, qstep_at(crf), tape, None)
        made, found = self._coded(frame, before)
        weights, memory = frame.old.weights, frame.old.memory
        if stepped:
            zeros = np.zeros_like(memory.sizes), np.zeros(len(memory.exponents), np.int64)
            weights, memory = self._read_step(frame, *zeros)
        tape.check_end(data, offset + 1)
        planes = self._refined(made, found, frame, where, weights)
        return WarpState(cut_planes(planes, self.size), frame.model, frame.vectors, found, weights, memory)

    def _begun(
        self, before: WarpState | None, n: int, qstep: float, tape: Tape, image: list[np.ndarray] | None
    ) -> _Frame:
        old = before or self._nothing()
        model, vectors, split = old.model.copy(), np.zeros_like(old.vectors), no_splits(self.size)
        return _Frame(old, before is None, n, qstep, tape, image, model, vectors, split)

    def _nothing(self) -> WarpState:
        """What a key frame begins from."""
        nothing = torch.zeros(0, 0, dtype=torch.uint8)
        vectors = no_vectors(self.size)
        model, memory = Model.fresh(latents.N_CONTEXTS), Memory.fresh(Refiner(), REFINER_EXPONENT)
        return WarpState((nothing, nothing, nothing), model, vectors, no_latents(self.size), start(), memory)

    def _coded(self, frame: _Frame, before: WarpState | None) -> tuple[list[np.ndarray], tuple[Latent, ...]]:
        """Write or read motion and latents; planes before they are refined, float64."""
        if before is not None:
            latents.code_vectors(frame.vectors, frame.split, before.vectors, latents.MOTION, *frame.arrays)
        guesses = self._guesses(before, frame.vectors)
        drawn, found = code_planes(
            guesses, frame.image, frame.old.latents, frame.n, frame.qstep, frame.key, frame.tape, frame.model
        )
        return [guess + plane for guess, plane in zip(guesses, drawn, strict=True)], found

    def _guesses(self, before: WarpState | None, vectors: np.ndarray) -> list[np.ndarray]:
        """What latents are added to: mid-grey, or the moved frame before."""
        if before is None:
            return [np.full(sides_of(k, self.size), MIDDLE) for k in range(3)]
        return moved_blocks(before.planes, vectors)

    def _refined(
        self,
        made: list[np.ndarray],
        found: tuple[Latent, ...],
        frame: _Frame,
        where: int,
        weights: dict[str, torch.Tensor],
    ) -> list[np.ndarray]:
        """Whole numbers from 0 to 255 [H, W], padded: refined in all blocks, in coded ones, or nowhere."""
        planes = made
        if where != NOWHERE:
            planes = [
                plane
                + _mask(latent, SMALL if k else frame.n, where)
                * added(plane, qstep_in(k, frame.qstep), weights)
                for k, (plane, latent) in enumerate(zip(made, found, strict=True))
            ]
        return [rounded(plane) for plane in planes]

    def resized(self, state: State, size: tuple[int, int]) -> Planes:
        raise InputError("another size from latents", expected="a clip of siren or fourier")


def _mask(latent: Latent, n: int, where: int) -> np.ndarray:
    """1 at pixels that are refined [H, W]."""
    chosen = np.ones_like(latent.lasts) if where == ALL else latent.lasts > 0
    return np.asarray(np.kron(chosen, np.ones((n, n))))


def _error(image: list[np.ndarray], planes: list[np.ndarray]) -> float:
    return sum(float(np.square(a - b).sum()) for a, b in zip(image, planes, strict=True))
