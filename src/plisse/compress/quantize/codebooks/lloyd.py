"""k-means with a weight for every number of every point: seeding, Lloyd's iteration, assignment.

Minimises sum over points i and places j of w_ij (x_ij - c_a(i),j)^2. All in float64 and seeded, so that a
fit can be repeated.

Sources: Lloyd 1982, Least squares quantization in PCM; Arthur and Vassilvitskii 2007, k-means++; for starts
in one dimension Panter and Dite 1951 (density of levels as the cube root of the density of values).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 22
LARGEST, LARGEST_LINE = 1 << 16, 1 << 18
"""Fits look at this many points, or numbers, at most, drawn evenly; assignment looks at all."""
BINS = 4096


def kmeans(points: Tensor, weights: Tensor | None, k: int, iterations: int, seed: int = 0) -> Tensor:
    """At most k centroids [K, d] of points [n, d]: the distinct points themselves where they are no more.

    weights: [n, d], 0 or more, or None. iterations: Lloyd steps, 0 or more. The result is on the CPU.

    >>> kmeans(torch.tensor([[0.0], [1.0], [10.0]]), None, 2, 5).sort(0).values.flatten()
    tensor([ 0.5000, 10.0000], dtype=torch.float64)
    """
    flat = points.shape[1] == 1
    most = LARGEST_LINE if flat else LARGEST
    points = _sample(points, most, seed).double().cpu()
    weights = torch.ones_like(points) if weights is None else _sample(weights, most, seed).double().cpu()
    different = points.unique()[:, None] if flat else points.unique(dim=0)
    if len(different) <= k:
        return different
    start = seeded(points, weights, k, seed)
    if not flat:
        for _ in range(iterations):
            start = lloyd_step(points, weights, start)
        return start
    found = [_on_a_line(points, weights, each, iterations) for each in (start, _by_density(points, k))]
    return min(found, key=lambda centroids: distortion(points, weights, centroids))


def lloyd_step(points: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """Each centroid to the weighted mean of the points that are nearest to it; one without points goes to the
    point that is worst off. Never raises the distortion."""
    nearest = assign(points, weights, centroids)
    sums = torch.zeros_like(centroids).index_add_(0, nearest, weights * points)
    mass = torch.zeros_like(centroids).index_add_(0, nearest, weights)
    moved = torch.where(mass > 0, sums / mass.clamp_min(1e-300), centroids)
    empty = torch.bincount(nearest, minlength=len(centroids)) == 0
    if bool(empty.any()):
        errors = _errors(points, weights, moved, nearest)
        moved[empty] = points[errors.topk(int(empty.sum())).indices]
    return moved


def assign(points: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """The index of the nearest centroid for each point, int64 [n]."""
    if points.shape[1] == 1:
        levels, order = centroids[:, 0].sort()
        return order[torch.bucketize(points[:, 0].contiguous(), (levels[1:] + levels[:-1]) / 2)]
    rows = max(1, CHUNK // len(centroids))
    found = [
        (w @ centroids.square().T - 2 * ((w * x) @ centroids.T)).argmin(1)
        for x, w in zip(points.split(rows), weights.split(rows), strict=True)
    ]
    return torch.cat(found)


def distortion(points: Tensor, weights: Tensor, centroids: Tensor) -> float:
    """The sum that k-means minimises."""
    return float(_errors(points, weights, centroids, assign(points, weights, centroids)).sum())


def seeded(points: Tensor, weights: Tensor, k: int, seed: int) -> Tensor:
    """k of the points, each drawn with a probability in proportion to its error so far (k-means++)."""
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [first]
    errors = (weights * (points - points[first]).square()).sum(1)
    for _ in range(k - 1):
        total = errors.cumsum(0)
        draw = torch.rand((), generator=generator, dtype=torch.float64) * total[-1]
        chosen.append(min(int(torch.searchsorted(total, draw, right=True)), len(points) - 1))
        errors = torch.minimum(errors, (weights * (points - points[chosen[-1]]).square()).sum(1))
    return points[chosen].clone()


def _on_a_line(points: Tensor, weights: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Lloyd steps on points [n, 1], by sums over runs of the sorted points."""
    values, order = points[:, 0].sort()
    mass = weights[order, 0].cumsum(0)
    moment = (weights[order, 0] * values).cumsum(0)
    levels = centroids[:, 0].sort().values
    ends = torch.tensor([len(values)])
    for _ in range(iterations):
        cuts = torch.searchsorted(values, (levels[1:] + levels[:-1]) / 2, right=True)
        cuts = torch.cat([cuts, ends])
        m, s = (F.pad(F.pad(total, (1, 0))[cuts], (1, 0)).diff() for total in (mass, moment))
        moved = torch.where(m > 0, s / m.clamp_min(1e-300), levels).sort().values
        if torch.equal(moved, levels):
            break
        levels = moved
    return levels[:, None]


def _by_density(points: Tensor, k: int) -> Tensor:
    """k levels for points [n, 1], as dense as the cube root of the points' density."""
    values = points[:, 0].contiguous()
    low, high = values.aminmax()
    counts = torch.histc(values, BINS, float(low), float(high))
    total = counts.pow(1 / 3).cumsum(0)
    wanted = (torch.arange(k, dtype=torch.float64) + 0.5) / k * total[-1]
    places = torch.searchsorted(total, wanted).double() + 0.5
    return (low + (high - low) * places / BINS)[:, None]


def _errors(points: Tensor, weights: Tensor, centroids: Tensor, nearest: Tensor) -> Tensor:
    return (weights * (points - centroids[nearest]).square()).sum(1)


def _sample(points: Tensor, most: int, seed: int) -> Tensor:
    if len(points) <= most:
        return points
    pick = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:most]
    return points[pick.to(points.device)]
