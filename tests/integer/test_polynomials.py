"""How far the integer polynomials of I-BERT are off the functions that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from rounded import noise

from plisse.integer import functions
from plisse.integer.polynomials import i_erf, i_exp, i_gelu, i_layernorm, i_softmax, i_sqrt


def test_exp() -> None:
    scale = 2.0**-10
    q = -torch.arange(20 * 1024)
    value, out = i_exp(q, scale)
    assert value.dtype == torch.int64
    assert (value * out - torch.exp(q * scale)).abs().max() < 0.003


@pytest.mark.parametrize("scale", [2.0**-6, 2.0**-10, 2.0**-13])
def test_softmax_shares_sum_to_one_and_are_close(scale: float) -> None:
    q = torch.round(3 * noise(8, 64) / scale).long()
    shares, out = i_softmax(q, scale)
    expected = torch.softmax(q.double() * scale, -1)
    assert (shares * out - expected).abs().max() < (0.012 if scale > 0.01 else 0.004)
    assert ((shares.sum(-1) * out - 1).abs() <= 64 * out).all()
    assert shares.min() >= 0
    assert torch.equal(i_softmax(q + 12345, scale)[0], shares)  # only differences count


def test_erf_and_gelu() -> None:
    scale = 2.0**-12
    q = torch.arange(-6 * 4096, 6 * 4096)
    x = q.double() * scale
    value, out = i_erf(q, scale)
    assert (value * out - torch.erf(x)).abs().max() < 0.1  # at zero, where GELU multiplies it by zero
    value, out = i_gelu(q, scale)
    assert (value * out - F.gelu(x)).abs().max() < 0.02  # 0.018 in the paper


def test_square_root_is_the_floor_of_the_real_one() -> None:
    squares = torch.arange(1, 3000) ** 2
    n = torch.cat([squares - 1, squares, squares + 1, torch.tensor([0, 2**40 + 1, 2**61])])
    assert i_sqrt(n).tolist() == [math.isqrt(int(value)) for value in n]


@pytest.mark.parametrize("size", [0.05, 1.0, 40.0])
def test_layer_norm(size: float) -> None:
    x = size * noise(16, 64) + size
    weight, bias = 1 + 0.2 * noise(64, seed=1), noise(64, seed=2)
    found = functions.layer_norm(x, (64,), weight, bias)
    assert found is not None
    assert (found - F.layer_norm(x, (64,), weight, bias, 0.0)).abs().max() < 0.01


def test_layer_norm_of_a_constant_row_is_the_bias() -> None:
    q = torch.full((2, 8), 77)
    assert torch.equal(
        i_layernorm(q, torch.ones(8, dtype=torch.long), torch.arange(8)), torch.arange(8).expand(2, 8)
    )


def test_attention_with_either_kind_of_mask() -> None:
    query, key, value = (noise(2, 3, 10, 16, seed=seed) for seed in range(3))
    allowed = torch.ones(2, 1, 10, 10, dtype=torch.bool)
    allowed[1, :, :, 6:] = False
    added = torch.zeros(2, 1, 10, 10).masked_fill(~allowed, torch.finfo(torch.float32).min)
    for mask in (None, allowed, added):
        found = functions.attention(query, key, value, mask)
        assert found is not None
        assert (found - F.scaled_dot_product_attention(query, key, value, mask)).abs().max() < 0.04
    masked = functions.attention(query, key, value, allowed)
    assert masked is not None
    changed = value.clone()
    changed[1, :, 6:] *= 0.5  # nobody may look there
    again = functions.attention(query, key, changed, allowed)
    assert again is not None
    torch.testing.assert_close(again[1], masked[1])
    causal = functions.attention(query, key, value, is_causal=True)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert causal is not None
    assert (causal - expected).abs().max() < 0.04


def test_softmax_of_masked_scores() -> None:
    x = noise(4, 9)
    x[:, 5:] = -float("inf")
    found = functions.softmax(x, -1)
    assert found is not None
    assert (found - x.softmax(-1)).abs().max() < 0.004
    assert functions.softmax(x, 0) is None  # other axes stay as they are
