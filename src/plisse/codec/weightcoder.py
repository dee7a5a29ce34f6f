"""Symbols of networks and of their steps as bytes: arrays of integers for a key network, adaptive contexts
for a step, which know what the step before did at the same weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from plisse.bitstream.bytesreader import BytesReader, signed_varint, sized
from plisse.bitstream.symbols import decode_symbols, encode_symbols
from plisse.codec.adaptive import Model, Tape, code_number
from plisse.codec.fit import Fitted, groups_of, qstep_of
from plisse.errors import FormatError

MAX_EXPONENT = 160
LARGEST_SYMBOL = 1 << 20


def flat_symbols(network: nn.Module, symbols: dict[str, Tensor]) -> np.ndarray:
    """Symbols of all parameters, in the order of the groups, int64 [n]."""
    names = [name for names in groups_of(network).values() for name in names]
    return torch.cat([symbols[name].reshape(-1) for name in names]).to(torch.int64).numpy()


def _lengths(network: nn.Module) -> list[int]:
    """Numbers of weights of each group."""
    parameters = dict(network.named_parameters())
    return [sum(parameters[name].numel() for name in names) for names in groups_of(network).values()]


def step_weights(
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
    if reader.left:
        raise FormatError(f"{reader.left} bytes too many", offset=offset + reader.offset, expected="the end")
    check_exponents(tuple(exponents), offset)
    return np.concatenate(parts), tuple(exponents)


def check_exponents(exponents: tuple[int, ...], offset: int) -> None:
    if not within_range(exponents):
        raise FormatError(f"exponents {exponents}", offset=offset, expected=f"within {MAX_EXPONENT}")


def within_range(exponents: tuple[int, ...]) -> bool:
    return all(abs(exponent) <= MAX_EXPONENT for exponent in exponents)


def n_contexts(network: nn.Module) -> int:
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
        model = Model.fresh(n_contexts(network))
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
        a, b = shared + 12, shared + 13
        off = exponents[group] - old[group]
        move = code_number(off, a, a, b, state, data, chances, counts, weights)
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
