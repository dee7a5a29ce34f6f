"""Laws of trellis coded quantization and of rate-aware rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from plisse.core.rounding import rate_aware_round
from plisse.core.stored import Stored, Trellis
from plisse.core.trellis import SEGMENT, prefers_trellis, trellis_quantize, trellis_values
from plisse.errors import InputError, WeightsError

N = 100_000


def samples(kind: str, n: int = N) -> np.ndarray:
    """Unit variance, float32."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=n) if kind == "gauss" else rng.laplace(size=n) / 2**0.5
    return values.astype(np.float32)


def entropy(symbols: np.ndarray) -> float:
    """Order-0, bits per symbol."""
    counts = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(counts * np.log2(counts)).sum())


def decibel(values: np.ndarray, decoded: np.ndarray) -> float:
    """Signal to noise."""
    noise = np.mean((values.astype(np.float64) - decoded) ** 2)
    return float(10 * np.log10(np.mean(values.astype(np.float64) ** 2) / noise))


def scalar_decibel(values: np.ndarray, bits: float) -> float:
    """What plain rounding reaches at the same entropy, by interpolation over steps."""
    points = []
    for step in np.geomspace(0.05, 4, 36):
        symbols = np.rint(values / np.float32(step)).astype(np.int32)
        points.append((entropy(symbols), decibel(values, symbols * np.float32(step))))
    rates, quality = zip(*sorted(points), strict=True)
    return float(np.interp(bits, rates, quality))


@pytest.mark.parametrize("kind", ["laplace", "gauss"])
@pytest.mark.parametrize("step", [0.42, 0.3, 0.2, 0.14])
def test_a_trellis_gains_most_of_the_granular_gain_at_equal_entropy(kind: str, step: float) -> None:
    values = samples(kind)
    for rate_weight in (0.0, 0.4):
        path = trellis_quantize(values, step, rate_weight)
        bits = entropy(path)
        assert 2.0 < bits < 4.2
        gain = decibel(values, trellis_values(path, step)) - scalar_decibel(values, bits)
        assert 0.85 < gain < 1.53


def test_a_rate_weight_pays_at_low_rate() -> None:
    values = samples("laplace")
    gains = []
    for rate_weight in (0.0, 0.4):
        path = trellis_quantize(values, 0.7, rate_weight)
        gains.append(decibel(values, trellis_values(path, 0.7)) - scalar_decibel(values, entropy(path)))
    assert gains[1] > gains[0] + 0.2


def test_half_the_step_gives_six_decibel_for_one_bit() -> None:
    values = samples("gauss")
    coarse, fine = (trellis_quantize(values, step) for step in (0.1, 0.05))
    quality = [decibel(values, trellis_values(p, s)) for p, s in ((coarse, 0.1), (fine, 0.05))]
    assert quality[1] - quality[0] == pytest.approx(6.02, abs=0.05)
    assert entropy(fine) - entropy(coarse) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("size", [0, 1, 2, 7, SEGMENT - 1, SEGMENT, SEGMENT + 1, 16 * SEGMENT + 5])
def test_values_that_are_levels_of_a_path_come_back_exactly(size: int) -> None:
    path = np.random.default_rng(size).integers(-40, 40, size).astype(np.int32)
    values = trellis_values(path, 0.375)
    again = trellis_quantize(values, 0.375)
    np.testing.assert_array_equal(trellis_values(again, 0.375), values)
    assert again.dtype == np.int32


def test_a_path_is_the_same_in_any_chunk_of_whole_segments() -> None:
    values = samples("laplace", 5 * SEGMENT + 17)
    whole = trellis_quantize(values, 0.3)
    parts = [trellis_quantize(values[i : i + SEGMENT], 0.3) for i in range(0, values.size, SEGMENT)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    np.testing.assert_array_equal(whole, trellis_quantize(values, 0.3))


def test_the_search_finds_the_cheapest_of_all_short_paths() -> None:
    values = np.random.default_rng(3).normal(size=5).astype(np.float32) * 2
    found = np.sum((trellis_values(trellis_quantize(values, 1.0), 1.0) - values) ** 2)
    grid = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 5, indexing="ij"), -1).reshape(-1, 5)
    errors = [np.sum((trellis_values(path, 1.0) - values) ** 2) for path in grid]
    assert found == pytest.approx(min(errors), rel=1e-6)


