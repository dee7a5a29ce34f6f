"""Vector quantization: blocks of neighbouring weights as entries of codebooks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.compress.quantize.codebooks.importance import spread_importance
from plisse.compress.quantize.codebooks.lloyd import CHUNK, assign, kmeans
from plisse.compress.quantize.codebooks.onlevels import HALVES, finite_values, half_through, halves
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.rated import Memo
from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, Vectors, half_precision, n_blocks
from plisse.errors import InputError

FEWEST = 4
"""Blocks per entry of a codebook; of small tensors the codebook is made smaller (Stock et al. 2020)."""
BEAM = 8


class OnVectors(Reparam):
    """The flattened weight in blocks of d values, each the sum of one entry from each of M codebooks.

    Entries are chosen for the least error, weighted by `importance` (in the shape of the weight, or None):
    the nearest for one codebook, by a search that keeps the best 8 for several. The gradient passes unchanged
    to x; each entry gets the sum of the gradients of its blocks, times 1 / sqrt(n) for n blocks per entry on
    average. codebooks: [M, K, d], a parameter, rounded
    to 16 bits before it is used.
    """

    importance: Tensor | None

    def __init__(self, source: Reparam, codebooks: Tensor, importance: Tensor | None = None) -> None:
        super().__init__()
        self.source = source
        self.half_type = half_precision(codebooks.detach().cpu().numpy()) or ""
        if self.half_type not in HALVES:
            raise InputError("codebooks that 16 bits cannot hold", expected="float16 or bfloat16 numbers")
        self.codebooks = nn.Parameter(codebooks.detach().clone())
        n = n_blocks(tuple(source().shape), codebooks.shape[2])
        self.entry_gradient = (codebooks.shape[1] / max(n, 1)) ** 0.5
        self.register_buffer("importance", importance)
        self._memo = Memo()

    def forward(self) -> Tensor:
        values = self.source().float()
        books = half_through(ScaleGradient.apply(self.codebooks, self.entry_gradient), self.half_type)
        symbols = self._symbols(values.detach())
        total = books[0][symbols[0]]  # [blocks, d]
        for book, row in zip(books[1:], symbols[1:], strict=True):
            total = total + book[row]
        return total.reshape(-1)[: values.numel()].reshape(values.shape) + (values - values.detach())

    def stored(self) -> Stored:
        with torch.no_grad():
            values = self.source().float()
            symbols = self._symbols(values).to(torch.int32).cpu().numpy()
            books = half_through(self.codebooks, self.half_type).cpu().numpy()
        return Stored(symbols, tuple(values.shape), Vectors(books))

    def _symbols(self, values: Tensor) -> Tensor:
        books = half_through(self.codebooks.detach(), self.half_type)
        return self._memo.get(self, lambda: encoded(*blocks(values, self.importance, books.shape[2]), books))


@dataclass(frozen=True)
class ProductQuantization:
    """Each block of d weights, in the order of the flattened tensor, becomes one of 2^bits codewords, found
    by k-means: bits / d bits per weight, and 16 d 2^bits bits for the codebook.

    A tensor of n blocks has at most n / 4 codewords. exact_zero: no.

    d: weights per block, 1 to 64; 9 makes a block of each 3 x 3 kernel. bits: 1 to 12. iterations: Lloyd
    steps.
    Source: Jegou et al. 2011; Gong et al. 2014; Stock et al. 2020, And the bit goes down (codebook as a
    parameter; fit weighted by activations: `quantized(source, importance)`).

    >>> from plisse.core.reparam import Plain
    >>> pairs = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(8)
    >>> ProductQuantization(2, 2).quantized(Plain(pairs)).stored().symbols.shape
    (1, 16)
    """

    d: int = 8
    bits: int = 8
    iterations: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.d, self.bits, self.iterations)

    def quantized(self, source: Reparam, importance: Tensor | None = None) -> Reparam:
        """importance: of each value, or per input channel (`spread_importance`)."""
        return fitted_vectors(source, importance, self.d, self.bits, 1, self.iterations, self.seed)


@dataclass(frozen=True)
class ResidualQuantization:
    """Each block of d weights becomes a sum of codewords, one from each of `stages` codebooks of 2^bits: the
    first fitted to the weights, each further one to what is left; codewords are chosen together in the end.
    bits stages / d bits per weight.

    exact_zero: no. Quantizing the result anew fits other codebooks.

    d: weights per block, 1 to 64. bits: 1 to 12. stages: 1 to 8.
    Source: Juang and Gray 1982; Babenko and Lempitsky 2014 (choice by beam search).
    """

    d: int = 8
    bits: int = 8
    stages: int = 2
    iterations: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.d, self.bits, self.iterations)
        if not 1 <= self.stages <= 8:
            raise InputError(f"{self.stages} stages", expected="1 to 8", hint="stages=2")

    def quantized(self, source: Reparam, importance: Tensor | None = None) -> Reparam:
        """importance: of each value, or per input channel (`spread_importance`)."""
        return fitted_vectors(source, importance, self.d, self.bits, self.stages, self.iterations, self.seed)


def fitted_vectors(
    source: Reparam,
    importance: Tensor | None,
    d: int,
    bits: int,
    stages: int,
    iterations: int,
    seed: int,
) -> OnVectors:
    """Codebooks by k-means, each on what those before it leave."""
    values = finite_values(source)
    weights = spread_importance(importance, values)
    points, mass = blocks(values, weights, d)
    whole = max(values.numel() // d, 1)  # a block that was filled up is no example
    k = min(2**bits, max(whole // FEWEST, 1))
    books = []
    for stage in range(stages):
        book = kmeans(points[:whole], mass[:whole], k, iterations, seed + stage)
        book = halves(torch.cat([book, book[:1].expand(k - len(book), d)])).to(values.device)
        points = points - book.double()[assign(points, mass, book.double())]
        books.append(book)
    return OnVectors(source, _of_one_half(torch.stack(books)), weights)


def blocks(values: Tensor, importance: Tensor | None, d: int) -> tuple[Tensor, Tensor]:
    """Blocks [n, d] of a flattened tensor and their weights, float64; what fills up the last one weighs
    nothing."""
    room = n_blocks(tuple(values.shape), d) * d - values.numel()
    mass = torch.ones_like(values) if importance is None else importance

    def cut(numbers: Tensor) -> Tensor:
        return F.pad(numbers.reshape(-1).double(), (0, room)).reshape(-1, d)

    return cut(values), cut(mass)


def encoded(points: Tensor, weights: Tensor, codebooks: Tensor) -> Tensor:
    """For each block [n, d] the entries of the codebooks [M, K, d] whose sum is nearest: int64 [M, n]."""
    books = codebooks.double()
    if len(books) == 1:
        return assign(points, weights, books[0])[None]
    rows = max(1, CHUNK // (BEAM * books.shape[1]))
    parts = zip(points.split(rows), weights.split(rows), strict=True)
    return torch.cat([_beam(x, w, books) for x, w in parts], 1)


def _beam(points: Tensor, weights: Tensor, books: Tensor) -> Tensor:
    """Stage by stage, keeping the best BEAM choices so far of each block."""
    left = points[:, None]  # [n, beam, d]
    chosen = points.new_zeros(len(books), len(points), 1, dtype=torch.long)
    for stage, book in enumerate(books):
        w = weights[:, None]
        error = (w * left.square()).sum(2)[..., None] + w @ book.square().T - 2 * ((w * left) @ book.T)
        keep = min(BEAM if stage + 1 < len(books) else 1, error.shape[1] * error.shape[2])
        best = error.flatten(1).topk(keep, largest=False).indices  # [n, keep]
        parent, entry = best // len(book), best % len(book)
        left = left.gather(1, parent[..., None].expand(-1, -1, left.shape[2])) - book[entry]
        chosen = chosen.gather(2, parent.expand(len(books), -1, -1))
        chosen[stage] = entry
    return chosen[:, :, 0]


def _of_one_half(books: Tensor) -> Tensor:
    """The same numbers where one 16-bit type holds them, else rounded to one."""
    return books if half_precision(books.cpu().numpy()) else halves(books)


def _check(d: int, bits: int, iterations: int) -> None:
    if not 1 <= d <= 64:
        raise InputError(f"blocks of {d} weights", expected="1 to 64", hint="d=8")
    if not 1 <= bits <= 12:
        raise InputError(f"codewords of {bits} bits", expected="1 to 12", hint="bits=8")
    if iterations < 0:
        raise InputError(f"{iterations} iterations", expected="0 or more", hint="iterations=20")
