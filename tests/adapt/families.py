"""Small families of networks, and profiles, that the tests of running elastic networks share."""

from __future__ import annotations

import torch
from torch import nn

from plisse.adapt.elastic import Point, Switching
from plisse.adapt.family import family
from plisse.cost.budget import Cost
from plisse.cost.profile import Profile, ProfileRow

WIDTHS = (0.25, 0.5, 1.0)


def constant(value: float) -> nn.Linear:
    """A network of two classes whose first logit is `value`, whatever comes."""
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([value, 0.0]))
    return layer


def constants() -> Switching:
    """Three networks that tell by their output which of them ran: the width is the first logit."""
    return family({Point("width", width): constant(width) for width in WIDTHS})


def made_profile(n_rows: int = 3, step: float = 2.0) -> Profile:
    """Rows width=1/n to width=1; each takes `step` times as long as the one before, from 1 ms."""
    rows = []
    for place in range(n_rows):
        size = 1000 * (place + 1)
        cost = Cost(size, 4 * size, 100 * size, 0.001 * step**place, 0.0)
        width = WIDTHS[place] if n_rows == 3 else (place + 1) / n_rows
        rows.append(ProfileRow(f"width={width:g}", cost, 0.5 + 0.1 * place))
    return Profile(tuple(rows), {"batch": 1, "inputs": {"": {"shape": [4], "type": "float32"}}})
