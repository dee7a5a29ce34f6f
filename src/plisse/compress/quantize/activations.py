"""Activations on a grid: a fake quantizer at the input of every weighted layer, ranges from calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.quantize.grids import Format, check_bits, scale_and_zero
from plisse.compress.quantize.ranges import MSE, Range
from plisse.core import modules
from plisse.core.batch import Batches, call
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import plain
from plisse.errors import InputError

PER_BATCH, PER_LAYER = 100_000, 1_000_000  # values that are looked at


@dataclass(frozen=True)
class Activations:
    """How the inputs of weighted layers are rounded: one scale per tensor, symbols 0 to 2^bits - 1.

    bits: 2 to 8. range: chosen from samples of the calibration batches. symmetric: zero in the middle of the
    symbols rather than where the samples put it.
    """

    bits: int = 8
    range: Range = field(default_factory=MSE)
    symmetric: bool = False

    def __post_init__(self) -> None:
        check_bits(self.bits)


def quantize_inputs(
    model: nn.Module,
    calibration: Batches,
    how: Activations,
    bits: Mapping[str, int],
    ignore: Iterable[str] = (),
) -> None:
    """Attach quantizers, in place, to every linear and convolution layer that calibration reaches.

    Embeddings have no activations at their input and are passed over. The scales are bfloat16 numbers.

    bits: layers (dotted names) that get another number of bits than `how` says. ignore: layers to leave.
    Raises InputError where calibration holds no batch.
    """
    layers = {
        name: layer
        for name, layer in modules.weighted_layers(plain(model))
        if not isinstance(layer, nn.Embedding) and name not in set(ignore)
    }
    for name, values in input_samples(model, layers, calibration).items():
        quantizer = fitted_quantizer(values, bits.get(name, how.bits), how)
        quantizer.train(layers[name].training).requires_grad_(False)
        quantizer.to(values.device).attach(layers[name])


def fitted_quantizer(samples: Tensor, bits: int, how: Activations) -> InputQuantizer:
    """The quantizer whose range suits `samples` [n]."""
    form = Format(bits, how.symmetric)
    low, high = how.range.range(samples.reshape(1, -1), form)
    scale, zero = scale_and_zero(low, high, form)
    middle = 2 ** (bits - 1) if how.symmetric else 0
    return InputQuantizer(bits, float(scale), float(zero) + middle)


def input_samples(model: nn.Module, layers: dict[str, nn.Module], calibration: Batches) -> dict[str, Tensor]:
    """What enters each of `layers`: at most a million values [n], drawn evenly, with the extremes of every
    batch. Layers that no batch reaches are left out."""
    if not len(calibration):
        raise InputError("no calibration batch", expected="at least one, to choose ranges of activations")
    limit = max(1, min(PER_BATCH, PER_LAYER // len(calibration)))
    samples: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(name: str, inputs: tuple[Any, ...]) -> None:
        samples[name].append(_sample(inputs[0].detach().float().flatten(), limit, len(samples[name])))

    with _watching(layers, watch), modules.evaluating(model), torch.no_grad():
        for batch in calibration:
            call(model, batch.inputs)
    return {name: torch.cat(parts) for name, parts in samples.items() if parts}


def _sample(values: Tensor, limit: int, seed: int) -> Tensor:
    if values.numel() <= limit:
        return values
    pick = torch.randint(values.numel(), (limit,), generator=torch.Generator().manual_seed(seed))
    return torch.cat([values[pick.to(values.device)], torch.stack(values.aminmax())])


@contextmanager
def _watching(layers: dict[str, nn.Module], watch: Any) -> Iterator[None]:
    """Call `watch(name, inputs)` before each call of a layer."""
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, inputs))  # type: ignore[misc]
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
