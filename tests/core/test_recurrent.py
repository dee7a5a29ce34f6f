"""Layers step by step equal torch's, and rounded states lie on their grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plisse.core.recurrent import RoundedGRU, RoundedLSTM, unrolled
from plisse.errors import InputError

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}
ROUNDED = {"lstm": RoundedLSTM, "gru": RoundedGRU}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_layers": 3},
    "both ways": {"bidirectional": True, "num_layers": 2},
    "batch first": {"batch_first": True, "bidirectional": True},
    "no bias": {"bias": False},
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(kind: str, rounded: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    return (ROUNDED if rounded else KINDS)[kind](5, 6, **options)


def starts(kind: str, net: Any, batch: int | None) -> Any:
    count = net.num_layers * (2 if net.bidirectional else 1)
    shape = (count, 6) if batch is None else (count, batch, 6)
    parts = tuple(drawn(*shape, seed=i).tanh() for i in range(2 if kind == "lstm" else 1))
    return parts if kind == "lstm" else parts[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("given", [True, False], ids=["given states", "zero states"])
def test_unrolled_is_the_layer(kind: str, option: str, given: bool) -> None:
    net = layer(kind, **OPTIONS[option])
    x = drawn(7, 3, 5)
    batch = 7 if net.batch_first else 3
    start = starts(kind, net, batch) if given else None
    torch.testing.assert_close(unrolled(net, x, start), net(x, start))


@pytest.mark.parametrize("kind", KINDS)
def test_single_sequences_and_gradients(kind: str) -> None:
    net, x = layer(kind), drawn(7, 5)
    torch.testing.assert_close(unrolled(net, x, starts(kind, net, None)), net(x, starts(kind, net, None)))
    gradients = []
    for run in (lambda: net(x)[0], lambda: unrolled(net, x)[0]):
        net.zero_grad()
        run().square().sum().backward()
        gradients.append(net.weight_hh_l0.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_states_lie_on_their_grids(kind: str, bits: int) -> None:
    net = layer(
        kind, rounded=True, bits=bits, num_layers=2, **({"cell_bits": bits} if kind == "lstm" else {})
    )
    if kind == "lstm":
        net.largest_cell.fill_(0.5)
    with torch.no_grad():
        out, last = net(drawn(9, 4, 5) * 3)
    top = 2 ** (bits - 1) - 1
    torch.testing.assert_close((out * top).round(), out * top, rtol=0, atol=1e-4)
    assert len(out.unique()) <= 2 * top + 1
    if kind == "lstm":
        cells = last[1] * top / 0.5
        torch.testing.assert_close(cells.round(), cells, rtol=0, atol=1e-4)
        assert float(last[1].abs().max()) <= 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_more_bits_are_nearer_and_gradients_pass(kind: str) -> None:
    plain, x, lost = layer(kind), drawn(12, 4, 5), []
    for bits in (2, 4, 8, 16):
        net = layer(kind, rounded=True, bits=bits, **({"cell_bits": bits} if kind == "lstm" else {}))
        if kind == "lstm":
            net.largest_cell.fill_(2.0)
        out = net(x)[0]
        lost.append(float((out - plain(x)[0]).detach().square().mean()))
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 1e-6
    out.sum().backward()
    assert bool((net.weight_hh_l0.grad != 0).any())


def test_what_cannot_be_unrolled_is_named() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(drawn(4, 2, 5), torch.tensor([4, 2]))
    with pytest.raises(InputError, match="PackedSequence"):
        unrolled(layer("lstm"), packed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 to 16"):
        RoundedLSTM(3, 4, bits=1)
    with pytest.raises(InputError, match="proj_size"):
        unrolled(nn.LSTM(5, 6, proj_size=2), drawn(4, 2, 5))
