"""Masks over single weights: chosen from scores, then applied as a reparametrization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from plisse.compress.prune.patterns import Scope
from plisse.core import modules
from plisse.core.reparam import Reparam, Reparametrized, reparametrize, source
from plisse.core.stored import Stored, Trellis, zero_symbol
from plisse.errors import InputError


class Masked(Reparam):
    """w = mask * source(). The mask [same shape, bool] is a buffer; masked weights get no gradient."""

    mask: Tensor

    def __init__(self, source: Reparam, mask: Tensor) -> None:
        super().__init__()
        self.source = source
        self.register_buffer("mask", mask.detach().clone().bool())

    def forward(self) -> Tensor:
        weight = self.source()
        return torch.where(self.mask, weight, weight.new_zeros(()))

    def stored(self) -> Stored:
        return masked_stored(self.source.stored(), self.mask.cpu().numpy())


def masked_stored(stored: Stored, mask: np.ndarray) -> Stored:
    """The same tensor with the symbol of zero wherever `mask` is False.

    Raises InputError for grids in which no single symbol means zero, such as a trellis: mask first.
    """
    zero = zero_symbol(stored)
    if zero is None:
        grid = "trellis-coded" if isinstance(stored.grid, Trellis) else type(stored.grid).__name__
        raise InputError(
            f"a mask over a tensor on a {grid} grid, which has no zero", expected="the mask inside"
        )
    symbols = np.where(mask, stored.symbols.reshape(stored.shape), zero).astype(stored.symbols.dtype)
    return dataclasses.replace(stored, symbols=symbols.reshape(stored.symbols.shape))


def unstructured_masks(scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> dict[str, Tensor]:
    """Cut the round(sparsity * n) weights with the lowest scores; ties go by position.

    scope "global": n counts all weights, ranked together; "layer": each tensor for itself.
    """
    if scope == "layer":
        return {name: _keep_highest(score, sparsity) for name, score in scores.items()}
    flat = torch.cat([score.flatten() for score in scores.values()]) if scores else torch.empty(0)
    kept = _keep_highest(flat, sparsity).split([score.numel() for score in scores.values()])
    return {name: mask.view(score.shape) for (name, score), mask in zip(scores.items(), kept, strict=True)}


def nm_mask(score: Tensor, n: int, m: int) -> Tensor | None:
    """Keep the n highest of every m scores along each flattened row of [C, ...]; None where m divides no row.

    >>> nm_mask(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), 2, 4)
    tensor([[False,  True,  True, False]])
    """
    if score.dim() < 2 or score[0].numel() % m:
        return None
    groups = score.reshape(-1, m)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    return mask.scatter(1, groups.topk(n, dim=1).indices, True).view(score.shape)


def nm_masks(
    model: nn.Module, scores: Mapping[str, Tensor], n: int, m: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Masks, and a remark for every tensor that stays dense."""
    masks, notes = {}, []
    for name, score in scores.items():
        embedding = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding)
        mask = None if embedding else nm_mask(score, n, m)
        if mask is not None:
            masks[name] = mask
        else:
            why = "an embedding" if embedding else f"rows of {score[0].numel()} are no groups of {m}"
            notes.append(f"{name!r} left dense: {why}")
    return masks, notes


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> Reparametrized:
    """A copy of `model` with the masks on; a mask that was there already stays underneath in effect."""
    return reparametrize(model, {name: _masked(source(model, name), mask) for name, mask in masks.items()})


def sparsity_of(model: nn.Module, names: list[str] | None = None) -> float:
    """Share of exact zeros in the weight matrices of a plain network, 0 to 1."""
    tensors = [modules.tensor(model, name) for name in names or modules.weight_names(model)]
    total = sum(tensor.numel() for tensor in tensors)
    return sum(int((tensor == 0).sum()) for tensor in tensors) / max(total, 1)


def _masked(inner: Reparam, mask: Tensor) -> Masked:
    if isinstance(inner, Masked):
        return Masked(inner.source, mask & inner.mask)
    return Masked(inner, mask)


def _keep_highest(score: Tensor, sparsity: float) -> Tensor:
    cut = round(sparsity * score.numel())
    mask = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    mask[score.flatten().argsort(stable=True)[:cut]] = False
    return mask.view(score.shape)
