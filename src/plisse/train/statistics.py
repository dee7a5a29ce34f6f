"""Batch-norm statistics of a network as it is now, measured on inputs without labels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from plisse.core.batch import Batches, call, on_device


def reestimate_statistics(model: nn.Module, batches: Batches, n: int = 50) -> None:
    """Replace the running mean and variance of every batch norm, in place, by averages over n batches.

    The network runs in float32 with only its batch norms in training mode; averages are cumulative (every
    batch counts the same). At most one epoch is read. Flags and momenta are put back. Does nothing where no
    batch norm keeps statistics. Source: Izmailov et al. 2018 (SWA), section 3.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    flags = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            for index in range(min(n, len(batches))):
                call(model, on_device(batches[index], device).inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in flags.items():
            module.training = training
