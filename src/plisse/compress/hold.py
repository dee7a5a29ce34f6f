"""Hold the rate while training: weights are drawn to zero so that written bytes stay as planned.

Training with a straight-through gradient pulls weights out of the dead zone; left alone, the file would end
up to a fifth larger than it began. Coarser steps do not hold it for long, since weights grow as fast as steps
do. So weights are thresholded softly, w <- sign(w) max(|w| - tau D, 0), each in units of its own step D, with
the least tau that the rate asks for: a proximal step for sum |w| / D, to which the bits of Laplacian weights
are proportional (Daubechies, Defrise, De Mol 2004, on thresholding between steps of descent).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plisse.compress.prune.mask import Masked
from plisse.compress.quantize.rated import RateQuantized, TrellisQuantized, coded_bytes, nearest, rescale
from plisse.core.reparam import Plain, Reparam
from plisse.train.loop import State

GENTLEST, STRONGEST = 0.95, 1.15
LOOKS = 8
"""At least so many in a training, over the whole of it, however short it is."""
FURTHEST, HALVINGS = 0.3, 8
"""Steps by which a look may draw weights at most; how finely that is searched."""
MANY = 1 << 16
CLOSE = 1.01
"""Bits over those wanted from which on steps grow as well."""


@dataclass(frozen=True)
class HoldRate:
    """A hook for `fit`: every so often, write the entropy-coded weights. Where they take too many bytes, draw
    them to zero; where too few, scale all steps by (bytes / target) ^ gain.

    target: bytes for all entropy-coded weights. every: steps between two looks, at most. until: share of the
    training after which steps become no finer, so that the weights settle.
    """

    target: int
    every: int = 25
    until: float = 0.75
    gain: float = 0.7

    def __call__(self, state: State) -> None:
        every = max(1, min(self.every, state.steps // LOOKS))
        if (state.step + 1) % every:
            return
        excess = coded_bytes(state.model) / self.target
        if excess > 1:
            left = draw(state.model, 1 / excess)
            if left > CLOSE:
                rescale(state.model, min(left**self.gain, STRONGEST))
        elif state.step <= self.until * state.steps:
            rescale(state.model, max(excess**self.gain, GENTLEST))


@torch.no_grad()
def draw(network: nn.Module, share: float) -> float:
    """Draw entropy-coded weights of `network` to zero, in place, until they have `share` of their bits, or by
    `FURTHEST` steps. Returns bits over those wanted. Weights that are computed from other tensors than
    themselves, masks aside, stay."""
    coded = [each for each in network.modules() if isinstance(each, (RateQuantized, TrellisQuantized))]
    found = [(each, values) for each in coded if (values := _values(each.source)) is not None]
    wanted = share * _bits(found, 0.0)
    if not wanted:
        return 1 / share
    low, high = 0.0, FURTHEST
    if _bits(found, high) <= wanted:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if _bits(found, middle) <= wanted else (middle, high)
    for each, values in found:
        values.copy_(_drawn(values, high * float(each.step)))
    return _bits(found, 0.0) / wanted


Found = Iterable[tuple[RateQuantized | TrellisQuantized, nn.Parameter]]


def _values(source: Reparam) -> nn.Parameter | None:
    """What is trained in place of a weight, in its units."""
    inner = source.source if isinstance(source, Masked) else source
    return inner.weight if isinstance(inner, Plain) else None


def _drawn(values: Tensor, threshold: float) -> Tensor:
    return values.sign() * (values.abs() - threshold).clamp_min(0)


def _bits(found: Found, threshold: float) -> float:
    """Of symbols when each tensor is coded by itself with its own frequencies."""
    return sum(_entropy(symbols) for symbols in _symbols(found, threshold))


def _symbols(found: Found, threshold: float) -> Iterator[Tensor]:
    for each, values in found:
        step, dead_zone = float(each.step), getattr(each, "dead_zone", 0.0)
        kept = values if not isinstance(each.source, Masked) else values[each.source.mask]
        yield nearest(_drawn(kept, threshold * step), step, dead_zone)


def _entropy(symbols: Tensor) -> float:
    """n H in bits. Symbols are small in weights worth coding; large ones are counted together."""
    counts = torch.bincount(symbols.abs().clamp_max(MANY).flatten()).double()
    some = counts[counts > 0]
    signs = symbols.numel() - float(counts[0]) if counts.numel() else 0.0
    return signs + float((some * torch.log2(symbols.numel() / some)).sum())
