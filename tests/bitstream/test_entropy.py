from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plisse.bitstream.bits import fold, pack, packed_size, unfold, unpack
from plisse.bitstream.bytesreader import BytesReader, signed_varint, varint
from plisse.bitstream.entropy import EXP2, LOG2, entropy_bits, histogram
from plisse.bitstream.tables import EXPLICIT, GAUSS, LAPLACE, fit_static, read_static, total_bits
from plisse.errors import FormatError

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def test_histograms_and_their_entropy() -> None:
    values = np.random.default_rng(0).integers(-5, 9, 1001).astype(np.int32)
    counts = histogram(values, -5, 14, 1)
    assert np.array_equal(counts, np.bincount(values + 5, minlength=14))
    for step in (2, 3, 7):
        assert np.array_equal(histogram(values, -5, 14, step), np.bincount(values[::step] + 5, minlength=14))
    share = counts / counts.sum()
    assert abs(entropy_bits(counts) - -(counts * np.log2(share)).sum()) < 1e-6


def test_fixed_tables_are_the_rounded_functions() -> None:
    assert np.abs(EXP2 - 65536 * 2 ** (np.arange(32) / 32)).max() < 1
    exact = 32 * np.log2(np.arange(1, 4096))
    assert (LOG2[1:] <= exact + 1e-9).all()
    assert (exact < LOG2[1:] + 1).all()


@pytest.mark.parametrize("form", [EXPLICIT, LAPLACE, GAUSS])
@pytest.mark.parametrize("spread", [0.5, 1.5, 30.0])
def test_static_tables_come_back_and_fit_their_family(form: int, spread: float) -> None:
    random = np.random.default_rng(4)
    draw = random.normal if form == GAUSS else random.laplace
    symbols = np.rint(draw(0, spread, 50000)).astype(int)
    left, counts = -symbols.min(), np.bincount(symbols - symbols.min())
    (static,) = fit_static(counts, int(left), (form,))
    reader = BytesReader(static.to_bytes())
    assert read_static(reader, form) == static
    assert reader.left == 0
    share = counts[counts > 0] / counts.sum()
    assert total_bits(static, counts) < 1.02 * -(counts.sum() * share * np.log2(share)).sum() + 64


def test_the_table_of_a_small_tensor_does_not_dominate() -> None:
    symbols = np.rint(np.random.default_rng(6).laplace(0, 1, 64)).astype(int)
    counts = np.bincount(symbols - symbols.min())
    fits = fit_static(counts, int(-symbols.min()), (EXPLICIT, LAPLACE, GAUSS))
    assert min(len(fit.to_bytes()) for fit in fits) <= 5


@QUICK
@given(st.integers(0, 2**64 - 1))
def test_varints_come_back(number: int) -> None:
    assert BytesReader(varint(number)).varint() == number
    assert BytesReader(signed_varint(number - 2**63)).signed() == number - 2**63


@pytest.mark.parametrize("data", ["", "80", "8000", "ff" * 12, "ffffffff7f"])
def test_bad_varints_are_refused(data: str) -> None:
    with pytest.raises(FormatError):
        BytesReader(bytes.fromhex(data)).varint(2**31)


@pytest.mark.parametrize("width", [1, 3, 8, 13, 32, 40, 64])
def test_packed_integers_come_back(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 2 ** min(width, 62), 1001)
    data = pack(values, width)
    assert len(data) == packed_size(1001, width)
    assert np.array_equal(unpack(BytesReader(data), 1001, width), values)


def test_large_values_fold_to_few_tokens_and_back() -> None:
    edges = [s * (2**e + d) for e in range(33) for d in (-1, 0, 1) for s in (-1, 1)]
    values = np.array([v for v in edges if abs(v) < 2**32])
    tokens, extra = fold(values)
    assert np.abs(tokens).max() <= 1023
    assert np.array_equal(unfold(tokens, BytesReader(extra)), values)
    assert np.array_equal(np.sort(tokens), tokens[np.argsort(values, kind="stable")])
