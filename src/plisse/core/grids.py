"""The grids that a plain network's tensors lie on, noted on it, so that its file can hold symbols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from plisse.core.stored import Stored

_ATTRIBUTE = "plisse_grids"


class _Noted:
    """Tensors by name; copies of a network share it, since nothing in it is changed."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.stored = dict(stored)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Noted:
        return self


def with_grids(model: nn.Module, stored: Mapping[str, Stored]) -> nn.Module:
    """Note on a plain network (in place) how some of its tensors are stored, by their names; gives the
    network. Copies keep it."""
    model.__dict__[_ATTRIBUTE] = _Noted(stored)
    return model


def on_its_grid(model: nn.Module, name: str, value: np.ndarray) -> Stored | None:
    """What was noted for a tensor, if that is still its value bit for bit."""
    noted = model.__dict__.get(_ATTRIBUTE)
    stored = None if noted is None else noted.stored.get(name)
    if stored is None or tuple(stored.shape) != value.shape:
        return None
    return stored if np.array_equal(stored.values(), value) else None
