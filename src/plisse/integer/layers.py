"""Layers that compute in integers and meet the rest of a network in floating point: for transformers, and for
whatever cannot be traced."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.core.dynamicquant import SMALLEST, DynamicQuantizer
from plisse.integer.kernels import Packed, onednn
from plisse.integer.rows import rescale, rounded_rows
from plisse.integer.weights import IntegerWeight

Rounded = tuple[Tensor, Tensor, Tensor | None]
"""Symbols, scale, zero point."""


class DynamicLinear(nn.Module):
    """A linear layer whose input is rounded at run time: y = s_x s_w ((q_x - z_x) q_w) + b, with s_x and z_x
    from the extremes of each row (token; Yao et al. 2022, "ZeroQuant") or of the whole input.

    how: bits up to 8, unit "row" or "tensor", symmetric (signed symbols) or not (unsigned, with a zero
    point whose share is taken off by the sums of the weights). factor: multiplies the input before, [inputs].
    kernels: run on oneDNN, else as an int32 product in plain torch. [..., inputs] to [..., outputs].
    """

    def __init__(
        self,
        weight: IntegerWeight,
        bias: Tensor | None,
        how: DynamicQuantizer | None = None,
        factor: Tensor | None = None,
        *,
        kernels: bool,
    ) -> None:
        super().__init__()
        self.how = how = how or DynamicQuantizer(8, "row", symmetric=True)
        self.bits, self.whole, self.symmetric = how.bits, how.unit == "tensor", how.symmetric
        self.out_features, self.in_features = weight.symbols.shape
        self.kernels = kernels
        symbols, scale = weight.symbols.contiguous(), weight.scale.float().contiguous()
        self.packed = Packed(
            onednn.qlinear_prepack(symbols, None) if kernels else symbols,
            scale,
            torch.zeros(self.out_features) if bias is None else _float(bias),
        )
        self.sums = symbols.sum(1, dtype=torch.int32) * scale
        self.factor = _float(factor)
        self.shared: Siblings | None = None
        self.place = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x, (self.out_features,))[0] if self.shared is None else self.shared(x, self.place)

    def parts(self, x: Tensor, widths: tuple[int, ...]) -> list[Tensor]:
        """The outputs, as tensors of so many columns each."""
        symbols, scale, zero = self.symbols(x.detach())
        p = self.packed
        assert p.bias is not None
        if self.kernels:
            total = onednn.qlinear_pointwise(
                symbols, 1.0, 0, p.weight, p.scale, p.zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )
        else:
            total = F.linear(symbols.to(torch.int32), p.weight.to(torch.int32)).float() * p.scale
        if zero is not None:
            total.addcmul_(zero, self.sums, value=-1)
        done = rescale(total, scale.float(), p.bias) if self.kernels else torch.addcmul(p.bias, total, scale)
        done = done.reshape(*x.shape[:-1], self.out_features)
        return [done] if len(widths) == 1 else list(done.split(widths, -1))

    def symbols(self, x: Tensor) -> Rounded:
        """Symbols of the rows of `x`, their scale [rows or 1, 1] and, where they are unsigned, zero point."""
        rows = (x if self.factor is None else x * self.factor).reshape(-1, self.in_features)
        if self.kernels and self.symmetric and not self.whole:
            return *rounded_rows(rows.float(), self.bits), None
        axes = (0, 1) if self.whole else (1,)
        low, high = rows.amin(axes, keepdim=True), rows.amax(axes, keepdim=True)
        if self.symmetric:
            scale = torch.maximum(high, low.neg_()).div_(2 ** (self.bits - 1) - 1).clamp_min_(SMALLEST)
            return (rows / scale).round_().to(torch.int8), scale, None
        top = 2**self.bits - 1
        low, high = low.clamp_max_(0), high.clamp_min_(0)
        scale = ((high - low) / top).clamp_min_(SMALLEST)
        zero = torch.round(-low / scale)
        return (rows / scale).round_().add_(zero).clamp_(0, top).to(torch.uint8), scale, zero

    def rounds_like(self, other: DynamicLinear) -> bool:
        """Whether both give the same symbols for one tensor."""
        mine, its = ((x.bits, x.whole, x.symmetric, x.kernels, x.in_features) for x in (self, other))
        return mine == its and self.factor is None and other.factor is None

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


class Siblings(nn.Module):
    """Layers that read one tensor, such as queries, keys and values: the first rounds and multiplies it for
    all, in one product, and each takes its own columns.

    layers: in the order in which the network calls them; the last lets the tensor go. Weights move here.
    """

    def __init__(self, layers: list[DynamicLinear]) -> None:
        super().__init__()
        self.widths = tuple(layer.out_features for layer in layers)
        self.joined = _joined(layers)
        self.kept: tuple[Tensor, list[Tensor]] | None = None
        for place, layer in enumerate(layers):
            layer.shared, layer.place, layer.packed = self, place, self.joined.packed

    def forward(self, x: Tensor, place: int) -> Tensor:
        kept = None if place == 0 else self.kept
        found = kept[1] if kept is not None and kept[0] is x else self.joined.parts(x, self.widths)
        self.kept = None if place == len(self.widths) - 1 else (x, found)
        return found[place]

    @staticmethod
    def found(calls: list[tuple[DynamicLinear, Tensor, int]]) -> None:
        """Make siblings of layers that were called in a row with the same, unchanged tensor.

        calls: layer, input and the input's version, in order.
        """
        names = [layer for layer, _, _ in calls]
        start = 0
        for end in range(1, len(calls) + 1):
            first, x, version = calls[start]
            if end < len(calls):
                layer, other, later = calls[end]
                if other is x and later == version and layer.rounds_like(first):
                    continue
            group = names[start:end]
            if len(group) > 1 and all(names.count(layer) == 1 for layer in group):
                Siblings(group)
            start = end


def _joined(layers: list[DynamicLinear]) -> DynamicLinear:
    """One layer with the outputs of all."""
    packed = [layer.packed for layer in layers]
    symbols = torch.cat([p.weight.to_dense().T if layers[0].kernels else p.weight for p in packed])
    biases = [p.bias for p in packed if p.bias is not None]
    weight = IntegerWeight(symbols, torch.cat([p.scale for p in packed]))
    return DynamicLinear(weight, torch.cat(biases), layers[0].how, kernels=layers[0].kernels)


class EmbeddingRows(nn.Module):
    """An embedding whose rows are signed 8-bit integers with one scale each: lookup, then one product."""

    def __init__(self, weight: IntegerWeight) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.symbols.shape
        self.packed = Packed(weight.symbols.contiguous(), weight.scale.float().contiguous(), None)

    def forward(self, index: Tensor) -> Tensor:
        scale = self.packed.scale[index].unsqueeze(-1)
        return F.embedding(index, self.packed.weight) * scale

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class Between(nn.Module):
    """A layer with a static grid: multiplies its input by `factor`, if any, rounds it to the grid, computes
    in integers, returns float32."""

    def __init__(self, enter: nn.Module, layer: nn.Module, factor: Tensor | None = None) -> None:
        super().__init__()
        self.enter, self.layer, self.factor = enter, layer, _float(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.enter(x if self.factor is None else x * self.factor))


def _float(value: Any) -> Tensor | None:
    return None if value is None else value.detach().float().contiguous()


OURS = (DynamicLinear, EmbeddingRows, Between)
