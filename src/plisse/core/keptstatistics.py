"""What a layer gave on the training data: moments that hang on it once its batch norm is folded into it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHILD = "kept_statistics"


class KeptStatistics(nn.Module):
    """Mean and deviation of every channel of a layer's output on the training data, as the buffers
    `kept_mean` and `kept_std` [C]. Passes the output through as it is.

    width: C. Attached as the child `kept_statistics` with a forward hook, so that whoever hooks it sees the
    layer's output. A network that is compressed without data is told by them what its data were like.

    >>> layer = nn.Linear(2, 3)
    >>> KeptStatistics(3).attach(layer)
    >>> sorted(layer.state_dict())
    ['bias', 'kept_statistics.kept_mean', 'kept_statistics.kept_std', 'weight']
    """

    kept_mean: Tensor
    kept_std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("kept_mean", torch.zeros(width))
        self.register_buffer("kept_std", torch.ones(width))

    def forward(self, value: Tensor) -> Tensor:
        return value

    def attach(self, layer: nn.Module) -> None:
        """Hang this on `layer`, in place of one that hangs there already."""
        first = CHILD not in layer._modules
        layer.kept_statistics = self
        if first:
            layer.register_forward_hook(_show_output)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that are structure; the moments travel as tensors."""
        return {"width": len(self.kept_mean)}


def kept(layer: nn.Module) -> KeptStatistics | None:
    """The statistics that hang on `layer`."""
    found = layer._modules.get(CHILD)
    return found if isinstance(found, KeptStatistics) else None


def is_blank(norm: Any) -> bool:
    """Whether the running statistics of a batch norm say nothing: there are none, or all channels have mean 0
    and one variance, as made, or as `AbsorbStatistics` leaves them."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return True
    return bool((mean == 0).all()) and bool((variance == variance[0]).all())


def scale_kept(layer: nn.Module, factor: Tensor) -> None:
    """In place: the outputs of `layer` are now `factor` [C], above zero, times what they were."""
    if (found := kept(layer)) is not None:
        found.kept_mean.mul_(factor.to(found.kept_mean))
        found.kept_std.mul_(factor.to(found.kept_std))


def pick_kept(layer: nn.Module, channels: Tensor) -> None:
    """In place: `layer` now gives only these channels of what it gave."""
    if (found := kept(layer)) is not None:
        found.kept_mean = found.kept_mean[channels.to(found.kept_mean.device)]
        found.kept_std = found.kept_std[channels.to(found.kept_std.device)]


def forget_kept(model: nn.Module) -> None:
    """In place: no layer of `model` keeps statistics any more."""
    for layer in model.modules():
        if kept(layer) is not None:
            delattr(layer, CHILD)


def _show_output(layer: Any, _: Any, output: Any) -> None:
    """Hooks are called for their sight of the output; nothing is changed."""
    if CHILD in layer._modules:
        layer.kept_statistics(output)
