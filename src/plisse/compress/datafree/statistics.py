"""What a network knows of its training data: mean and deviation of every channel before its batch norms, or
after layers into which a batch norm was folded; and the same measured on any batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from plisse.compress.datafree.divergence import KL, MomentDivergence
from plisse.core.hooks import after_calls, before_calls
from plisse.core.keptstatistics import is_blank
from plisse.core.reparam import plain
from plisse.errors import GraphError, InputError

EPS = 1e-5
"""Added to every variance, measured or stored, as batch norm does: dead channels count as equal."""

KEPT_MEAN, KEPT_STD = "kept_mean", "kept_std"
"""Buffers [C] of a layer that a batch norm was folded into: moments of its output on the training data."""

Targets = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Moments:
    """n values per channel, their mean and (biased) variance, [C] or [N, C] for every image by itself."""

    n: int
    mean: Tensor
    variance: Tensor

    @property
    def std(self) -> Tensor:
        """sqrt(unbiased variance + EPS)."""
        return (self.variance * (self.n / max(self.n - 1, 1)) + EPS).sqrt()

    def joined(self, other: Moments) -> Moments:
        """The moments of both sets of values together (Chan, Golub and LeVeque 1979)."""
        n = self.n + other.n
        mine, theirs = self.n / n, other.n / n
        apart = other.mean - self.mean
        variance = mine * self.variance + theirs * other.variance + mine * theirs * apart.square()
        return Moments(n, self.mean + theirs * apart, variance)

    def detached(self) -> Moments:
        return Moments(self.n, self.mean.detach(), self.variance.detach())


def moments(value: Tensor, per_image: bool = False) -> Moments:
    """Moments of a tensor [N, C, ...] over all but C, or over all but N and C with `per_image`.

    >>> found = moments(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> found.n, found.mean.tolist(), found.variance.tolist()
    (2, [2.0, 0.0], [1.0, 0.0])
    """
    if per_image and value.dim() < 3:
        raise InputError(f"values of shape {tuple(value.shape)} one image at a time", expected="[N, C, H, W]")
    rows = value.movedim(1, -1)  # [N, H, W, C]: no copy in channels-last order
    rows = rows.reshape(len(value) if per_image else 1, -1, value.shape[1])
    mean, variance = _MeanVariance.apply(rows)
    return Moments(rows.shape[1], *((mean, variance) if per_image else (mean[0], variance[0])))


class _MeanVariance(torch.autograd.Function):
    """Mean and variance [A, C] of [A, B, C] over B, in float32, in few passes over memory, where
    torch's own took most of the time of an iteration."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        values = rows.float()
        mean = values.mean(1, keepdim=True)
        apart = values - mean
        ctx.save_for_backward(apart)
        ctx.dtype = rows.dtype
        return mean[:, 0], (apart * apart).mean(1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (apart,) = ctx.saved_tensors
        level, tilt = (slope[:, None] / apart.shape[1] for slope in slopes)
        return torch.addcmul(level, apart, 2 * tilt).to(ctx.dtype)


def targets(model: nn.Module) -> Targets:
    """Layer name to (mean [C], std [C]) that training data had there, detached; empty where nothing is known.

    A batch norm's entry is about its input, from its running statistics; that of another layer about its
    output, from its buffers `kept_mean` and `kept_std`. Deviations are sqrt(variance + EPS). Batch norms that
    were never trained, or whose statistics `AbsorbStatistics()` has moved into their affine map, say nothing
    themselves; AbsorbStatistics(keep_statistics=True) hangs those of their outputs on them.

    >>> net = nn.Sequential(nn.BatchNorm1d(3))
    >>> _ = net(torch.eye(3))
    >>> {name: tuple(mean.shape) for name, (mean, std) in targets(net).items()}
    {'0': (3,)}
    """
    found: Targets = {}
    for name, module in plain(model).named_modules():
        mean, variance = _stored(module)
        if mean is not None and variance is not None:
            found[name] = mean.detach().float(), (variance.detach().float() + EPS).sqrt()
    return found


def required_targets(model: nn.Module) -> Targets:
    """`targets`, or GraphError with the options there are for a network without any."""
    found = targets(model)
    if not found:
        raise GraphError(
            f"a {type(model).__name__} without batch-norm statistics, stored or kept",
            expected="running statistics, or a file folded or absorbed with keep_statistics=True",
            hint="scheme=ClassLogits() or Gaussian(), which need none, or another network with batch norm",
        )
    return found


@contextmanager
def observing(
    model: nn.Module, names: Mapping[str, Any], per_image: bool = False
) -> Iterator[dict[str, Moments]]:
    """A table that holds, after each call of the network inside, the moments at every layer of `names`.

    A layer that is called several times adds to its entry: clear the table between batches. Gradients flow.
    """
    inner, table = plain(model), dict[str, Moments]()

    def note(name: str, value: Tensor) -> None:
        found = moments(value, per_image)
        table[name] = table[name].joined(found) if name in table else found

    layers = {name: inner.get_submodule(name) for name in names}
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, _BatchNorm)}
    others = {name: layer for name, layer in layers.items() if name not in norms}
    with (
        before_calls(norms, lambda name, _, came: note(name, came[0])),
        after_calls(others, lambda name, _, __, output: note(name, output)),
    ):
        yield table


def layer_divergences(
    measured: Mapping[str, Moments], wanted: Targets, divergence: MomentDivergence = KL()
) -> dict[str, Tensor]:
    """Layer name to the mean over its channels of divergence(measured, wanted), scalars with gradient."""
    return {
        name: divergence(measured[name].mean, measured[name].std, mean, std).mean()
        for name, (mean, std) in wanted.items()
        if name in measured
    }


def bns(measured: Mapping[str, Moments], wanted: Targets, divergence: MomentDivergence = KL()) -> Tensor:
    """The batch-norm-statistics loss: mean over layers of `layer_divergences`, a scalar with gradient.

    Source: Haroush et al. 2020, section 3.3. Raises GraphError where no layer was called.
    """
    layers = layer_divergences(measured, wanted, divergence)
    if not layers:
        raise GraphError("a network that calls none of the layers with statistics", expected="at least one")
    return torch.stack(list(layers.values())).mean()


def _stored(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Mean and variance."""
    if isinstance(module, _BatchNorm):
        return (None, None) if is_blank(module) else (module.running_mean, module.running_var)
    mean, std = getattr(module, KEPT_MEAN, None), getattr(module, KEPT_STD, None)
    return mean, None if std is None else std.square()
