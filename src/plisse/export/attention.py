"""Transformers in the operators for which ONNX Runtime has fast forms.

Attention becomes one operator (`MultiHeadAttention` of the domain com.microsoft, which every build of ONNX
Runtime brings), where exporters write eight. Additions before a layer norm become `Sum`: as `Add` they are
fused with it to an operator that takes three times as long (`SkipLayerNormalization`, ONNX Runtime 1.32).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from plisse.export.session import optional


class FusedAttention(TorchFunctionMode):
    """While this is active, tracing for ONNX writes every attention as one operator.

    Only softmax(q k^T scale + mask) v with as many heads of keys as of queries; others stay as they are.
    Queries that a mask hides from every key give zero if the traced example has such, else a mean of values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and torch.jit.is_tracing():
            found = self.attention(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor | None:
        """[N, heads, T, D] as torch has it; None where this has no form for it."""
        if query.dim() != 4 or query.shape[1] != key.shape[1] or query.shape[-1] != value.shape[-1]:
            return None
        if attn_mask is not None and (attn_mask.dim() != 4 or attn_mask.shape[2:] != _scores(query, key)):
            return None
        if is_causal and query.shape[2] != key.shape[2]:
            return None
        bias, seen = self._mask(attn_mask)
        factor = float(query.shape[-1]) ** -0.5 if scale is None else float(scale)
        heads: Any = [tensor.transpose(1, 2) for tensor in (query, key, value)]  # [N, T, heads, D]
        out: Tensor = _Attention.apply(*heads, bias, int(query.shape[1]), factor, bool(is_causal))
        return out.transpose(1, 2) if seen is None else out.transpose(1, 2) * seen

    def _mask(self, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What is added to scores and, where queries see no key at all, the factor that gives those zero.
        Computed once for all layers that share a mask."""
        if mask is None or mask.dtype != torch.bool:
            return mask, None
        if id(mask) not in self.masks:
            lowest = torch.finfo(torch.float32).min
            bias = torch.where(mask, torch.tensor(0.0), torch.tensor(lowest))
            seen = None if bool(mask.any(-1).all()) else mask.to(torch.float32).amax(-1, keepdim=True)
            self.masks[id(mask)] = mask, bias, seen
        return self.masks[id(mask)][1:]


def with_sums(data: bytes) -> bytes:
    """A file with `Sum` for every `Add` that only layer norms read."""
    onnx = optional("onnx")
    model = onnx.load_from_string(data)
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in model.graph.node:
        if node.op_type == "Add" and set(readers.get(node.output[0], ())) == {"LayerNormalization"}:
            node.op_type = "Sum"
    return bytes(model.SerializeToString())


def _scores(query: Tensor, key: Tensor) -> tuple[int, int]:
    return query.shape[2], key.shape[2]


class _Attention(torch.autograd.Function):
    """Attention over [N, T, heads, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int, scale: float, causal: bool
    ) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in (q, k, v))
        out = F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=scale)
        return out.transpose(1, 2).contiguous()

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, bias: Any, heads: int, scale: float, causal: bool) -> Any:
        flat = g.op("Constant", value_t=torch.tensor([0, 0, -1]))
        deep = g.op("Constant", value_t=torch.tensor([0, 0, heads, -1]))
        operands = [g.op("Reshape", tensor, flat) for tensor in (q, k, v)]
        if not _is_none(bias):
            absent = g.op("prim::Constant")
            absent.setType(torch._C.OptionalType.ofTensor())
            operands += [absent, absent, bias]  # no bias of projections, no mask of keys
        out = g.op(
            "com.microsoft::MultiHeadAttention",
            *operands,
            num_heads_i=heads,
            scale_f=scale,
            unidirectional_i=int(causal),
        )
        return g.op("Reshape", out, deep).setType(q.type())


def _is_none(value: Any) -> bool:
    return value is None or value.node().mustBeNone()
