"""Motion of blocks: the decoded frame before, moved by quarter pixels, in integers that all machines agree
on."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

SUB = 4
"""Vectors count in quarters of a luma pixel."""
UNIT = 64
"""Moved pixels count in 1/64 of a step of 8 bits."""
TAPS = np.array(
    [
        [0, 0, 0, 64, 0, 0, 0, 0], [-1, 4, -10, 58, 17, -5, 1, 0],
        [-1, 4, -11, 40, 40, -11, 4, -1], [0, 1, -5, 17, 58, -10, 4, -1],
    ],
    np.int32,
)  # fmt: skip
"""Interpolation filters for 0, 1/4, 1/2 and 3/4 of a pixel (ITU-T H.265, table 8-11), in 1/64."""
SMALL, LARGE = 8, 16
"""Vectors belong to blocks of 16 x 16 luma pixels, or to four of 8 x 8 each."""


def enlarged(plane: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> int16 [4H, 4W] in 1/64: the pixels and what lies between them; borders repeat.

    >>> enlarged(np.full((2, 2), 3, np.uint8)).tolist()[0]
    [192, 192, 192, 192, 192, 192, 192, 192]
    """
    wide = _along(_along(plane.astype(np.int32), 1), 0)
    wide += UNIT // 2
    wide >>= 6
    return wide.astype(np.int16)


def _along(plane: np.ndarray, axis: int) -> np.ndarray:
    length = plane.shape[axis]
    place = np.arange(length)
    out = np.zeros((*plane.shape[:axis], SUB * length, *plane.shape[axis + 1 :]), np.int32)
    target = np.moveaxis(out, axis, 0)
    source = np.moveaxis(plane, axis, 0)
    for k in range(8):
        moved = source[np.clip(place + k - 3, 0, length - 1)]
        for phase in range(SUB):
            target[phase::SUB] += TAPS[phase, k] * moved
    return out


@njit(cache=True, nogil=True)
def moved_luma(up, vectors, out):  # type: ignore[no-untyped-def]
    """out [H, W] of luma in 1/64, each 8 x 8 block of it moved by vectors [H/8, W/8, 2] (down, right)."""
    bottom, right = up.shape[0] - 1, up.shape[1] - 1
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            v = vectors[y >> 3, x >> 3]
            out[y, x] = up[min(max(4 * y + v[0], 0), bottom), min(max(4 * x + v[1], 0), right)]


@njit(cache=True, nogil=True)
def moved_chroma(up, vectors, out):  # type: ignore[no-untyped-def]
    """The same for a chroma plane: eighths of its pixels, means of neighbouring quarters."""
    bottom, right = up.shape[0] - 1, up.shape[1] - 1
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            v = vectors[y >> 2, x >> 2]
            i, j = 8 * y + v[0], 8 * x + v[1]
            top, left = min(max(i >> 1, 0), bottom), min(max(j >> 1, 0), right)
            low, far = min(max((i + 1) >> 1, 0), bottom), min(max((j + 1) >> 1, 0), right)
            out[y, x] = (up[top, left] + up[top, far] + np.int32(up[low, left]) + up[low, far] + 2) >> 2


@njit(cache=True, nogil=True)
def median_of(vectors, row, column, axis):  # type: ignore[no-untyped-def]
    """What a vector of [R, C, 2] is predicted by: the median of those to the left, above, and above to the
    right."""
    left = vectors[row, column - 1, axis] if column else 0
    if row == 0:
        return left
    above = vectors[row - 1, column, axis]
    across = column ^ 1 if row & 1 else column + 2  # of vectors that are coded already
    beside = vectors[row - 1, across, axis] if across < vectors.shape[1] else above
    if column == 0:
        left = beside
    return max(min(left, above), min(max(left, above), beside))


@njit(cache=True, nogil=True)
def _error(image, up, y, x, size, dy, dx, bound):  # type: ignore[no-untyped-def]
    """Squared differences of a block to the reference moved by (dy, dx), in 1/64^2; stops above `bound`."""
    bottom, right, total = up.shape[0] - 1, up.shape[1] - 1, np.int64(0)
    last_row, last_column = min(y + size, image.shape[0]), min(x + size, image.shape[1])
    for i in range(y, last_row):
        r = min(max(4 * i + dy, 0), bottom)
        for j in range(x, last_column):
            d = np.int64(image[i, j]) - up[r, min(max(4 * j + dx, 0), right)]
            total += d * d
        if total > bound:
            return total
    return total


@njit(cache=True, nogil=True)
def vector_bits(r):  # type: ignore[no-untyped-def]
    """About what a difference to the prediction costs."""
    size, bits = abs(r), 0.6
    if size:
        bits = 2.5
        while size > 1:
            size >>= 1
            bits += 1.6
    return bits


