"""Trellis coded quantization: a scalar quantizer with memory, about 1.1 dB better at the same rate.

The levels ±Δ/2, ±3Δ/2, ... are dealt in turn to four subsets D0, D1, D2, D3: the level (n + 1/2)Δ belongs to
D[n mod 4]. A trellis of eight states (Ungerboeck's code of rate 1/2) lets a sample use the superset
A0 = D0 + D2 or A1 = D1 + D3, depending on the state; which of its two subsets was used gives the next state.
A sample thus costs the rate of a scalar quantizer of step 2Δ, while the search among paths shapes the error:
8 states give 1.1 dB of the 1.53 dB that any quantizer can gain over a scalar one at high rate.

A1 is the mirror image of A0, so both carry symbols of the same distribution and one entropy table serves all
states, without the coder knowing the state (the symmetric codebook of Marcellin 1994):

    symbol j  means  (2j + 1/2)Δ in A0,  -(2j + 1/2)Δ in A1;  even j is D0 or D3, odd j is D2 or D1

The path starts anew in state 0 every SEGMENT values, so that LANES segments are searched side by side.
There is no level zero: below about one bit per value, and for sparse tensors, round to a scalar grid instead.

Marcellin and Fischer, Trellis coded quantization of memoryless and Gauss-Markov sources, 1990; Fischer and
Wang, Entropy-constrained trellis-coded quantization, 1992; Marcellin, On entropy-constrained trellis coded
quantization, 1994; Ungerboeck, Channel coding with multilevel/phase signals, 1982.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from plisse.core.rounding import check_scale, chunks_of, code_lengths, histogram, in_steps
from plisse.errors import WeightsError

N_STATES = 8
SEGMENT = 256
LANES = 16
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)
TILE = 32  # steps at a time, so that their costs stay in the nearest cache
LIMIT = 1 << 20  # levels that the search reaches, in steps; all of them are exact in float32
HALF_TABLE = 1 << 10  # levels with a rate of their own on each side; further ones cost as much as the last
SEARCHES = 2
FEWEST_BITS, MOST_ZEROS = 1.2, 0.3

# From state s an even symbol leads to NEXT[s, 0], an odd one to NEXT[s, 1]. Even states use A0, odd ones A1.
NEXT = np.array([[0, 1], [3, 2], [5, 4], [6, 7], [1, 0], [2, 3], [4, 5], [7, 6]], np.uint8)
# Subset of the branch into state t from its predecessor t/2; the one from t/2 + 4 has the other of the pair.
ENTERED_BY = np.array([0, 2, 1, 3, 2, 0, 3, 1], np.uint8)


def trellis_values(symbols: np.ndarray, scale: float) -> np.ndarray:
    """The values of a path of symbols: one exact float32 level times the float32 scale each.

    symbols: integers [N]; scale: step of the union codebook, > 0. Returns float32 [N].

    >>> trellis_values(np.array([0, 1, -1]), 1.0)
    array([0.5, 2.5, 1.5], dtype=float32)
    """
    flat = np.ascontiguousarray(symbols.reshape(-1), np.int32)
    return _values(flat, np.float32(scale), NEXT)


def trellis_quantize(values: np.ndarray, scale: float, rate_weight: float = 0.0) -> np.ndarray:
    """The path of symbols that minimises squared error / scale² + rate_weight · bits (Viterbi 1967).

    values: finite floats [N]; scale: step of the union codebook, > 0; rate_weight: 0 for least error, near
    0.4 the trade is optimal at middle and high rate. Bits are those of an ideal order-0 code, found by
    searching a sample of the values a few times. Returns int32 [N].

    Raises WeightsError for values that are not finite, InputError for a scale that is not positive.

    >>> path = trellis_quantize(np.array([0.4, 2.6, 1.5], np.float32), 1.0)
    >>> trellis_values(path, 1.0)
    array([0.5, 2.5, 1.5], dtype=float32)
    """
    check_scale(scale)
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    rates = np.zeros(2 * HALF_TABLE, np.float32)
    if rate_weight > 0 and flat.size:
        rates = _estimated_rates(in_steps(chunks_of(flat), scale, LIMIT), rate_weight)
    path, finite = _search(flat, np.float32(scale), rates)
    if not finite:
        raise WeightsError("a NaN or infinity to quantize", expected="finite values")
    return path


def prefers_trellis(values: np.ndarray, scale: float) -> bool:
    """Whether a path of step `scale` is likely shorter than a scalar grid of step 2 · scale at equal error.

    True where plain rounding to that grid takes at least FEWEST_BITS and few values are exactly zero.

    >>> rng = np.random.default_rng(0)
    >>> prefers_trellis(rng.normal(size=2000), 0.2), prefers_trellis(rng.normal(size=2000), 2.0)
    (True, False)
    """
    sample = in_steps(chunks_of(values.reshape(-1)), 2 * scale, LIMIT)
    return bool(sample.size and _prefers(sample))


@njit(cache=True, nogil=True)
def _prefers(sample):  # type: ignore[no-untyped-def]
    if (sample == 0).sum() > MOST_ZEROS * sample.size:
        return False
    counts = histogram(sample, 1.0, 0.5, HALF_TABLE)
    return (counts * code_lengths(counts)).sum() >= FEWEST_BITS * sample.size


@njit(cache=True, nogil=True)
def _estimated_rates(sample, rate_weight):  # type: ignore[no-untyped-def]
    """rate_weight · bits of each level (not symbol), from repeated searches through a sample."""
    counts = _expected_counts(sample)
    for _ in range(SEARCHES):
        path, _ = _search(sample, np.float32(1), _level_rates(counts, rate_weight))
        counts = histogram(path, 1.0, 0.0, HALF_TABLE // 2)[:-1].astype(np.float64)
    return _level_rates(counts, rate_weight)


@njit(cache=True, nogil=True)
def _expected_counts(scaled):  # type: ignore[no-untyped-def]
    """Of each symbol -HALF_TABLE/2 ... HALF_TABLE/2-1, if A0 and A1 were used alike, by rounding."""
    counts = histogram(scaled, 1.0, 0.0, HALF_TABLE)[:-1]  # of levels n, by floor
    near = counts + (np.roll(counts, 1) + np.roll(counts, -1)) / 2  # a cell of the superset is two steps wide
    return (near[0::2] + near[1::2][::-1]) / 4


@njit(cache=True, nogil=True)
def _level_rates(counts, rate_weight):  # type: ignore[no-untyped-def]
    """Rates by level n = -HALF_TABLE ... HALF_TABLE-1: symbol n/2 for even n, -(n+1)/2 for odd n."""
    bits, rates = code_lengths(counts), np.empty(2 * HALF_TABLE, np.float32)
    for k in range(HALF_TABLE):
        rates[2 * k] = rate_weight * bits[k]
        rates[2 * k + 1] = rate_weight * bits[HALF_TABLE - 1 - k]
    return rates


@njit(cache=True, nogil=True)
def _values(symbols: np.ndarray, scale: np.float32, following: np.ndarray) -> np.ndarray:
    values = np.empty(symbols.size, np.float32)
    state = np.uint8(0)
    for i in range(symbols.size):
        if i % SEGMENT == 0:
            state = np.uint8(0)
        symbol = np.int64(symbols[i])
        level = np.float32(2 * symbol + 0.5)
        values[i] = -level * scale if state & 1 else level * scale
        state = following[state, symbol & 1]
    return values


@njit(cache=True, nogil=True)
def _search(values: np.ndarray, scale: np.float32, rates: np.ndarray) -> tuple[np.ndarray, bool]:
    """The cheapest path of float32 values [N], and whether all are finite. rates: of each level."""
    symbols, finite = np.empty(values.size, np.int32), True
    costs, work = np.empty(TILE * LANES * 4, np.float32), np.zeros(TILE * LANES * 10, np.float32)
    firsts, uppers = np.empty(SEGMENT * LANES, np.int32), np.empty(SEGMENT * LANES * 4, np.uint8)
    starts, decisions = np.empty(TILE * LANES, np.int32), np.empty(SEGMENT * LANES, np.uint8)
    for begin in range(0, values.size, SEGMENT * LANES):
        count = min(values.size - begin, SEGMENT * LANES)
        n_lanes = (count + SEGMENT - 1) // SEGMENT
        short = count - (n_lanes - 1) * SEGMENT  # values in the last lane
        metrics = np.full(N_STATES * LANES, np.float32(1e30), np.float32)
        metrics[:LANES] = 0
        last, step = 0, 0
        while step < (SEGMENT if n_lanes > 1 else short):
            stop = min(step + TILE, short if step < short else SEGMENT)
            lanes = n_lanes if step < short else n_lanes - 1
            tile = slice(step * LANES, stop * LANES)
            finite &= _deal(values[begin + step :], scale, lanes, stop - step, work)
            _subset_costs(
                work, starts, rates, costs, firsts[tile], uppers[4 * step * LANES : 4 * stop * LANES]
            )
            _advance(costs, decisions[tile], metrics, stop - step)
            step = stop
            if step == short:
                last = int(np.argmin(metrics[n_lanes - 1 :: LANES]))
        for lane in range(n_lanes):
            first = begin + lane * SEGMENT
            part = symbols[first : min(first + SEGMENT, values.size)]
            end = last if lane == n_lanes - 1 else int(np.argmin(metrics[lane::LANES]))
            _trace(decisions[lane:], end, part.size)
            _symbols_of(firsts[lane:], uppers[4 * lane :], decisions[lane:], part)
    return symbols, finite


@njit(cache=True, nogil=True, error_model="numpy")
def _deal(values: np.ndarray, scale: np.float32, lanes: int, count: int, out: np.ndarray) -> bool:
    """Value i of each lane in steps, as out[i * LANES + lane]; nothing for lanes that have ended. Returns
    whether all are finite."""
    finite, limit = True, np.float32(LIMIT)
    for lane in range(lanes):
        part = values[lane * SEGMENT : lane * SEGMENT + count]
        for i in range(count):
            finite &= abs(part[i]) < np.inf
            z = part[i] / scale
            z = z if z < limit else limit
            out[i * LANES + lane] = z if z > -limit else -limit
    return finite


@njit(cache=True, nogil=True)
def _subset_costs(
    work: np.ndarray,
    starts: np.ndarray,
    rates: np.ndarray,
    costs: np.ndarray,
    firsts: np.ndarray,
    uppers: np.ndarray,
) -> None:
    """Of eight levels around each sample, starting at one of D0, the better one in each subset.

    work: the samples, and behind them room. Written: costs[sample, subset]; the first level; and 4 for the
    upper level of a subset, else 0. In three loops, so that each becomes vector code.
    """
    n, half, top = firsts.size, np.int32(rates.size // 2), np.int32(rates.size - 8)
    rest, low, high = work[n : 2 * n], work[2 * n : 6 * n], work[6 * n : 10 * n]
    for j in range(n):
        quad = np.floor((work[j] - np.float32(2)) * np.float32(0.25))
        rest[j] = work[j] - quad * np.float32(4) - np.float32(0.5)
        firsts[j] = np.int32(quad) * np.int32(4)
        place = firsts[j] + half
        place = place if place > 0 else np.int32(0)
        starts[j] = place if place < top else top
    for j in range(n):
        s, p, a = np.uint64(starts[j]), np.uint64(4 * j), rest[j]
        r0, r1, r2, r3 = rates[s], rates[s + ONE], rates[s + TWO], rates[s + THREE]
        s += np.uint64(4)
        r4, r5, r6, r7 = rates[s], rates[s + ONE], rates[s + TWO], rates[s + THREE]
        b, c, d = a - np.float32(1), a - np.float32(2), a - np.float32(3)
        e, f, g, h = a - np.float32(4), a - np.float32(5), a - np.float32(6), a - np.float32(7)
        low[p], low[p + ONE], low[p + TWO], low[p + THREE] = a * a + r0, b * b + r1, c * c + r2, d * d + r3
        high[p], high[p + ONE], high[p + TWO], high[p + THREE] = (
            e * e + r4,
            f * f + r5,
            g * g + r6,
            h * h + r7,
        )
    for m in range(4 * n):
        below, above = low[m], high[m]
        costs[m] = above if above < below else below
        uppers[m] = np.uint8(above < below) << 2


@njit(cache=True, nogil=True)
def _advance(costs: np.ndarray, decisions: np.ndarray, m: np.ndarray, count: int) -> None:
    """Add, compare, select for each step and lane. m: cost of the best path into each state, [8, LANES].

    Bit t of a decision says that state t was entered from the upper of its two predecessors, which are
    t/2 and t/2 + 4. Written out without arrays or branches, so that the loop over lanes becomes vector code.
    """
    for i in range(count):
        for k in range(LANES):
            p = (i * LANES + k) * 4
            d0, d1, d2, d3 = costs[p], costs[p + 1], costs[p + 2], costs[p + 3]
            m0, m1, m2, m3 = m[k], m[k + LANES], m[k + 2 * LANES], m[k + 3 * LANES]
            m4, m5, m6, m7 = m[k + 4 * LANES], m[k + 5 * LANES], m[k + 6 * LANES], m[k + 7 * LANES]
            a0, b0 = m0 + d0, m4 + d2
            a1, b1 = m0 + d2, m4 + d0
            a2, b2 = m1 + d1, m5 + d3
            a3, b3 = m1 + d3, m5 + d1
            a4, b4 = m2 + d2, m6 + d0
            a5, b5 = m2 + d0, m6 + d2
            a6, b6 = m3 + d3, m7 + d1
            a7, b7 = m3 + d1, m7 + d3
            low = np.int32(b0 < a0) | np.int32(b1 < a1) << 1 | np.int32(b2 < a2) << 2 | np.int32(b3 < a3) << 3
            top = np.int32(b4 < a4) | np.int32(b5 < a5) << 1 | np.int32(b6 < a6) << 2 | np.int32(b7 < a7) << 3
            decisions[i * LANES + k] = low | top << 4
            c0 = b0 if b0 < a0 else a0
            m[k] = np.float32(0)
            m[k + LANES] = (b1 if b1 < a1 else a1) - c0
            m[k + 2 * LANES] = (b2 if b2 < a2 else a2) - c0
            m[k + 3 * LANES] = (b3 if b3 < a3 else a3) - c0
            m[k + 4 * LANES] = (b4 if b4 < a4 else a4) - c0
            m[k + 5 * LANES] = (b5 if b5 < a5 else a5) - c0
            m[k + 6 * LANES] = (b6 if b6 < a6 else a6) - c0
            m[k + 7 * LANES] = (b7 if b7 < a7 else a7) - c0


@njit(cache=True, nogil=True)
def _trace(decisions: np.ndarray, end: int, count: int) -> None:
    """Walk one lane back from state `end`; each decision is replaced by the subset that was used."""
    state = np.uint8(end)
    for i in range(count - 1, -1, -1):
        upper = (decisions[i * LANES] >> state) & 1
        decisions[i * LANES] = ENTERED_BY[state] ^ (upper << 1)
        state = np.uint8((state >> 1) + 4 * upper)


@njit(cache=True, nogil=True)
def _symbols_of(firsts: np.ndarray, uppers: np.ndarray, subsets: np.ndarray, symbols: np.ndarray) -> None:
    """The symbol of each sample's better level in the subset that the path uses."""
    for i in range(symbols.size):
        subset = np.int32(subsets[i * LANES])
        level = firsts[i * LANES] + subset + np.int32(uppers[i * 4 * LANES + subset])
        symbols[i] = (level >> 1) ^ -(level & 1)  # level/2 if even, -(level+1)/2 if odd
