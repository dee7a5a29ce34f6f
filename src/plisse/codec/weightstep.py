"""Frames as networks, each one a small step of the weights away from the network before (Czerkawski et al.
2021, "Neural weight step video compression").

theta_0 = q_0 D, written by the coder of model files. theta_t = theta_{t-1} + q_t D: theta_{t-1} is what the
decoder has, so that errors do not pile up. With motion a step adds to the frame before, moved by blocks:

    frame_t = round(moved(frame_{t-1}; v_t) + f(theta_t) - f(theta_{t-1}))

so that weights have to tell only what motion cannot, and what was drawn finely once stays so; without,
frame_t = round(f(theta_t)). Either way a step is fitted to what the decoder will add it to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream.bytesreader import BytesReader
from plisse.codec.adaptive import Model, Tape
from plisse.codec.fit import default_qsteps, fit_change, groups_of, qstep_of
from plisse.codec.moving import Motion, moved_planes
from plisse.codec.pictures import (
    Arch,
    Planes,
    as_bytes,
    as_units,
    build,
    difference,
    rendered,
    scaled,
    total,
)
from plisse.codec.residual import Residual
from plisse.codec.scheme import State, check_crf, qstep_at, weight_at
from plisse.codec.weightcoder import (
    Memory,
    check_exponents,
    code_step,
    flat_symbols,
    key_bytes,
    n_contexts,
    read_key,
    step_weights,
)
from plisse.data.frames import to_bytes
from plisse.errors import InputError

LEARNING_RATES = {"siren": 4e-3, "fourier": 4e-3, "conv": 8e-3}
STEP_LR = 0.15
"""Learning rate of steps, relative to that of key networks."""
FINER_KEYS = 4.0
"""Quality numbers by which key frames are finer where following frames copy from them."""


@dataclass(frozen=True, eq=False)
class NetworkState:
    """weights: as decoded. memory: what the coding of the next step knows. drawn: what the weights stand for,
    float64 from 0 to 1. motion: None where steps do not move the frame before. residual: latents that
    were added (plisse.codec.latentstep)."""

    planes: Planes
    weights: dict[str, Tensor]
    memory: Memory
    drawn: Planes
    motion: Motion | None = None
    residual: Residual | None = None


@dataclass(frozen=True)
class WeightSteps:
    """A scheme. key_steps, step_steps: of training, for a key network and for a step. motion: steps add to
    the frame before, moved. reach: pixels of motion that are searched each way."""

    arch: Arch
    size: tuple[int, int]
    key_steps: int = 1000
    step_steps: int = 150
    motion: bool = False
    reach: int = 12

    @property
    def key_offset(self) -> float:
        return FINER_KEYS if self.motion else 0.0

    def network(self, seed: int = 0) -> nn.Module:
        return build(self.arch, self.size, seed)

    def encode(
        self, planes: Planes, before: State | None, crf: float, seed: int
    ) -> tuple[bytes, NetworkState]:
        check_crf(crf)
        if before is None:
            payload = self.key_payload(planes, crf, seed)
        else:
            assert isinstance(before, NetworkState)
            payload = self._step_bytes(planes, before, crf, seed)
        return payload, self.decode(payload, before, 0)

    def key_payload(self, planes: Planes, crf: float, seed: int) -> bytes:
        """A network that draws `planes`, as bytes."""
        network = self.network(seed)
        start = {name: p.detach().clone() for name, p in network.named_parameters()}
        zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        fitted = fit_change(
            network, [((), as_units(planes))], zeros, start, default_qsteps(network),
            weight=weight_at(crf), steps=self.key_steps, lr=LEARNING_RATES[self.arch.kind], seed=seed,
            ramp=self.arch.kind == "conv",
        )  # fmt: skip
        return key_bytes(network, fitted)

    def _step_bytes(self, planes: Planes, before: NetworkState, crf: float, seed: int) -> bytes:
        """Motion, then what the weights have to add to it."""
        memory, motion, target = before.memory, before.motion, as_units(planes)
        tape = _tape(memory, motion)
        if motion is not None:
            motion = motion.searched(planes[0], before.planes[0], self.reach, qstep_at(crf))
            motion.code(tape)
            target = left_over(target, before, motion)
        flat, exponents = self.fitted_step(target, before, crf, seed)
        code_step(self.network(), memory, memory.model.copy(), flat, exponents, tape)
        return tape.finished()

    def fitted_step(
        self, target: Planes, before: NetworkState, crf: float, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Symbols of a step to a network that draws `target`, and exponents."""
        network = self.network(seed)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in before.weights.items()}
        told = zip(groups_of(network), before.memory.exponents, strict=True)
        qsteps = {group: qstep_of(exponent) for group, exponent in told}
        lr = STEP_LR * LEARNING_RATES[self.arch.kind]
        fitted = fit_change(
            network, [((), target)], before.weights, zeros, qsteps,
            weight=weight_at(crf), steps=self.step_steps, lr=lr, seed=seed,
        )  # fmt: skip
        exponents = np.array([fitted.exponents[group] for group in groups_of(network)], np.int64)
        return flat_symbols(network, fitted.symbols), exponents

    def decode(self, payload: bytes, before: State | None, offset: int, crf: float = 0.0) -> NetworkState:
        if before is not None:
            assert isinstance(before, NetworkState)
            return self._decoded_step(payload, before, offset)
        weights, memory = self.read_key(BytesReader(payload), offset)
        drawn = rendered(self.network(), weights, self.size)
        motion = Motion.still(self.size) if self.motion else None
        return NetworkState(as_bytes(drawn), weights, memory, drawn, motion)

    def read_key(self, reader: BytesReader, offset: int) -> tuple[dict[str, Tensor], Memory]:
        """Weights of a key network, and what the coding of the next step knows."""
        network = self.network()
        symbols, exponents = read_key(network, reader, offset)
        base = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        weights = step_weights(network, base, symbols, exponents)
        return weights, Memory(exponents, np.zeros_like(symbols), Model.fresh(n_contexts(network)))

    def _decoded_step(self, payload: bytes, before: NetworkState, offset: int) -> NetworkState:
        tape, memory, motion = Tape.to_read(payload), before.memory, before.motion
        if motion is not None:
            motion = motion.blank()
            motion.code(tape)
        nothing = np.zeros(memory.sizes.size, np.int64), np.zeros(len(memory.exponents), np.int64)
        weights, memory = self.stepped(before, *nothing, tape, offset)
        tape.check_end(payload, offset)
        drawn = rendered(self.network(), weights, self.size)
        made = as_bytes(drawn) if motion is None else _made(before, motion, drawn)
        return NetworkState(made, weights, memory, drawn, motion)

    def stepped(
        self, before: NetworkState, flat: np.ndarray, exponents: np.ndarray, tape: Tape, offset: int = 0
    ) -> tuple[dict[str, Tensor], Memory]:
        """Weights after a step that is written, or read into `flat` and `exponents`."""
        network, model = self.network(), before.memory.model.copy()
        code_step(network, before.memory, model, flat, exponents, tape)
        told = tuple(int(exponent) for exponent in exponents)
        check_exponents(told, offset)
        return step_weights(network, before.weights, flat, told), Memory(told, np.abs(flat), model)

    def resized(self, state: State, size: tuple[int, int]) -> Planes:
        """The network's picture at another size, super-sampled or as a preview, and what else the frame has,
        enlarged. Not for "conv"."""
        if not self.arch.scalable:
            raise InputError("another size from a convolutional network", expected="siren or fourier")
        assert isinstance(state, NetworkState)
        now = rendered(self.network(), state.weights, size)
        if state.motion is None:
            return now
        return total(now, scaled(difference(as_units(state.planes), state.drawn), size))


def _tape(memory: Memory, motion: Motion | None) -> Tape:
    n_numbers = memory.sizes.size + len(memory.exponents)
    return Tape.to_write(n_numbers + (0 if motion is None else 2 * motion.vectors.size))


def left_over(target: Planes, before: NetworkState, motion: Motion) -> Planes:
    """What the picture of the new weights should be: that of the weights before, and what the frame before,
    moved, lacks of `target`; float32, 0 to 1."""
    moved = moved_planes(before.planes, motion.vectors)
    y, u, v = (
        (wanted - plane / 255 + old).float()
        for wanted, plane, old in zip(target, moved, before.drawn, strict=True)
    )
    return y, u, v


def _made(before: NetworkState, motion: Motion, drawn: Planes) -> Planes:
    """The frame before, moved, and how the picture changed, uint8. Moved samples are whole 64ths: where
    nothing changes, all machines add a zero to them, and round halves alike."""
    moved = moved_planes(before.planes, motion.vectors)
    y, u, v = (
        to_bytes(plane + 255 * (new - old))
        for plane, new, old in zip(moved, drawn, before.drawn, strict=True)
    )
    return y, u, v
