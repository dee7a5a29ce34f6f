"""Exact changes of two layers in a row: constants carried on, neurons cut, scales moved. All in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.equalize import scale_pair
from plisse.compress.pairs import by_input_channel
from plisse.compress.sphere.intervals import Interval
from plisse.compress.sphere.units import Activation, Unit

EDITABLE = (nn.Linear, nn.Conv2d)
"""Layers that a file can hold with other sizes, or with a bias that they did not have."""

SAME = 1e-13
"""Ends of an interval that differ by less, as a share of their size, are one value (float64)."""


@dataclass(frozen=True)
class Change:
    """What was done to the neurons of one unit.

    dead: removed, since they give 0 wherever inputs may lie. constant: removed, and folded into the next
    layer. unheard: removed, since the next layer weighs them by 0. clamped: thresholds moved to the end of
    their interval. kept: constant neurons or thresholds left as they are, since the next layer pads with
    zeros or is grouped. neurons: before. added_bias: the next layer got one.
    """

    first: str
    second: str
    neurons: int
    dead: int
    constant: int
    unheard: int
    clamped: int
    kept: int
    added_bias: bool = False

    @property
    def removed(self) -> int:
        return self.dead + self.constant + self.unheard

    def __str__(self) -> str:
        text = (
            f"{self.first!r} on the sphere, scales in {self.second!r}: {self.removed} of {self.neurons} "
            f"neurons removed ({self.dead} dead, {self.constant} constant, {self.unheard} unheard), "
            f"{self.clamped} thresholds clamped"
        )
        text += f", {self.kept} constants kept (zero padding or groups)" if self.kept else ""
        return text + (f"; {self.second!r} got a bias" if self.added_bias else "")


@dataclass(frozen=True, eq=False)
class Plan:
    """For the C neurons of a unit: which go, by how much thresholds change, the constant that each gives up
    and, where no bias can take that on every place, the constant neuron whose weights do.

    kept: how many constants no move was found for.
    """

    dead: Tensor
    constant: Tensor
    unheard: Tensor
    threshold: Tensor
    given: Tensor
    anchor: int | None
    kept: int

    @property
    def gone(self) -> Tensor:
        return self.dead | self.constant | self.unheard


def plan_unit(first: Any, second: Any, unit: Unit, bounds: Interval, kind: torch.dtype) -> Plan:
    """Decide. bounds: of what `first` gives, [C]. kind: the type in which the network computes; differences
    within its rounding decide nothing."""
    f, norm = unit.activation, first.weight.detach().flatten(1).norm(dim=1)
    bias = torch.zeros_like(norm) if first.bias is None else first.bias.detach()
    low, high = (torch.where(norm == 0, bias, end) for end in bounds)
    room = _rounding(first, low, high, bias, kind)
    below, above = high < -room, low > room
    fixed = (norm == 0) | ((high - low <= SAME * torch.maximum(low.abs(), high.abs())) & high.isfinite())
    value = torch.zeros_like(norm)
    if f.step:
        value = torch.where(below, f.below, torch.where(above, f.above, 0.0))
        fixed = below | above
    else:
        value = torch.where(fixed, f.of(torch.where(norm == 0, bias, (low + high) / 2)), value)
        fixed = fixed | (below if f.below == 0 else False) | (above if f.above == 0 else False)
    columns = by_input_channel(second, len(norm))  # [G, O / G, C / G, rest]
    unheard = (columns == 0).all(3).all(1).flatten()
    shift, given = torch.zeros_like(norm), torch.zeros_like(norm)
    if not f.step and f.below != f.above:
        active, idle = above & ~fixed & ~unheard, below & ~fixed & ~unheard
        shift = torch.where(active, -low, torch.where(idle, -high, shift))
        given = torch.where(active, f.above * low, torch.where(idle, f.below * high, given))
    return _settled(first, second, unit, fixed & ~unheard, unheard, value, shift, given)


def _rounding(first: Any, low: Tensor, high: Tensor, bias: Tensor, kind: torch.dtype) -> Tensor:
    """How far apart two ways of computing the same preactivation may be, roughly, [C]."""
    size = torch.maximum(low.abs(), high.abs()).nan_to_num(posinf=0.0) + bias.abs()
    return 4 * torch.finfo(kind).eps * first.weight[0].numel() ** 0.5 * size


def _settled(
    first: Any,
    second: Any,
    unit: Unit,
    fixed: Tensor,
    unheard: Tensor,
    value: Tensor,
    shift: Tensor,
    given: Tensor,
) -> Plan:
    """What of it can be done exactly with these two layers."""
    whole = getattr(first, "groups", 1) == getattr(second, "groups", 1) == 1
    cuts = whole and isinstance(first, EDITABLE) and isinstance(second, EDITABLE)
    dead, constant = fixed & (value == 0), fixed & (value != 0)
    anchor, none = None, torch.zeros_like(fixed)
    can_bias = second.bias is not None or isinstance(second, EDITABLE)
    carries = unit.shifts and takes_constants(second) and can_bias
    if not carries and unit.shifts and whole and bool(constant.any()):
        anchor = int(constant.nonzero()[0])
        carries = True
    wished = int((constant & ~unheard).sum()) + int((shift != 0).sum())
    if not carries:
        shift, given, constant = torch.zeros_like(shift), torch.zeros_like(given), none
    if not cuts:
        dead, constant, unheard = none, none, none
    if anchor is not None:
        constant = constant.clone()
        constant[anchor] = False
    if bool((dead | constant | unheard).all()):  # a layer keeps one neuron
        dead, constant, unheard = dead.clone(), constant.clone(), unheard.clone()
        dead[0] = constant[0] = unheard[0] = False
    given = torch.where(constant, value, given)
    done = int(constant.sum()) + int((shift != 0).sum())
    if anchor is not None:  # in shares of what the anchor gives
        given = given / value[anchor]
    return Plan(dead, constant, unheard, shift, given, anchor, wished - done)


def takes_constants(layer: Any) -> bool:
    """Whether a constant input channel gives a constant output: no zeros are put around it.

    >>> takes_constants(nn.Conv2d(1, 1, 3)), takes_constants(nn.Conv2d(1, 1, 3, padding=1))
    (True, False)
    """
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return True
    if layer.padding == "same":
        return all(size == 1 for size in layer.kernel_size)
    return not any(layer.padding)


def carry_out(first: Any, second: Any, unit: Unit, plan: Plan) -> Change:
    """Apply `plan`; scales stay."""
    added = False
    with torch.no_grad():
        if bool((plan.given != 0).any()):
            added = _give(second, plan.given, plan.anchor)
        if bool((plan.threshold != 0).any()):
            _bias_of(first).add_(plan.threshold)
    keep = (~plan.gone).nonzero().flatten()
    if len(keep) < len(plan.gone):
        cut(first, second, keep)
    dead, constant, unheard, clamped = (
        int(mask.sum()) for mask in (plan.dead, plan.constant, plan.unheard, plan.threshold != 0)
    )
    neurons = len(plan.gone)
    return Change(
        unit.first, unit.second, neurons, dead, constant, unheard, clamped, plan.kept, added_bias=added
    )


def _give(second: Any, given: Tensor, anchor: int | None) -> bool:
    """Put the constants `given` [C] into the bias of `second`, or into the weights of channel `anchor`."""
    columns = by_input_channel(second, len(given))  # [G, O / G, C / G, rest]
    if anchor is not None:
        columns[:, :, anchor] += (columns * given.reshape(1, 1, -1, 1)).sum(2)
        return False
    added = second.bias is None
    moved = (columns.sum(3) * given.reshape(len(columns), 1, -1)).sum(2).flatten()
    _bias_of(second).add_(moved)
    return added


def _bias_of(layer: Any) -> Tensor:
    """The bias, made of zeros where there is none."""
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
    bias: Tensor = layer.bias
    return bias


def cut(first: Any, second: Any, keep: Tensor) -> None:
    """Keep the output channels `keep` of `first` and what reads them in `second`."""
    channels, read = len(first.weight), second.weight
    columns = by_input_channel(second, channels)[0].index_select(1, keep)  # [O, kept, rest]
    tail = () if isinstance(second, nn.Linear) else read.shape[2:]
    second.weight = _parameter(columns.reshape(len(read), -1, *tail), read)
    for name in ("weight", "bias"):
        value = getattr(first, name)
        if value is not None:
            setattr(first, name, _parameter(value.detach().index_select(0, keep), value))
    for layer, axis, size in ((first, "out", len(keep)), (second, "in", second.weight.shape[1])):
        setattr(layer, f"{axis}_features" if isinstance(layer, nn.Linear) else f"{axis}_channels", size)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.contiguous(), requires_grad=like.requires_grad)


def rescale(first: Any, second: Any, activation: Activation) -> None:
    """Divide each row of `first` and its bias by the row's norm; `second` takes the norms, unless the
    activation is a step, which forgets them. Rows of zeros are scaled by their bias."""
    norm = first.weight.detach().flatten(1).norm(dim=1)
    if first.bias is not None:
        norm = torch.where(norm > 0, norm, first.bias.detach().abs())
    norm = torch.where(norm > 0, norm, 1.0)
    if not activation.step:
        scale_pair(first, second, norm)
        return
    with torch.no_grad():
        first.weight.div_(norm.reshape(-1, *[1] * (first.weight.dim() - 1)))
        if first.bias is not None:
            first.bias.div_(norm)
