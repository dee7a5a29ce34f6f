"""exp, erf, square root, and with them softmax, GELU and layer norm, in integers (Kim et al. 2021, "I-BERT").

A number is an integer q that stands for q s. The scale s is known before, so every constant that depends on
it is an integer too; while running there are only additions, products, shifts and integer divisions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LN2 = math.log(2.0)
EXP = (0.35815147, 1.353, 0.344)  # a (p + b)^2 + c on [-ln 2, 0] (section 3.5)
ERF = (-0.2888, -1.769, 1.0)  # sign(x) (a (min(|x|, -b) + b)^2 + c) (section 3.4)
SHARES = 15  # bits of the fraction in which a softmax is returned
HALVINGS = 30  # after which exp has vanished


def i_polynomial(q: Tensor, scale: float, coefficients: tuple[float, float, float]) -> tuple[Tensor, float]:
    """a (x + b)^2 + c for x = q scale: integers and their scale a scale^2."""
    a, b, c = coefficients
    out = a * scale * scale
    return (q + math.floor(b / scale)) ** 2 + math.floor(c / out), out


def i_exp(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """exp(q scale) for q <= 0: x = -z ln 2 + p, so exp(x) = exp(p) 2^-z, with a polynomial on (-ln 2, 0].

    scale: at most ln 2 / 8, so that p has steps; int64 of q's shape and their scale come back. Off by at most
    0.002 (the polynomial) plus what the steps of q cost.
    """
    step = math.floor(LN2 / scale)
    q = torch.maximum(q, torch.tensor(-HALVINGS * step))
    z = torch.div(-q, step, rounding_mode="floor")
    value, out = i_polynomial(q + z * step, scale, EXP)
    return value.clamp_min(0) >> z, out


def i_softmax(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """exp(x_i) / sum_j exp(x_j) over the last axis: integers 0 to 2^15 and their scale 2^-15."""
    value, _ = i_exp(q - q.amax(-1, keepdim=True), scale)
    total = value.sum(-1, keepdim=True)
    return torch.div(value << SHARES, total, rounding_mode="floor"), 2.0**-SHARES


def i_erf(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """erf(q scale): integers and their (negative) scale."""
    edge = math.floor(-ERF[1] / scale)
    value, out = i_polynomial(torch.minimum(q.abs(), torch.tensor(edge)), scale, ERF)
    return torch.sign(q) * value, out


def i_gelu(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """x (1 + erf(x / sqrt 2)) / 2 for x = q scale: integers and their scale. Off by at most 0.02."""
    value, out = i_erf(q, scale / math.sqrt(2.0))
    return q * (value + math.floor(1.0 / out)), scale * out / 2


def i_sqrt(n: Tensor) -> Tensor:
    """floor(sqrt(n)) of integers 0 <= n < 2^62, by Newton's iteration from above (algorithm 4).

    >>> i_sqrt(torch.tensor([0, 1, 15, 16, 17])).tolist()
    [0, 1, 3, 4, 4]
    """
    x = torch.full_like(n, 2**31)
    while True:
        after = torch.where(n > 0, (x + torch.div(n, x.clamp_min(1), rounding_mode="floor")) >> 1, 0)
        if bool((after >= x).all()):
            return x
        x = torch.minimum(x, after)


def i_layernorm(q: Tensor, weight: Tensor, bias: Tensor, fraction: int = 10) -> Tensor:
    """(q - mean) / sqrt(var) * weight + bias over the last axis, in integers.

    q: [..., D], below 2^20 in size. weight, bias: integers [D]; the result, int64, has the step of `bias`,
    which is 2^-fraction that of `weight`. The scale of q cancels; epsilon is not added. A constant row gives
    `bias`.
    """
    width = q.shape[-1]
    mean = torch.div(2 * q.sum(-1, keepdim=True) + width, 2 * width, rounding_mode="floor")
    centred = (q - mean) << 5  # steps that make a small deviation accurate
    deviation = i_sqrt(torch.div((centred * centred).sum(-1, keepdim=True), width, rounding_mode="floor"))
    normal = torch.div((centred << fraction), deviation.clamp_min(1), rounding_mode="floor")
    return normal * weight + bias
