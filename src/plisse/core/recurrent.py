"""Recurrent layers whose states are rounded after every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core.fakequant import on_grid
from plisse.errors import InputError

Rounding = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
"""Hidden state [N, H], and the cell [N, H] of an LSTM."""


def as_it_is(value: Tensor) -> Tensor:
    return value


def unrolled(
    layer: nn.LSTM | nn.GRU,
    x: Tensor,
    start: Any = None,
    hidden: Rounding = as_it_is,
    cell: Rounding = as_it_is,
) -> tuple[Tensor, Any]:
    """What `layer` computes, step by step, with `hidden` and `cell` applied to every new state.

    x: [T, N, F], or [N, T, F] with batch_first, or [T, F]. start: as the layer takes it. Returns output and
    final states as the layer does. Dropout between layers as in training there.
    Raises InputError for packed sequences and for layers with projections.
    """
    if not isinstance(x, Tensor) or layer.proj_size:
        kind = type(x).__name__ if not isinstance(x, Tensor) else f"proj_size={layer.proj_size}"
        raise InputError(kind, expected="a padded tensor, and a layer without projection", hint="pad_packed")
    single = x.dim() == 2
    sequence = x.unsqueeze(1) if single else x.transpose(0, 1) if layer.batch_first else x
    given = _states(layer, sequence, start, single)
    lasts: list[State] = []
    directions = 2 if layer.bidirectional else 1
    for depth in range(layer.num_layers):
        outs = []
        for direction in range(directions):
            names = f"l{depth}{'_reverse' if direction else ''}"
            order = sequence.flip(0) if direction else sequence
            out, last = _run(layer, names, order, given[len(lasts)], hidden, cell)
            outs.append(out.flip(0) if direction else out)
            lasts.append(last)
        sequence = torch.cat(outs, -1)
        if layer.dropout and layer.training and depth + 1 < layer.num_layers:
            sequence = F.dropout(sequence, layer.dropout)
    final = tuple(torch.stack(part) for part in zip(*lasts, strict=True))
    if single:
        sequence, final = sequence.squeeze(1), tuple(part.squeeze(1) for part in final)
    elif layer.batch_first:
        sequence = sequence.transpose(0, 1)
    return sequence, final if isinstance(layer, nn.LSTM) else final[0]


def _states(layer: Any, sequence: Tensor, start: Any, single: bool) -> list[State]:
    """One state per layer and direction."""
    kinds = 2 if isinstance(layer, nn.LSTM) else 1
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    if start is None:
        zeros = sequence.new_zeros(sequence.shape[1], layer.hidden_size)
        return [(zeros,) * kinds] * count
    parts = start if kinds == 2 else (start,)
    return [tuple(part.unsqueeze(1)[i] if single else part[i] for part in parts) for i in range(count)]


def _run(
    layer: Any, names: str, sequence: Tensor, state: State, hidden: Rounding, cell: Rounding
) -> tuple[Tensor, State]:
    """One direction of one layer over [T, N, F]."""
    biases = [getattr(layer, f"bias_{kind}_{names}") if layer.bias else None for kind in ("ih", "hh")]
    entering = F.linear(sequence, getattr(layer, f"weight_ih_{names}"), biases[0])
    weight = getattr(layer, f"weight_hh_{names}")
    outs = []
    for gates in entering:
        kept = F.linear(state[0], weight, biases[1])
        step = _lstm if isinstance(layer, nn.LSTM) else _gru
        state = step(gates, kept, state, hidden, cell)
        outs.append(state[0])
    return torch.stack(outs), state


def _lstm(gates: Tensor, kept: Tensor, state: State, hidden: Rounding, cell: Rounding) -> State:
    enter, forget, new, leave = (gates + kept).chunk(4, -1)
    held = cell(torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new))
    return hidden(torch.sigmoid(leave) * torch.tanh(held)), held


def _gru(gates: Tensor, kept: Tensor, state: State, hidden: Rounding, cell: Rounding) -> State:
    parts = zip(gates.chunk(3, -1), kept.chunk(3, -1), strict=True)
    reset, update, new = parts
    keep = torch.sigmoid(update[0] + update[1])
    fresh = torch.tanh(new[0] + torch.sigmoid(reset[0] + reset[1]) * new[1])
    return (hidden((1 - keep) * fresh + keep * state[0]),)


class RoundedLSTM(nn.LSTM):
    """An LSTM with hidden states on a grid of `bits` bits over [-1, 1], where they lie, and cells on one of
    `cell_bits` bits over [-largest_cell, largest_cell] (a buffer). Zero is exact, cells are clipped, the
    gradient passes straight through within the range (Ott et al. 2016; He et al. 2016, "Effective
    Quantization Methods for Recurrent Neural Networks", section 3).

    Takes the arguments and the state of `nn.LSTM`; runs step by step. bits, cell_bits: 2 to 16.

    >>> layer = RoundedLSTM(3, 4, bits=2)
    >>> set(layer(torch.ones(5, 1, 3))[0].flatten().tolist()) <= {-1.0, 0.0, 1.0}
    True
    """

    largest_cell: Tensor

    def __init__(self, *sizes: int, bits: int = 8, cell_bits: int = 8, **others: Any) -> None:
        super().__init__(*sizes, **others)
        self.bits, self.cell_bits = _checked(bits), _checked(cell_bits)
        self.register_buffer("largest_cell", torch.ones(()))

    def forward(self, x: Tensor, start: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
        cell = _grid(self.largest_cell, self.cell_bits)
        return unrolled(self, x, start, _grid(torch.ones_like(self.largest_cell), self.bits), cell)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments; the range of cells travels as a tensor."""
        return {**_shape(self), "bits": self.bits, "cell_bits": self.cell_bits}


class RoundedGRU(nn.GRU):
    """A GRU with hidden states on a grid of `bits` bits, 2 to 16; as `RoundedLSTM`. It has no cell."""

    def __init__(self, *sizes: int, bits: int = 8, **others: Any) -> None:
        super().__init__(*sizes, **others)
        self.bits = _checked(bits)

    def forward(self, x: Tensor, start: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
        return unrolled(self, x, start, _grid(torch.ones((), device=x.device), self.bits))

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**_shape(self), "bits": self.bits}


def _shape(layer: nn.RNNBase) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    return {name: getattr(layer, name) for name in names}


def _checked(bits: int) -> int:
    if not 2 <= bits <= 16:
        raise ValueError(f"{bits} bits where states take 2 to 16")
    return bits


def _grid(largest: Tensor, bits: int) -> Rounding:
    """Rounding to 2^bits - 1 values within [-largest, largest], zero in the middle."""
    top = 2 ** (bits - 1) - 1
    scale, zero = largest.clamp_min(1e-8) / top, torch.full_like(largest, top)
    return lambda value: on_grid(value, scale, zero, float(2 * top))
