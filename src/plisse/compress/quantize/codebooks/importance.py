"""How much the error of each weight matters, for grids that are fitted to it."""

from __future__ import annotations

import torch
from torch import Tensor

from plisse.errors import InputError


def spread_importance(importance: Tensor | None, values: Tensor) -> Tensor | None:
    """Importance of every value: as given, in the shape of the values; per input channel [I], the second
    axis of the weight; or None. Mean squares of a layer's inputs make the fit activation-aware (Stock et al.
    2020); a curvature, such as the second moments of Adam, makes it loss-aware (Hou et al. 2017).

    Raises InputError where it fits neither way, or holds a negative or infinite number, or NaN.
    """
    if importance is None:
        return None
    found = importance.detach().float()
    if found.shape != values.shape and values.dim() > 1 and found.shape == values.shape[1:2]:
        found = found.reshape(-1, *[1] * (values.dim() - 2)).expand(values.shape)
    if found.shape != values.shape:
        raise InputError(
            f"importance of shape {tuple(importance.shape)} for a weight {tuple(values.shape)}",
            expected="the shape of the weight, or one number per input channel",
        )
    if not bool(torch.isfinite(found).all()) or bool((found < 0).any()) or not bool((found > 0).any()):
        raise InputError("importance that is negative, infinite, NaN or all zero", expected="0 or more")
    return found
