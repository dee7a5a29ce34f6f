"""What every weight can become: itself on a uniform grid of each width, with the bytes that it then takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from plisse.bitstream.symbols import encode_symbols
from plisse.bitstream.tensors import encode_tensor
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, Granularity
from plisse.compress.quantize.ranges import MinMax, Range
from plisse.core.reparam import Reparam
from plisse.core.stored import Stored, Uniform

FLOAT = 32
"""The width of a weight that stays as it is."""
WIDEST = 16
"""Of a grid."""


@dataclass(frozen=True)
class Uniformly:
    """How weights are rounded, but for their widths; fields as in `Quantize`."""

    symmetric: bool
    granularity: Granularity
    range: Range

    def rounded(self, source: Reparam, bits: int) -> Reparam:
        """The reparametrization of one weight at one width; `FLOAT` leaves it."""
        if bits == FLOAT:
            return source
        return FakeQuantized(source, Format(bits, self.symmetric), self.granularity, self.range)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One weight at one width. bits: 2 to 16, or 32 where it stays. bytes: of its record as the coder writes
    it without contexts, which take time and save about the same share everywhere. how: it was rounded."""

    bits: int
    stored: Stored
    bytes: int
    how: Uniformly | None = None

    def values(self) -> Tensor:
        """The rounded weight, float32."""
        return torch.from_numpy(np.array(self.stored.values(), np.float32))

    def reparam(self, source: Reparam) -> Reparam:
        """What computes this candidate from the weight that it was made of."""
        if self.how is None or not isinstance(self.stored.grid, Uniform):
            return source
        form = Format(self.bits, self.how.symmetric)
        fake = FakeQuantized(source, form, self.how.granularity, MinMax())  # with the scales found before
        with torch.no_grad():
            fake.scale.copy_(torch.from_numpy(self.stored.grid.scale))
            if self.stored.grid.zero_point is not None:
                fake.zero.copy_(torch.from_numpy(self.stored.grid.zero_point))
        return fake


Candidates = Mapping[str, Sequence[Candidate]]
"""Weight name to its candidates."""


class Held(Reparam):
    """A weight that is a candidate, without gradient: for asking how long a file would be."""

    def __init__(self, candidate: Candidate) -> None:
        super().__init__()
        self.candidate = candidate

    def forward(self) -> Tensor:
        return self.candidate.values()

    def stored(self) -> Stored:
        return self.candidate.stored


def candidates(source: Reparam, widths: Sequence[int], hows: Sequence[Uniformly]) -> tuple[Candidate, ...]:
    """One weight at every width of `widths` in every way of `hows`, narrowest first.

    >>> from plisse.compress.quantize.grids import PerTensor
    >>> from plisse.core.reparam import Plain
    >>> made = candidates(Plain(torch.randn(40, 10)), (2, 8), [Uniformly(True, PerTensor(), MinMax())])
    >>> [(c.bits, 8 * c.bytes // 400 <= c.bits) for c in made]
    [(2, True), (8, True)]
    """
    return tuple(
        _candidate(source, bits, how)
        for bits in sorted(set(widths))
        for how in (hows[:1] if bits == FLOAT else hows)
    )


def squared_error(weight: Tensor, candidate: Candidate) -> float:
    """Sum of squares of what rounding changes."""
    if candidate.bits == FLOAT:
        return 0.0
    return float((candidate.values().to(weight.device) - weight).square().double().sum())


def _candidate(source: Reparam, bits: int, how: Uniformly) -> Candidate:
    stored = how.rounded(source, bits).stored()
    return Candidate(bits, _narrow(stored), _length(stored), None if bits == FLOAT else how)


def _length(stored: Stored) -> int:
    """Bytes of symbols, scales and zero points."""
    if not isinstance(stored.grid, Uniform):
        return len(encode_tensor(stored))
    scale, zero = stored.grid.scale, stored.grid.zero_point
    parts = [stored.symbols, np.ascontiguousarray(scale, np.float32).view(np.uint32) >> 16]
    parts += [] if zero is None else [zero]
    return sum(len(encode_symbols(part.astype(np.int32).reshape(-1))) for part in parts if part.size)


def _narrow(stored: Stored) -> Stored:
    """The same with symbols in as few bytes as they need, for keeping many."""
    if not isinstance(stored.grid, Uniform) or not stored.symbols.size:
        return stored
    kind = np.promote_types(*(np.min_scalar_type(int(end)) for end in _ends(stored.symbols)))
    return replace(stored, symbols=stored.symbols.astype(kind if kind.kind == "i" else np.int16))


def _ends(symbols: np.ndarray) -> tuple[int, int]:
    """Least and largest; the least is taken negative, so that the type that holds both has a sign."""
    return min(int(symbols.min()), -1), int(symbols.max())
