"""Norms without running statistics, which are the same at every operating point (Nunez et al. 2021).

They need no table of statistics. They cannot be folded into the layer before them, take longer, and score
lower than batch norms with a table (`statistics`); they are here to compare, and for small batches.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from plisse.core import modules
from plisse.errors import InputError

MOST_GROUPS = 32


def without_statistics(model: nn.Module, groups: int | None = None) -> nn.Module:
    """A copy in which every batch norm is a group norm with the same weight and bias; to be trained.

    groups: of channels that are normalized together, at most; each channel alone (instance norm) for None,
    which widths need, since groups of several channels are cut apart by none.

    >>> without_statistics(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), groups=4)[1].num_groups
    4
    """
    if groups is not None and groups < 1:
        raise InputError(f"{groups} groups", expected="at least 1, or None")
    result = modules.clone(model)
    for name, norm in list(result.named_modules()):
        if isinstance(norm, _BatchNorm):
            channels = norm.num_features
            count = channels if groups is None else _divisor(channels, groups)
            replaced = nn.GroupNorm(count, channels, norm.eps, norm.affine)
            if norm.affine:
                modules.set_tensor(replaced, "weight", norm.weight)
                modules.set_tensor(replaced, "bias", norm.bias)
            modules.replace(result, name, replaced.train(norm.training))
    return result


def _divisor(channels: int, at_most: int) -> int:
    """The largest divisor of `channels` that is at most `at_most`."""
    return max(count for count in range(1, min(channels, at_most) + 1) if channels % count == 0)
