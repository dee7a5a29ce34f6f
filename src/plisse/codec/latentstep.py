"""Networks with latents beside their weights: both are what is stepped.

A key frame is the coarse picture of a network with latents in a cosine basis over it; a following frame is
the frame before, moved, with what its own latents add and, where that pays, a step of the weights:

    frame_0 = round(f(theta_0) + s_0)
    frame_t = round(moved(frame_{t-1}; v_t) + f(theta_t) - f(theta_{t-1}) + s_t),   s = synthesis(q D)

A network tells smooth areas and long edges in few bytes, latents tell what is left: together they take fewer
bytes than either (in the manner of Cool-chic, Ladune et al. 2023, where latents are learned with a network).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from plisse.bitstream.bytesreader import BytesReader, sized
from plisse.codec.adaptive import Tape
from plisse.codec.motion import LARGE, SMALL
from plisse.codec.moving import REACH, Motion, moved_blocks, padded, sides_of
from plisse.codec.pictures import Planes, as_units, difference, rendered
from plisse.codec.residual import SIZES, Residual, cut_planes
from plisse.codec.scheme import COARSEST, State, check_crf, qstep_at, weight_at
from plisse.codec.weightstep import FINER_KEYS, NetworkState, WeightSteps, left_over
from plisse.errors import FormatError

NETWORK_CRF = 43.0
"""Quality number that key networks are fitted for, unless frames are coarser yet. For frames from 19 to 39,
43 and 47 cost least, within 1 % of each other; 39 cost 7 to 20 % more, 35 6 to 37 % (bytes and error
together; a sine network of 40 x 4 on the first frame of carphone)."""
STEP_COARSER = 12.0
"""Quality numbers by which weight steps are coarser than frames: in 2 of 32 frames they paid, by 1.2 %."""
LARGE_BLOCKS, STEPPED = 1, 2
"""Bits of a frame's first byte."""
Symbols = tuple[np.ndarray, np.ndarray]
"""Of a step of the weights, and exponents."""


@dataclass(frozen=True, eq=False)
class _Coding:
    """How a frame is coded. image: padded planes, None while reading. n: side of luma blocks. motion: None
    in key frames. step: of the weights."""

    tape: Tape
    image: list[np.ndarray] | None
    n: int
    qstep: float
    motion: Motion | None = None
    step: Symbols | None = None


@dataclass(eq=False)
class _Fitted:
    """The last key network: trials of other quality numbers for the same frame need none of their own."""

    planes: Planes | None = None
    at: tuple[float, int] = (0.0, 0)
    told: bytes = b""


