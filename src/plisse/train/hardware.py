"""Device, precision and memory order of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from plisse.errors import InputError

ACCELERATORS = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "bf16-mixed", "32-true")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def choose_device(accelerator: str, devices: int) -> str:
    """The type of device; "auto" takes cuda, else mps, else cpu.

    Raises InputError for an unknown name, or more devices than there are.
    """
    if accelerator not in ACCELERATORS:
        raise InputError(f"accelerator {accelerator!r}", expected=f"one of {', '.join(ACCELERATORS)}")
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if accelerator == "auto":
        accelerator = next((name for name, count in there.items() if count), "cpu")
    if devices < 1 or devices > there.get(accelerator, devices):
        most = there.get(accelerator, "the number of cores")
        raise InputError(f"devices={devices} on {accelerator}", expected=f"1 to {most}")
    return accelerator


def choose_precision(precision: str, model: nn.Module, device: str) -> str:
    """ "bf16-mixed" or "32-true"; "auto" takes the former for convolutions where `device` computes in it.

    >>> choose_precision("auto", nn.Linear(2, 2), "cpu")
    '32-true'
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}", expected=f"one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    convolutional = any(isinstance(module, CONVOLUTIONS) for module in model.modules())
    return "bf16-mixed" if convolutional and _computes_bf16(device) else "32-true"


def _computes_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def as_it_was(model: nn.Module, channels_last: bool) -> Iterator[None]:
    """Training flags on and channels-last inside; flags, device and default memory order put back after."""
    flags = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    model.train()
    if channels_last:
        _order_memory(model, torch.channels_last)
    try:
        yield
    finally:
        model.to(device)
        if channels_last:
            _order_memory(model, torch.contiguous_format)
        for module, training in flags.items():
            module.training = training
        for parameter in model.parameters():
            parameter.grad = None


def _order_memory(model: nn.Module, order: torch.memory_format) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=order)
