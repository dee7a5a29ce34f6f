"""How much each value of a unit's output matters to the outputs of the network: the Fisher diagonal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plisse.core import modules
from plisse.core.batch import Batch, call, main_output
from plisse.train.task import Divergence


def importance(
    rounded: nn.Module, original: nn.Module, unit: str, batches: tuple[Batch, ...], divergence: Divergence
) -> tuple[Tensor, ...]:
    """The squared gradient of divergence(original's outputs, rounded's outputs) by every value that the unit
    gives out, per batch, with mean 1 (BRECQ, Li et al. 2021, section 3.3). A share of 1/10 is the same for
    all values, since few samples say little about a single one.
    """
    gradients = [_gradient(rounded, original, unit, batch, divergence).square() for batch in batches]
    mean = torch.cat([gradient.flatten() for gradient in gradients]).mean().clamp_min(1e-30)
    return tuple(0.9 * gradient / mean + 0.1 for gradient in gradients)


def _gradient(
    rounded: nn.Module, original: nn.Module, unit: str, batch: Batch, divergence: Divergence
) -> Tensor:
    held: list[Tensor] = []

    def hold(_: nn.Module, __: Any, output: Any) -> Any:
        held.append(main_output(output).detach().requires_grad_())
        return (held[-1], *output[1:]) if isinstance(output, tuple) else held[-1]

    handle = rounded.get_submodule(unit).register_forward_hook(hold)
    try:
        with modules.evaluating(rounded), modules.evaluating(original), torch.enable_grad():
            with torch.no_grad():
                wanted = call(original, batch.inputs)
            found = divergence(wanted, call(rounded, batch.inputs))
            (gradient,) = torch.autograd.grad(found, held[-1])
    finally:
        handle.remove()
    return gradient