@dataclass(frozen=True)
class LatentSteps:
    """A scheme. coarse: fits and codes key networks and weight steps. preset: how far an encoder searches;
    slow tries to step the weights, too. Decoders do not mind."""

    coarse: WeightSteps
    preset: str = "medium"
    key_offset: float = FINER_KEYS
    fitted: _Fitted = field(default_factory=_Fitted, repr=False, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        return self.coarse.size

    def network(self, seed: int = 0) -> nn.Module:
        return self.coarse.network(seed)

    def encode(
        self, planes: Planes, before: State | None, crf: float, seed: int
    ) -> tuple[bytes, NetworkState]:
        check_crf(crf)
        sides = SIZES[self.preset]
        if before is None:
            told = self._key_network(planes, max(crf, NETWORK_CRF), seed)
            first = self._first(BytesReader(told), 0)
            tries = [self._tried(planes, first, crf, n, told=told) for n in sides]
            return min(tries, key=lambda each: each[2])[:2]
        assert isinstance(before, NetworkState)
        assert before.motion is not None
        motion = before.motion.searched(planes[0], before.planes[0], REACH[self.preset], qstep_at(crf))
        tries = [self._tried(planes, before, crf, n, motion) for n in sides]
        if self.preset == "slow":
            best = sides[min(range(len(sides)), key=lambda index: tries[index][2])]
            target, coarse = left_over(as_units(planes), before, motion), min(crf + STEP_COARSER, COARSEST)
            step = self.coarse.fitted_step(target, before, coarse, seed)
            tries.append(self._tried(planes, before, crf, best, motion, step))
        return min(tries, key=lambda each: each[2])[:2]

    def _key_network(self, planes: Planes, crf: float, seed: int) -> bytes:
        fitted = self.fitted
        if fitted.planes is not planes or fitted.at != (crf, seed):
            fitted.told = self.coarse.key_payload(planes, crf, seed)
            fitted.planes, fitted.at = planes, (crf, seed)
        return fitted.told

    def _tried(
        self,
        planes: Planes,
        before: NetworkState,
        crf: float,
        n: int,
        motion: Motion | None = None,
        step: Symbols | None = None,
        told: bytes = b"",
    ) -> tuple[bytes, NetworkState, float]:
        """Payload, state, and J. told: the network of a key frame, whose `before` it draws."""
        image = [padded(plane.numpy(), sides_of(k, self.size)) for k, plane in enumerate(planes)]
        tape = Tape.to_write(3 * image[0].size + before.memory.sizes.size)
        if motion is not None:
            motion = replace(motion, model=motion.model.copy())
        state = self._next(before, _Coding(tape, image, n, qstep_at(crf), motion, step), 0)
        form = bytes([LARGE_BLOCKS * (n == LARGE) | STEPPED * (step is not None)])
        payload = form + (sized(told) if told else b"") + tape.finished()
        error = sum(
            float((a.double() - b.double()).square().sum()) for a, b in zip(state.planes, planes, strict=True)
        )
        return payload, state, error + weight_at(crf) * 8 * len(payload)

    def _first(self, reader: BytesReader, offset: int) -> NetworkState:
        """What a network draws, before latents."""
        weights, memory = self.coarse.read_key(reader, offset)
        drawn = rendered(self.network(), weights, self.size)
        return NetworkState(
            drawn, weights, memory, drawn, Motion.still(self.size), Residual.nothing(self.size)
        )

    def _next(self, before: NetworkState, coding: _Coding, offset: int) -> NetworkState:
        """The state after a frame, written or read: motion, weights, latents."""
        weights, memory, drawn, motion = before.weights, before.memory, before.drawn, before.motion
        if coding.motion is None:
            guesses = self._padded(drawn)
        else:
            motion = coding.motion
            motion.code(coding.tape)
            guesses = moved_blocks(before.planes, motion.vectors)
        if coding.step is not None:
            weights, memory = self.coarse.stepped(before, *coding.step, coding.tape, offset)
            drawn = rendered(self.network(), weights, self.size)
            change = self._padded(difference(drawn, before.drawn))
            guesses = [guess + plane for guess, plane in zip(guesses, change, strict=True)]
        assert before.residual is not None
        residual = before.residual.coded(guesses, coding.image, coding.n, coding.qstep, coding.tape)
        whole = [guess + plane for guess, plane in zip(guesses, residual.added, strict=True)]
        return NetworkState(cut_planes(whole, self.size), weights, memory, drawn, motion, residual)

    def _padded(self, planes: Planes) -> list[np.ndarray]:
        """Planes from 0 to 1 as whole blocks, in steps of 8 bits."""
        return [padded(255 * plane.numpy(), sides_of(k, self.size)) for k, plane in enumerate(planes)]

    def decode(self, payload: bytes, before: State | None, offset: int, crf: float = 0.0) -> NetworkState:
        reader = BytesReader(payload)
        form = reader.byte() if payload else STEPPED
        if form > (LARGE_BLOCKS if before is None else LARGE_BLOCKS | STEPPED):
            raise FormatError("a frame of unknown form", offset=offset, expected="a form from 0 to 3")
        motion, step = None, None
        if before is None:
            before = self._first(reader.part(), offset)
        else:
            assert isinstance(before, NetworkState)
            assert before.motion is not None
            motion = before.motion.blank()
            memory = before.memory
            if form & STEPPED:
                step = np.zeros(memory.sizes.size, np.int64), np.zeros(len(memory.exponents), np.int64)
        at, data = reader.offset, reader.rest()
        tape = Tape.to_read(data)
        n = LARGE if form & LARGE_BLOCKS else SMALL
        state = self._next(before, _Coding(tape, None, n, qstep_at(crf), motion, step), offset + at)
        tape.check_end(data, offset + at)
        return state

    def resized(self, state: State, size: tuple[int, int]) -> Planes:
        return self.coarse.resized(state, size)
