"""Frames as networks, each one a small step of the weights away from the network before (Czerkawski et al.
2021, "Neural weight step video compression").

theta_0 = q_0 D, written by the coder of model files. theta_t = theta_{t-1} + q_t D: theta_{t-1} is what the
decoder has, so that errors do not pile up. Symbols of a step are coded in contexts that know what the step
before did at the same weight (see `adaptive`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from plisse.bitstream.bytesreader import BytesReader, signed_varint, sized
from plisse.bitstream.symbols import decode_symbols, encode_symbols
from plisse.codec.adaptive import Model, Tape, code_number
from plisse.codec.fit import Fitted, default_qsteps, fit_change, groups_of, qstep_of
from plisse.codec.pictures import Arch, Planes, as_units, build, drawn
from plisse.codec.scheme import State, check_crf, weight_at
from plisse.data.frames import to_bytes
from plisse.errors import FormatError, InputError

LEARNING_RATES = {"siren": 2e-3, "fourier": 4e-3, "conv": 8e-3}
STEP_LR = 0.3
"""Learning rate of steps, relative to that of key networks."""
MAX_EXPONENT = 160
LARGEST_SYMBOL = 1 << 20


@dataclass(frozen=True, eq=False)
class NetworkState:
    """weights: as decoded. memory: what the coding of the next step knows."""

    planes: Planes
    weights: dict[str, Tensor]
    memory: Memory


@dataclass(frozen=True)
class WeightSteps:
    """A scheme. key_steps, step_steps: of training, for a key network and for a step. stepping: false codes
    every frame as a network of its own, as COIN does (for comparison)."""

    arch: Arch
    size: tuple[int, int]
    key_steps: int = 1000
    step_steps: int = 150

    def network(self, seed: int = 0) -> nn.Module:
        return build(self.arch, self.size, seed)

    def encode(self, planes: Planes, before: State | None, crf: float, seed: int) -> tuple[bytes, State]:
        check_crf(crf)
        network = self.network(seed)
        if before is None:
            payload = key_bytes(network, self._fitted_key(network, planes, crf, seed))
        else:
            assert isinstance(before, NetworkState)
            payload = _step_bytes(network, before, self._fitted_step(network, planes, before, crf, seed))
        return payload, self.decode(payload, before, 0)

    def _fitted_key(self, network: nn.Module, planes: Planes, crf: float, seed: int) -> Fitted:
        start = {name: p.detach().clone() for name, p in network.named_parameters()}
        zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        return fit_change(
            network, [((), as_units(planes))], zeros, start, default_qsteps(network),
            weight=weight_at(crf), steps=self.key_steps, lr=LEARNING_RATES[self.arch.kind], seed=seed,
            ramp=self.arch.kind == "conv",
        )  # fmt: skip

    def _fitted_step(
        self, network: nn.Module, planes: Planes, before: NetworkState, crf: float, seed: int
    ) -> Fitted:
        zeros = {name: torch.zeros_like(tensor) for name, tensor in before.weights.items()}
        exponents = zip(groups_of(network), before.memory.exponents, strict=True)
        qsteps = {group: qstep_of(exponent) for group, exponent in exponents}
        lr = STEP_LR * LEARNING_RATES[self.arch.kind]
        return fit_change(
            network, [((), as_units(planes))], before.weights, zeros, qsteps,
            weight=weight_at(crf), steps=self.step_steps, lr=lr, seed=seed,
        )  # fmt: skip

    def decode(self, payload: bytes, before: State | None, offset: int, crf: float = 0.0) -> NetworkState:
        network = self.network()
        reader = BytesReader(payload)
        if before is None:
            symbols, exponents = read_key(network, reader, offset)
            base = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
            model = Model.fresh(_n_contexts(network))
        else:
            assert isinstance(before, NetworkState)
            base, model = before.weights, before.memory.model.copy()
            symbols, exponents = _read_step(network, reader, before, model, offset)
        weights = moved(network, base, symbols, exponents)
        planes = drawn(network, weights, self.size)
        stepped = np.zeros_like(symbols) if before is None else np.abs(symbols)
        return NetworkState(planes, weights, Memory(exponents, stepped, model))

    def resized(self, state: State, size: tuple[int, int]) -> Planes:
        """The same weights at another size: super-sampling, or a preview. Not for "conv"."""
        if not self.arch.scalable:
            raise InputError("another size from a convolutional network", expected="siren or fourier")
        assert isinstance(state, NetworkState)
        y, u, v = drawn(self.network(), state.weights, size)
        return to_bytes(y), to_bytes(u), to_bytes(v)


def flat_symbols(network: nn.Module, symbols: dict[str, Tensor]) -> np.ndarray:
    """Symbols of all parameters, in the order of the groups, int64 [n]."""
    names = [name for names in groups_of(network).values() for name in names]
    return torch.cat([symbols[name].reshape(-1) for name in names]).to(torch.int64).numpy()


def _lengths(network: nn.Module) -> list[int]:
    """Numbers of weights of each group."""
    parameters = dict(network.named_parameters())
    return [sum(parameters[name].numel() for name in names) for names in groups_of(network).values()]


def moved(
    network: nn.Module, base: dict[str, Tensor], symbols: np.ndarray, exponents: tuple[int, ...]
) -> dict[str, Tensor]:
    """base + q D, one rounding each in float32."""
    made, at = {}, 0
    for names, exponent in zip(groups_of(network).values(), exponents, strict=True):
        qstep = torch.tensor(qstep_of(exponent), dtype=torch.float32)
        for name in names:
            q = torch.from_numpy(symbols[at : at + base[name].numel()].astype(np.float32))
            made[name] = base[name] + q.view(base[name].shape) * qstep
            at += base[name].numel()
    return {name: made[name] for name in base}


def _shapes(network: nn.Module) -> list[tuple[int, ...] | None]:
    parameters = dict(network.named_parameters())
    return [
        tuple(parameters[names[0]].shape) if group != "vectors" else None
        for group, names in groups_of(network).items()
    ]


def key_bytes(network: nn.Module, fitted: Fitted) -> bytes:
    """For each group the exponent of its step and its symbols, as arrays of integers of format-tensors.md."""
    flat, at, parts = flat_symbols(network, fitted.symbols), 0, []
    for group, length, shape in zip(groups_of(network), _lengths(network), _shapes(network), strict=True):
        parts.append(signed_varint(fitted.exponents[group]))
        parts.append(sized(encode_symbols(flat[at : at + length].astype(np.int32), shape)))
        at += length
    return b"".join(parts)


def read_key(network: nn.Module, reader: BytesReader, offset: int) -> tuple[np.ndarray, tuple[int, ...]]:
    exponents, parts = [], []
    for length, shape in zip(_lengths(network), _shapes(network), strict=True):
        exponents.append(reader.signed(16))
        values = decode_symbols(reader.part(), length, shape)
        if int(np.abs(values).max()) > LARGEST_SYMBOL:
            raise FormatError("a symbol beyond 2^20", offset=offset + reader.offset, expected="less")
        parts.append(np.asarray(values, np.int64))
    _check_rest(reader, tuple(exponents), offset)
    return np.concatenate(parts), tuple(exponents)


def _check_rest(reader: BytesReader, exponents: tuple[int, ...], offset: int) -> None:
    if reader.left:
        raise FormatError(f"{reader.left} bytes too many", offset=offset + reader.offset, expected="the end")
    if not within_range(exponents):
        raise FormatError(f"exponents {exponents}", offset=offset, expected=f"within {MAX_EXPONENT}")


def within_range(exponents: tuple[int, ...]) -> bool:
    return all(abs(exponent) <= MAX_EXPONENT for exponent in exponents)


def _step_bytes(network: nn.Module, before: NetworkState, fitted: Fitted) -> bytes:
    exponents = np.array([fitted.exponents[group] for group in groups_of(network)], np.int64)
    tape = Tape.to_write(before.memory.sizes.size + exponents.size)
    model = before.memory.model.copy()
    code_step(network, before.memory, model, flat_symbols(network, fitted.symbols), exponents, tape)
    return tape.finished()


def _read_step(
    network: nn.Module, reader: BytesReader, before: NetworkState, model: Model, offset: int
) -> tuple[np.ndarray, tuple[int, ...]]:
    data = reader.rest()
    tape = Tape.to_read(data)
    flat, exponents = (
        np.zeros(before.memory.sizes.size, np.int64),
        np.zeros(len(before.memory.exponents), np.int64),
    )
    code_step(network, before.memory, model, flat, exponents, tape)
    tape.check_end(data, offset)
    told = tuple(int(exponent) for exponent in exponents)
    _check_rest(reader, told, offset)
    return flat, told


def _n_contexts(network: nn.Module) -> int:
    return 12 * len(groups_of(network)) + 16


@dataclass(frozen=True, eq=False)
class Memory:
    """What contexts of a step know: exponents of each group's step, |q| of the last step at each weight,
    model."""

    exponents: tuple[int, ...]
    sizes: np.ndarray
    model: Model

    @classmethod
    def fresh(cls, network: nn.Module, exponent: int) -> Memory:
        """Before the first step of a network."""
        lengths = _lengths(network)
        model = Model.fresh(_n_contexts(network))
        return cls((exponent,) * len(lengths), np.zeros(sum(lengths), np.int64), model)


def code_step(
    network: nn.Module, memory: Memory, model: Model, flat: np.ndarray, exponents: np.ndarray, tape: Tape
) -> None:
    """Write, or read into, `flat` and `exponents`; `model` learns from them."""
    old = np.array(memory.exponents, np.int64)
    lengths = np.array(_lengths(network), np.int64)
    arrays = (tape.state, tape.data, model.chances, model.counts, model.weights)
    _code_step(flat, exponents, old, lengths, memory.sizes, *arrays)


@njit(cache=True, nogil=True)
def _code_step(flat, exponents, old, lengths, sizes, state, data, chances, counts, weights):  # type: ignore[no-untyped-def]
    """For each group how its exponent moved, then its symbols. Contexts: the group with |q| of the step
    before there, the group with its last two symbols, and both without the group."""
    at, n = 0, lengths.size
    shared = 12 * n
    for group in range(n):
        move = code_number(
            exponents[group] - old[group],
            shared + 12,
            shared + 12,
            shared + 13,
            state,
            data,
            chances,
            counts,
            weights,
        )
        exponents[group] = old[group] + move
        near = 0
        for i in range(at, at + lengths[group]):
            past = min(sizes[i], 3)
            around = min(near, 7)
            a, b, c = 12 * group + past, 12 * group + 4 + around, shared + 3 * past + min(near, 2)
            value = code_number(flat[i], a, b, c, state, data, chances, counts, weights)
            flat[i] = value
            near = (near >> 1) + min(abs(value), 4)
        at += lengths[group]
