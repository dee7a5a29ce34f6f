"""From chosen symbols back to a weight that is computed as before, and stored as exactly those symbols."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plisse.compress.quantize import grids
from plisse.compress.quantize.fake import FakeQuantized
from plisse.core import modules
from plisse.core.reparam import Plain, Reparam, Reparametrized

INSIDE = 0.49  # how far from a symbol a kept value may lie, in steps


def copied(quantized: Reparametrized) -> Reparametrized:
    """A copy whose symbols may be chosen anew."""
    copy = modules.clone(quantized)
    assert isinstance(copy, Reparametrized)
    return copy


def real_symbols(fake: FakeQuantized) -> Tensor:
    """What is rounded, w / s + z, before it is rounded and clipped: float32 in the weight's shape."""
    with torch.no_grad():
        values = fake.source().detach().float()
        scale, zero = spread_grid(fake, values)
        return values / scale + zero


def spread_grid(fake: FakeQuantized, values: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point as they broadcast against `values`."""
    scale = grids.bfloat16_through(fake.scale.detach())
    return grids.spread(scale, values, fake.group), grids.spread(fake.zero, values, fake.group)


def pinned(fake: FakeQuantized) -> Tensor:
    """True where the source is exactly zero, as pruned weights are: these keep the symbol of zero."""
    with torch.no_grad():
        return fake.source().detach() == 0


def choose(fake: FakeQuantized, symbols: Tensor, scale: Tensor | None = None) -> None:
    """Make `fake` stand for `symbols`, in place, with a new scale where one is given.

    symbols: whole numbers, or real ones that are rounded and remembered, so that later training can go on
    from there. scale: as `fake.scale`; rounded to bfloat16.
    """
    kept = torch.where(pinned(fake), grids.spread(fake.zero, symbols, fake.group).expand_as(symbols), symbols)
    whole = torch.round(kept).clamp(fake.form.low, fake.form.high)
    kept = torch.maximum(torch.minimum(kept, whole + INSIDE), whole - INSIDE)
    with torch.no_grad():
        if scale is not None:
            fake.scale.copy_(grids.bfloat16_through(scale))
        spread, zero = spread_grid(fake, kept)
        values = (kept - zero) * spread
        _put(fake, values)
        wrong = fake.stored().symbols != whole.to(torch.int32).cpu().numpy()
        if wrong.any():  # a source that cannot hold the values, such as a product of factors
            fake.source = Plain(values)


def _put(fake: FakeQuantized, values: Tensor) -> None:
    """Into the innermost source where there is one, so that masks around it stay."""
    inner: Any = fake
    while isinstance(getattr(inner, "source", None), Reparam):
        inner = inner.source
    if isinstance(inner, Plain) and inner.weight.shape == values.shape:
        inner.weight.copy_(values)
    else:
        fake.source = Plain(values)
