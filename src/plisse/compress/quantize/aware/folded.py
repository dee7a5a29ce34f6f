"""Batch norm folded while the network goes on training: weights are rounded as they will be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.fold import FoldBatchNorm, foldable_pairs
from plisse.core.reparam import Reparam, baked, reparametrize
from plisse.core.stored import Stored, raw
from plisse.train.task import Task


@dataclass(frozen=True)
class FoldForTraining:
    """Fold every batch norm that can be, with its running statistics frozen as they are, but keep the weight
    W and the slope g as what is trained: W' = W g / s with s = sqrt(var + eps). The bias (b - m) g / s + b_n
    is trained as it is. (Jacob et al. 2018, section 3.2, with the moving averages in place of the batch's,
    as Krishnamoorthi 2018 has it after its freeze.)

    `Quantize` after this step rounds W'. Statistics do not follow the weights: use lower learning rates than
    with batch norm. Computed weights are baked first. Does nothing to a network without batch norm.
    """

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        whole = baked(model)
        pairs = foldable_pairs(whole, task.example)
        folded = FoldBatchNorm()(whole, task)
        table: dict[str, Reparam] = {
            f"{layer}.weight".lstrip("."): FoldedWeight(whole.get_submodule(layer), whole.get_submodule(norm))
            for layer, norm in pairs
        }
        return reparametrize(folded, table) if table else folded


class FoldedWeight(Reparam):
    """W g / s for a layer and the batch norm behind it, with s from the norm's running variance."""

    deviation: Tensor

    def __init__(self, layer: Any, norm: Any) -> None:
        super().__init__()
        deviation = (norm.running_var.detach() + norm.eps).sqrt()
        slope = torch.ones_like(deviation) if norm.weight is None else norm.weight.detach()
        self.register_buffer("deviation", deviation.clone())
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.slope = nn.Parameter(slope.clone())

    def forward(self) -> Tensor:
        factor = self.slope / self.deviation
        return self.weight * factor.reshape(-1, *([1] * (self.weight.dim() - 1)))

    def stored(self) -> Stored:
        with torch.no_grad():
            return raw(self.forward().cpu().numpy())