def test_symbols_are_small_where_values_are_small_in_every_state() -> None:
    values = samples("laplace")
    path = trellis_quantize(values, 0.2)
    level = np.abs(trellis_values(path, 0.2)) / 0.2
    np.testing.assert_allclose(level, np.abs(2 * path + 0.5), rtol=1e-6)


def test_extreme_values_and_steps_stay_finite() -> None:
    values = np.array([0.0, 3e38, -3e38, 1e-38, -1.0], np.float32)
    for step in (1e-30, 1.0, 1e30):
        decoded = trellis_values(trellis_quantize(values, step, 0.4), step)
        assert np.isfinite(decoded).all()
    zeros = trellis_values(trellis_quantize(np.zeros(3000, np.float32), 2.0, 0.4), 2.0)
    np.testing.assert_array_equal(np.abs(zeros), 1.0)


def test_stored_knows_the_trellis() -> None:
    values = samples("gauss", 600)
    stored = Stored(trellis_quantize(values, 0.25), (20, 30), Trellis(0.25))
    assert stored.values().shape == (20, 30)
    assert decibel(values, stored.values().reshape(-1)) > 15


def test_golden_values_of_a_path() -> None:
    path = np.array([0, 1, -1, 2, -2, 3, 0, 0, 5, -4], np.int32)
    np.testing.assert_array_equal(
        trellis_values(path, 2.0), np.array([1, 5, 3, 9, 7, 13, 1, -1, -21, 15], np.float32)
    )


@pytest.mark.parametrize("quantize", [trellis_quantize, rate_aware_round])
def test_what_cannot_be_quantized_is_refused(quantize: Callable[..., np.ndarray]) -> None:
    with pytest.raises(WeightsError):
        quantize(np.array([1.0, np.nan], np.float32), 1.0, 0.1)
    for scale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError):
            quantize(np.ones(3, np.float32), scale, 0.1)


@pytest.mark.parametrize("step", [3.0, 2.0, 1.4, 1.0, 0.7])
def test_rate_aware_rounding_is_no_worse_than_plain_at_equal_entropy(step: float) -> None:
    values = samples("laplace")
    for rate_weight in (0.03, 0.1):
        symbols = rate_aware_round(values, step, rate_weight)
        bits = entropy(symbols)
        if 0.3 < bits < 2.5:
            gain = decibel(values, symbols * np.float32(step)) - scalar_decibel(values, bits)
            assert gain > 0.1


def test_rounding_without_a_rate_is_rounding() -> None:
    values = samples("gauss", 5000)
    np.testing.assert_array_equal(rate_aware_round(values, 0.3, 0.0), np.rint(values / np.float32(0.3)))


def test_rounding_takes_a_scale_per_channel_and_empty_tensors() -> None:
    values = samples("gauss", 6000).reshape(3, 2000)
    scales = np.array([[0.1], [0.2], [0.4]], np.float32)
    symbols = rate_aware_round(values, scales, 0.05)
    assert symbols.shape == values.shape
    assert np.abs(symbols * scales - values).max() < 1.6 * 0.4
    assert rate_aware_round(np.zeros((0, 4), np.float32), 1.0, 0.1).shape == (0, 4)


@pytest.mark.parametrize("step", [0.2, 0.5, 0.8, 1.3, 2.0])
def test_the_trellis_is_preferred_where_its_cost_is_lower(step: float) -> None:
    values = samples("laplace")
    weight = 0.4  # of a bit, in squared steps of the trellis
    path = trellis_quantize(values, step, weight)
    symbols = rate_aware_round(values, 2 * step, weight / 4)
    costs = [
        np.mean((decoded - values) ** 2) / step**2 + weight * entropy(coded)
        for decoded, coded in ((trellis_values(path, step), path), (symbols * np.float32(2 * step), symbols))
    ]
    assert prefers_trellis(values, step) == (costs[0] < costs[1])


def test_the_trellis_is_not_for_sparse_or_empty_tensors() -> None:
    values = samples("gauss")
    values[: N // 2] = 0
    assert not prefers_trellis(values, 0.01)
    assert not prefers_trellis(values[:0], 0.01)
