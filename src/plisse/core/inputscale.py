"""A factor per input channel that hangs on a layer, where it cannot be folded into what comes before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plisse.core.hooks import hang_before


class InputScale(nn.Module):
    """Multiplies the first input of a layer by `factor` [D] along the last axis, before it is rounded.

    width: D. Attached as the child `input_scale` with a forward pre-hook that runs before all others. Costs
    one multiplication per value.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(width))

    def forward(self, value: Tensor) -> Tensor:
        return value * self.factor.to(value.dtype)

    def attach(self, layer: nn.Module) -> None:
        """Hang this on `layer`, in place of one that hangs there already."""
        hang_before(layer, "input_scale", self, first=True)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that are structure; the factors travel as a tensor."""
        return {"width": len(self.factor)}
