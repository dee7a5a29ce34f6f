from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plisse.errors import InputError
from plisse.integer.dyadic import combination, requantized, rounding_shift

RATIOS = st.floats(1e-9, 100.0)
ACCUMULATORS = st.integers(-(2**31) + 1, 2**31 - 1)


@settings(max_examples=100, deadline=None)
@given(RATIOS, RATIOS, st.floats(-1e4, 1e4), ACCUMULATORS, st.integers(-255, 255))
def test_a_combination_is_its_dyadic_numbers_rounded_exactly(
    a: float, b: float, offset: float, first: int, second: int
) -> None:
    combine = combination((torch.tensor(a).double(), torch.tensor(b).double()), offset)
    total = first * int(combine.multipliers[0]) + second * int(combine.multipliers[1]) + int(combine.offset)
    exact = floor(Fraction(total, 2 ** int(combine.shift)) + Fraction(1, 2))
    assert int(combine(torch.tensor([first]), torch.tensor([second]))) == exact
    assert all(abs(int(multiplier)) < 2**31 for multiplier in combine.multipliers)


@settings(max_examples=100, deadline=None)
@given(RATIOS, st.integers(-(2**20), 2**20))
def test_it_is_as_close_to_the_real_ratio_as_31_bits_allow(ratio: float, term: int) -> None:
    combine = combination((torch.tensor(ratio, dtype=torch.float64),))
    found = int(combine(torch.tensor([term])))
    assert abs(found - term * ratio) <= 0.5 + abs(term) * max(ratio * 2**-30, 2.0**-47)


def test_every_channel_has_its_own_multiplier_and_shift_along_any_axis() -> None:
    ratios = torch.tensor([1e-6, 0.3, 7.0], dtype=torch.float64)
    offset = torch.tensor([1.0, -2.0, 0.25], dtype=torch.float64)
    terms = torch.randint(-1000, 1000, (4, 3, 2), generator=torch.Generator().manual_seed(0))
    combine = combination((ratios,), offset)
    expected = torch.floor(terms * ratios.view(3, 1) + offset.view(3, 1) + 0.5).long()
    assert torch.equal(combine(terms, axis=1), expected)
    assert torch.equal(combine(terms.transpose(1, 2)), expected.transpose(1, 2))


def test_a_channel_without_weights_still_gives_its_bias() -> None:
    combine = combination(
        (torch.tensor([1e-40, 0.5], dtype=torch.float64),), torch.tensor([3.0, 0.0]).double()
    )
    assert combine(torch.tensor([[0, 4]])).tolist() == [[3, 2]]


def test_halves_are_rounded_up_and_symbols_clipped() -> None:
    assert rounding_shift(torch.tensor([-3, -1, 1, 3]), 1).tolist() == [-1, 0, 1, 2]
    half = combination((torch.tensor(0.5).double(),))
    found = requantized(half, (torch.tensor([-700, -7, 7, 700]),), zero=10, low=5, high=200)
    assert found.tolist() == [5, 7, 14, 200]
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), 2.0**31])
def test_ratios_without_a_dyadic_number_are_refused(ratio: float) -> None:
    with pytest.raises(InputError, match=r"below 2\^30"):
        combination((torch.tensor(ratio, dtype=torch.float64),))
