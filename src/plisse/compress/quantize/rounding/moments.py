"""Second moments of what enters a layer: the Hessian of its squared output error by its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.compress.quantize import grids
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.rounding.capture import captured
from plisse.core.batch import Batch


@dataclass(frozen=True, eq=False)
class Gram:
    """squares: X X^T [G, K, K] per group of a convolution (G = 1 otherwise), K values per patch. cross:
    (X0 - X) X^T for the original's inputs X0. Both float64, divided by the number of patches."""

    squares: Tensor
    cross: Tensor


def gram(
    model: nn.Module, original: nn.Module | None, layer: str, batches: tuple[Batch, ...], calls: int
) -> Gram:
    """Moments of what enters `layer` of `model` after its input quantizer, and, with `original`, of how far
    its inputs are from the original's. One batch is kept at a time."""
    part: Any = model.get_submodule(layer)
    squares = cross = torch.zeros(())
    count = 0
    with torch.no_grad():
        for batch in batches:
            came = captured(model, layer, (batch,), calls, inside=True)
            wanted = came
            if original is not None:
                wanted = captured(original, layer, (batch,), calls, inside=True)
            for each, goal in zip(came, wanted, strict=True):
                x = patches(part, each.args[0])  # [G, K, M]
                squares = squares + (x @ x.transpose(1, 2)).double()
                if original is not None:
                    difference = patches(part, goal.args[0]) - x
                    cross = cross + (difference @ x.transpose(1, 2)).double()
                count += x.shape[2]
    return Gram(squares / max(count, 1), cross / max(count, 1))


def patches(layer: Any, value: Tensor) -> Tensor:
    """What a layer's weight is multiplied with: [G, K, M], M patches (or tokens) of K values per group."""
    value = value.float()
    if isinstance(layer, nn.Linear):
        return value.reshape(-1, value.shape[-1]).T[None]
    pad = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    value = F.pad(value, layer._reversed_padding_repeated_twice, mode=pad)
    size, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    if isinstance(layer, nn.Conv1d):
        value, size, dilation, stride = value[:, :, None], (1, *size), (1, *dilation), (1, *stride)
    columns = F.unfold(value, size, dilation, 0, stride)  # [N, C * positions in a patch, patches]
    n, _, positions = columns.shape
    columns = columns.reshape(n, layer.groups, -1, positions).permute(1, 2, 0, 3)
    return columns.reshape(layer.groups, columns.shape[1], n * positions)


def rows_of(layer: Any, weight: Tensor) -> Iterator[slice]:
    """The output channels of each group of a layer."""
    groups = getattr(layer, "groups", 1)
    size = len(weight) // groups
    return (slice(group * size, (group + 1) * size) for group in range(groups))


def fitted_scale(
    fake: FakeQuantized, layer: nn.Module, symbols: Tensor, found: Gram, damping: float
) -> Tensor | None:
    """The scales that bring the outputs of `symbols` nearest to those of the weight, by least squares over
    all units of a channel; None where one scale serves several channels."""
    scale = fake.scale.detach()
    if scale.dim() == 1 and len(scale) != len(symbols):
        return None
    weight = fake.source().detach().float()
    zero = grids.spread(fake.zero, weight, fake.group)
    fitted = scale.clone()
    width = fake.group if scale.dim() == 2 else weight[0].numel()
    for group, rows in enumerate(rows_of(layer, weight)):
        squares = found.squares[group]
        fitted[rows] = (
            _least_squares(
                weight[rows].flatten(1).double(),
                (symbols - zero)[rows].flatten(1).double(),
                squares,
                width,
                damping,
                scale[rows].reshape(len(weight[rows]), -1).double(),
            )
            .reshape(scale[rows].shape)
            .float()
        )
    return torch.where((fitted > scale / 3) & (fitted < scale * 3), fitted, scale)


def _least_squares(
    weight: Tensor, whole: Tensor, squares: Tensor, width: int, damping: float, before: Tensor
) -> Tensor:
    """argmin over s [R, U] of sum_r (w_r - s q_r) H (w_r - s q_r)^T, with a pull to the scales `before`."""
    pieces = torch.arange(whole.shape[1], device=whole.device).split(width)
    through = torch.stack([whole[:, piece] @ squares[piece] for piece in pieces], 1)  # [R, U, K]
    products = through * whole[:, None]
    system = torch.stack([products[..., piece].sum(-1) for piece in pieces], 2)  # [R, U, U]
    pull = damping * system.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)  # [R]
    wanted = (through * weight[:, None]).sum(-1) + pull[:, None] * before
    return torch.linalg.solve(system + torch.diag_embed(pull[:, None].expand_as(before)), wanted)
