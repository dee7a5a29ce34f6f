"""A small network with something of everything a file must hold, and the file of it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.core import modules
from plisse.core.fakequant import InputQuantizer
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Reparam, Reparametrized
from plisse.core.stored import Stored, Uniform
from plisse.errors import InputError

ORIGIN = Origin("builtin", "tinynet", {"classes": 3})
ASSETS = {"labels.txt": b"cat dog fox", "vocab.txt": b"some words, some words again\n" * 40}
NOTES = {"task": "digits", "seed": 7, "recipe": ["Prune(0.5)", {"bits": 4}], "lr": 0.25}


class TinyNet(nn.Module):
    """[N, 1, 8, 8] to [N, classes]; the weights of `inner` and `again` are tied."""

    table: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.inner = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(6, classes)
        self.register_buffer("table", torch.arange(5, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x))).mean((2, 3))
        return self.head(self.relu(self.again(self.relu(self.inner(x)))))


class OnGrid(Reparam):
    """Symbols times a step for each output channel."""

    def __init__(self, weight: Tensor, bits: int = 4) -> None:
        super().__init__()
        flat = weight.detach().flatten(1)
        self.step = torch.full((len(flat),), 2.0**-4)
        top = 2 ** (bits - 1) - 1
        self.symbols = torch.clamp(torch.round(weight.detach() / 2.0**-4), -top, top)

    def forward(self) -> Tensor:
        return self.symbols * self.step.reshape(-1, *[1] * (self.symbols.dim() - 1))

    def stored(self) -> Stored:
        return Stored(
            self.symbols.numpy().astype(np.int64), tuple(self.symbols.shape), Uniform(self.step.numpy())
        )


def build(origin: Origin) -> nn.Module:
    """What a reader trusts: this network and no other."""
    if origin != ORIGIN:
        raise InputError(f"origin {origin}", expected="tinynet of 3 classes")
    return TinyNet(3)


def trained(seed: int = 0) -> nn.Module:
    """The network with weights and running statistics that are not those of a fresh one."""
    torch.manual_seed(seed)
    model = with_origin(TinyNet(3), ORIGIN)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 1, 8, 8))
    return model.eval()


def edited(seed: int = 0) -> nn.Module:
    """Narrower in the middle, with a quantizer of activations."""
    model = trained(seed)
    for name, layer in {
        "conv1": nn.Conv2d(1, 5, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(5),
        "conv2": nn.Conv2d(5, 6, 3, padding=1, bias=True),
    }.items():
        modules.replace(model, name, layer)
    InputQuantizer(6, 0.25, 3.0).attach(model.conv2)
    return model.eval()


def compressed(seed: int = 0) -> Reparametrized:
    """Edited, with the weights of two layers on a grid; one of them is tied, under its second name."""
    model = edited(seed)
    names = ["conv2.weight", "again.weight"]
    return Reparametrized(model, {name: OnGrid(modules.tensor(model, name)) for name in names})


@functools.cache
def tiny_file() -> bytes:
    return modelfile.dumps(compressed(), build(ORIGIN), assets=ASSETS, notes=NOTES)
