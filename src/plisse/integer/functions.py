"""Functions of transformers in integers while a network runs: attention, softmax, GELU, layer norm.

Each rounds what it is given, computes in integers (`polynomials`), and returns float32. A function mode of
torch catches the calls, so that no network has to be rewritten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plisse.core.hooks import after_calls, before_calls
from plisse.integer.polynomials import LN2, SHARES, i_gelu, i_layernorm, i_softmax

LOWEST = -30.0  # exp of which counts as zero
FINE = 2.0**-10  # step of what enters a softmax
FRACTION = 10
SILENT = {
    "__get__", "__getitem__", "__len__", "view", "reshape", "transpose", "permute", "contiguous", "expand",
    "unsqueeze", "squeeze", "to", "size", "dim", "flatten", "dropout", "detach", "float", "split", "chunk",
    "type_as", "stack", "cat", "clone", "is_floating_point", "numel", "zeros_like", "ones_like", "expand_as",
}  # fmt: skip


class IntegerFunctions(TorchFunctionMode):
    """Catches functions. integer: replace those with an integer form. `floating` collects the names of the
    others that compute with floating point, outside of modules that are `passed`."""

    def __init__(self, integer: bool = True) -> None:
        super().__init__()
        self.integer = integer
        self.floating: set[str] = set()
        self.depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.integer and func in FORMS:
            found = FORMS[func](*args, **kwargs)
            if found is not None:
                return found
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        reads = any(isinstance(a, Tensor) and a.is_floating_point() for a in (*args, *kwargs.values()))
        computes = isinstance(out, Tensor) and out.is_floating_point() and out.dim() > 0
        if reads and computes and not self.depth and name not in SILENT:
            self.floating.add(name.strip("_"))
        return out

    @contextmanager
    def passing(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Do not look into `modules`."""

        def enter(*_: Any) -> None:
            self.depth += 1

        def leave(*_: Any) -> None:
            self.depth -= 1

        layers = {str(i): module for i, module in enumerate(modules)}
        with before_calls(layers, enter), after_calls(layers, leave):
            yield


class WithFunctions(nn.Module):
    """A network in which functions with an integer form are computed by that."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with IntegerFunctions():
            return self.model(*args, **kwargs)


def rounded(x: Tensor, bits: int) -> tuple[Tensor, float]:
    """Symmetric integers (int64) of `bits` bits over the whole tensor, and their scale."""
    scale = max(float(x.abs().amax()), 1e-12) / (2 ** (bits - 1) - 1)
    return torch.round(x / scale).to(torch.int64), scale


def softmax(x: Tensor, dim: int = -1, *rest: Any, **kwargs: Any) -> Tensor | None:
    """Over the last axis; entries 30 and more below the largest get no share."""
    dim = kwargs.pop("axis", dim)
    if dim not in (-1, x.dim() - 1):
        return None
    near = (x - x.amax(-1, keepdim=True)).nan_to_num(nan=0.0, neginf=LOWEST).clamp_min(LOWEST)
    shares, scale = i_softmax(torch.round(near / FINE).to(torch.int64), FINE)
    return shares.to(x.dtype) * scale


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """GELU of 16-bit integers; the tanh form is answered by the same polynomial."""
    value, scale = i_gelu(*rounded(x, 16))
    return value.to(x.dtype) * scale


def layer_norm(
    x: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    """Layer norm of 20-bit integers over the last axis, without epsilon."""
    if len(shape) != 1 or x.shape[-1] != shape[0]:
        return None
    gain = torch.ones(x.shape[-1]) if weight is None else weight
    symbols, scale = rounded(gain, 16)
    step = scale * 2.0**-FRACTION
    offset = torch.zeros(x.shape[-1]) if bias is None else bias
    value = i_layernorm(rounded(x, 20)[0], symbols, torch.round(offset / step).to(torch.int64), FRACTION)
    return value.to(x.dtype) * step


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """softmax(q k^T / sqrt(D)) v with 8-bit q, k, v, 15-bit shares and int64 sums."""
    if enable_gqa or dropout_p:
        return None
    (q, s_q), (k, s_k), (v, s_v) = (rounded(x, 8) for x in (query, key, value))
    step = s_q * s_k * (query.shape[-1] ** -0.5 if scale is None else scale)
    extra = max(0, math.ceil(math.log2(step / (LN2 / 64))))  # finer steps for large scores
    scores, step = (q @ k.transpose(-1, -2)) << extra, step / 2**extra
    far = -round(-2 * LOWEST / step) + int(scores.amin() - scores.amax())
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, scores + far)
    elif attn_mask is not None:
        scores = scores + torch.round((attn_mask / step).clamp_min(float(far))).to(torch.int64)
    shares, _ = i_softmax(scores, step)
    return (shares @ v).to(query.dtype) * (s_v * 2.0**-SHARES)


FORMS: dict[Any, Callable[..., Any]] = {
    F.softmax: softmax,
    torch.softmax: softmax,
    Tensor.softmax: softmax,
    F.gelu: gelu,
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.scaled_dot_product_attention: attention,
}