@njit(cache=True, nogil=True)
def _searched(image, up, y, x, size, reach, py, px, past, weight, best):  # type: ignore[no-untyped-def]
    """The best vector of a block, into best[0:2]; its cost in 1/64^2. weight: cost of a bit."""
    cost = np.inf
    for dy, dx in ((py, px), (0, 0), (past[0], past[1])):
        bits = vector_bits(dy - py) + vector_bits(dx - px)
        now = _error(image, up, y, x, size, dy, dx, cost) + weight * bits
        if now < cost:
            cost, best[0], best[1] = now, dy, dx
    centre_y, centre_x = best[0] >> 2 << 2, best[1] >> 2 << 2
    for dy in range(centre_y - 4 * reach, centre_y + 4 * reach + 1, 4):
        for dx in range(centre_x - 4 * reach, centre_x + 4 * reach + 1, 4):
            bits = vector_bits(dy - py) + vector_bits(dx - px)
            now = _error(image, up, y, x, size, dy, dx, cost - weight * bits) + weight * bits
            if now < cost:
                cost, best[0], best[1] = now, dy, dx
    for step in (2, 1, 1):
        my, mx = best[0], best[1]
        for dy in (my - step, my, my + step):
            for dx in (mx - step, mx, mx + step):
                bits = vector_bits(dy - py) + vector_bits(dx - px)
                now = _error(image, up, y, x, size, dy, dx, cost - weight * bits) + weight * bits
                if now < cost:
                    cost, best[0], best[1] = now, dy, dx
    return cost


@njit(cache=True, nogil=True)
def search(image, up, past, reach, weight, vectors, split):  # type: ignore[no-untyped-def]
    """Fill vectors [H/8, W/8, 2] and split [H/16, W/16] (1 where four vectors pay) for image [H, W] in 1/64.

    past: vectors of the frame before. reach: pixels that are searched each way. weight: cost of a bit,
    1/64^2.
    """
    best, small = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for row in range(split.shape[0]):
        for column in range(split.shape[1]):
            r, c = 2 * row, 2 * column
            py, px = median_of(vectors, r, c, 0), median_of(vectors, r, c, 1)
            whole = _searched(image, up, 8 * r, 8 * c, 16, reach, py, px, past[r, c], weight, best)
            wy, wx = best[0], best[1]
            parts = weight * 2.0
            for k in range(4):
                i, j = r + (k >> 1), c + (k & 1)
                py, px = median_of(vectors, i, j, 0), median_of(vectors, i, j, 1)
                small[0], small[1] = wy, wx
                parts += _searched(
                    image, up, 8 * i, 8 * j, 8, min(reach, 4), py, px, small.copy(), weight, best
                )
                vectors[i, j, 0], vectors[i, j, 1] = best[0], best[1]
                if parts >= whole:
                    break
            split[row, column] = parts < whole
            if parts >= whole:
                for k in range(4):
                    i, j = r + (k >> 1), c + (k & 1)
                    vectors[i, j, 0], vectors[i, j, 1] = wy, wx


@cache
def cosines(n: int) -> np.ndarray:
    """The orthonormal cosine basis (DCT-II) [n, n], a row per frequency."""
    k, x = np.arange(n)[:, None], np.arange(n)[None]
    basis = np.sqrt(2 / n) * np.cos(np.pi * (2 * x + 1) * k / (2 * n))
    basis[0] = np.sqrt(1 / n)
    return np.asarray(basis, np.float64)


@cache
def diagonals(n: int) -> np.ndarray:
    """Places of an n x n block by diagonals, low frequencies first, int64 [n n]."""
    places = sorted(range(n * n), key=lambda p: (p // n + p % n, p // n))
    return np.array(places, np.int64)


def analysed(plane: np.ndarray, n: int) -> np.ndarray:
    """[H, W] -> cosine coefficients of n x n blocks, by diagonals: [H/n, W/n, n n], float64."""
    rows, columns = plane.shape[0] // n, plane.shape[1] // n
    blocks = plane.reshape(rows, n, columns, n).transpose(0, 2, 1, 3).astype(np.float64)
    basis = cosines(n)
    return np.asarray((basis @ blocks @ basis.T).reshape(rows, columns, n * n)[..., diagonals(n)])


def synthesised(coefficients: np.ndarray, n: int) -> np.ndarray:
    """The inverse of `analysed`."""
    rows, columns, _ = coefficients.shape
    blocks = np.empty_like(coefficients)
    blocks[..., diagonals(n)] = coefficients
    basis = cosines(n)
    made = basis.T @ blocks.reshape(rows, columns, n, n) @ basis
    return np.asarray(made.transpose(0, 2, 1, 3).reshape(rows * n, columns * n))
