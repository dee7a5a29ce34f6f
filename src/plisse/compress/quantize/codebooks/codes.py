"""Multi-bit binary codes: a weight is a sum of a few magnitudes, each with a sign of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from plisse.compress.quantize.codebooks.onlevels import finite_values
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import bfloat16_through
from plisse.core.reparam import Reparam
from plisse.core.stored import Codes, Stored
from plisse.errors import InputError

Method = Literal["greedy", "refined", "alternating"]
METHODS = ("greedy", "refined", "alternating")
ROUNDS = 12
BLOCK = 1 << 20


class OnCodes(Reparam):
    """x^ = sum over i of alpha_i b_i, b_i being 1 or -1: the nearest of the 2^B sums of each channel.

    The gradient by x is 1 inside the range of the sums and 0 beyond; by alpha_i it is b_i, times 1 / sqrt(n)
    for n values per channel. alphas: [C, B] for one set per channel, or [1, B]; magnitudes, rounded to
    bfloat16 before they are used.
    """

    signs: Tensor

    def __init__(self, source: Reparam, alphas: Tensor) -> None:
        super().__init__()
        self.source = source
        self.alphas = nn.Parameter(alphas.detach().clone())
        self.alpha_gradient = (len(alphas) / max(source().numel(), 1)) ** 0.5
        bits = torch.arange(alphas.shape[-1], device=alphas.device)
        codes = torch.arange(2 ** len(bits), device=alphas.device)[:, None]
        self.register_buffer("signs", (codes >> bits & 1).float() * 2 - 1)  # [2^B, B]

    def forward(self) -> Tensor:
        values, table, symbols = self._parts()
        rows = values.reshape(len(table), -1)
        reach = table.detach().amax(1, keepdim=True)
        inside = torch.maximum(torch.minimum(rows, reach), -reach)
        return (table.gather(1, symbols) + (inside - inside.detach())).reshape(values.shape)

    def stored(self) -> Stored:
        with torch.no_grad():
            values, _, symbols = self._parts()
            alphas = bfloat16_through(self.alphas).cpu().numpy()
        whole = symbols.to(torch.int32).reshape(values.shape).cpu().numpy()
        return Stored(whole, tuple(values.shape), Codes(alphas))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values, the sums of each unit [U, 2^B] in the order of their codes, and the codes [U, n]."""
        values = self.source().float()
        alphas = bfloat16_through(ScaleGradient.apply(self.alphas, self.alpha_gradient))
        table = sums(alphas, self.signs)
        return values, table, nearest_codes(values.detach().reshape(len(table), -1), table.detach())


@dataclass(frozen=True)
class BinaryCodes:
    """`bits` binary codes with a magnitude each, per channel: x ~ alpha_1 b_1 + ... + alpha_B b_B.

    method, how magnitudes are found: "greedy": b_i = sign of what is left, alpha_i its mean magnitude;
    "refined": all magnitudes so far by least squares after each new code; "alternating": then codes and
    magnitudes in turn, codes by search. Codes are the nearest ones for the final magnitudes in any case.
    exact_zero: no. Quantizing the result anew may choose other magnitudes.

    bits: 1 to 8.
    Sources: Rastegari et al. 2016 (greedy), Guo et al. 2017, Network sketching (refined), Xu et al. 2018,
    Alternating multi-bit quantization; magnitudes that are learned: Zhang et al. 2018, LQ-Nets, Lin et al.
    2017, ABC-Net.

    >>> from plisse.core.reparam import Plain
    >>> BinaryCodes(2).quantized(Plain(torch.tensor([[3.0, 1.0, -1.0, -3.0]])))().detach()
    tensor([[ 3.,  1., -1., -3.]])
    """

    bits: int = 3
    method: Method = "alternating"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise InputError(f"{self.bits} bits", expected="1 to 8 bits per value", hint="BinaryCodes(3)")
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r}", expected=f"one of {', '.join(METHODS)}")

    def quantized(self, source: Reparam) -> Reparam:
        values = finite_values(source)
        rows = values.flatten(1) if values.dim() > 1 else values.reshape(1, -1)
        blocks = rows.split(max(1, BLOCK // rows.shape[1]))
        alphas = torch.cat([fitted_alphas(block.double(), self.bits, self.method) for block in blocks])
        return OnCodes(source, alphas.abs().sort(1).values.float())


def fitted_alphas(rows: Tensor, bits: int, method: Method) -> Tensor:
    """Magnitudes [U, B] of rows [U, n], float64."""
    left, codes = rows, []
    alphas = rows.new_zeros(len(rows), 0)
    for _ in range(bits):
        codes.append(torch.where(left >= 0, 1.0, -1.0).to(rows))
        stack = torch.stack(codes, 2)  # [U, n, i]
        alphas = torch.cat([alphas, left.abs().mean(1, keepdim=True)], 1)
        if method != "greedy":
            alphas = least_squares(rows, stack)
        left = rows - (stack @ alphas[:, :, None])[:, :, 0]
    return _alternated(rows, alphas) if method == "alternating" else alphas


def least_squares(rows: Tensor, codes: Tensor) -> Tensor:
    """The magnitudes [U, B] that fit rows [U, n] best, given codes [U, n, B]."""
    gram = codes.transpose(1, 2) @ codes
    return (torch.linalg.pinv(gram) @ (codes.transpose(1, 2) @ rows[:, :, None]))[:, :, 0]


def sums(alphas: Tensor, signs: Tensor) -> Tensor:
    """All sums of alphas [U, B] with signs [2^B, B], added in order: [U, 2^B]."""
    total = alphas[:, :1] * signs[:, 0]
    for i in range(1, signs.shape[1]):
        total = total + alphas[:, i : i + 1] * signs[:, i]
    return total


def nearest_codes(rows: Tensor, table: Tensor) -> Tensor:
    """The index of the nearest sum in table [U, K] for rows [U, n]: int64 [U, n]."""
    levels, order = table.sort(1)
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    return order.gather(1, torch.searchsorted(middles, rows.contiguous()))


def _alternated(rows: Tensor, alphas: Tensor) -> Tensor:
    bits = torch.arange(alphas.shape[1], device=rows.device)
    signs = (torch.arange(2 ** len(bits), device=rows.device)[:, None] >> bits & 1).to(rows) * 2 - 1
    for _ in range(ROUNDS):
        codes = signs[nearest_codes(rows, sums(alphas, signs))]
        alphas = least_squares(rows, codes)
    return alphas
