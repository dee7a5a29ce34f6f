"""Weights of a subspace on a grid, so that its file takes a quarter of the bytes."""

from __future__ import annotations

from torch import nn

from plisse.adapt.reparams import Line
from plisse.adapt.sparsity import TopK
from plisse.adapt.subspace import Subspace
from plisse.adapt.width import Sliced
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerTensor
from plisse.compress.quantize.ranges import MinMax
from plisse.core import modules
from plisse.core.reparam import Plain, Reparam
from plisse.errors import InputError


def round_weights(subspace: Subspace, bits: int = 8) -> int:
    """Round every weight matrix of a subspace over widths or sparsities to `bits` bits and one step, in
    place; gives the number of matrices.

    bits: 4 to 16. Endpoints of lines are rounded each for itself. All points share the rounded weights, so
    that narrower networks stay prefixes and sparser ones nested. Tables of thresholds and statistics belong
    to the weights before: `finish(subspace, task)` measures them again. Training may go on, straight through.
    Subspaces over bits are on grids already, and are refused.
    """
    if not 4 <= bits <= 16:
        raise InputError(f"{bits} bits", expected="4 to 16")
    if subspace.space.largest.axis == "bits":
        raise InputError("a subspace over bits, which is on a grid", expected="one over widths or sparsities")
    changed = 0
    network = subspace.wrapped.model
    for name, reparam in subspace.wrapped.reparams.items():
        if modules.tensor(network, name).dim() > 1:
            changed += _round(reparam, bits)
    rest = {
        name: FakeQuantized(Plain(modules.tensor(network, name)), Format(bits), PerTensor(), MinMax())
        for name in modules.weight_names(network)
        if name not in subspace.wrapped.reparams
    }
    subspace.with_reparams(rest)
    return changed + len(rest)


def _round(reparam: nn.Module, bits: int) -> int:
    """Put a grid around every plain tensor inside; how many."""
    places = ("start", "end") if isinstance(reparam, Line) else ("source",)
    if not isinstance(reparam, (Line, Sliced, TopK)):
        return 0
    count = 0
    for place in places:
        inner = getattr(reparam, place)
        if isinstance(inner, Plain):
            grid: Reparam = FakeQuantized(inner, Format(bits), PerTensor(), MinMax())
            setattr(reparam, place, grid)
            count += 1
        else:
            count += _round(inner, bits)
    return count
