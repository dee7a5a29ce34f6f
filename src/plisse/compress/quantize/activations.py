"""Activations on a grid: a fake quantizer at the input of every weighted layer, ranges from calibration or
found as the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.quantize.grids import Format, check_bits, scale_and_zero
from plisse.compress.quantize.ranges import MSE, Range, over_batches
from plisse.core import modules
from plisse.core.batch import Batches, call, first_tensor
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.fakequant import InputQuantizer
from plisse.core.hooks import before_calls
from plisse.core.reparam import plain
from plisse.errors import InputError

PER_BATCH, PER_LAYER = 100_000, 1_000_000  # values that are looked at
DYNAMIC = ("tensor", "row")


@dataclass(frozen=True)
class Activations:
    """How the inputs of weighted layers are rounded: one scale per tensor, symbols 0 to 2^bits - 1.

    bits: 2 to 8. range: chosen from samples of the calibration batches. symmetric: zero in the middle of the
    symbols rather than where the samples put it. dynamic: None for those static ranges; "tensor" takes the
    extremes of each input as it comes, "row" those of each vector along the last axis (a token) and, for
    convolutions, of each image. Dynamic ranges need no calibration and ignore `range`.
    """

    bits: int = 8
    range: Range = field(default_factory=MSE)
    symmetric: bool = False
    dynamic: str | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.dynamic not in (None, *DYNAMIC):
            raise InputError(f"dynamic {self.dynamic!r}", expected=f"None, {' or '.join(DYNAMIC)}")


def quantize_inputs(
    model: nn.Module,
    calibration: Batches,
    how: Activations,
    bits: Mapping[str, int],
    ignore: Iterable[str] = (),
) -> None:
    """Attach quantizers, in place, to every linear and convolution layer that calibration reaches; to all of
    them where ranges are dynamic.

    Embeddings have no activations at their input and are passed over; torch's attention multiplies inside one
    operator, so that its inputs stay in floating point, and a note says so. The scales are bfloat16 numbers.

    bits: layers (dotted names) that get another number of bits than `how` says. ignore: layers to leave.
    Raises InputError where calibration holds no batch, inputs that the network does not take, or leads to
    NaN or infinity.
    """
    attention = [n for n, each in plain(model).named_modules() if isinstance(each, nn.MultiheadAttention)]
    left = {*ignore, *(f"{name}.out_proj" for name in attention)}
    layers = {
        name: layer
        for name, layer in modules.weighted_layers(plain(model))
        if not isinstance(layer, nn.Embedding) and name not in left
    }
    if attention:
        with_notes(
            model, [f"{name!r}: inputs stay in floating point inside torch's attention" for name in attention]
        )
    if how.dynamic is not None:
        for name, layer in layers.items():
            dynamic_quantizer(layer, bits.get(name, how.bits), how).train(layer.training).attach(layer)
        return
    for name, samples in batch_samples(model, layers, calibration).items():
        check_samples(name, samples)
        quantizer = fitted_quantizer(samples, bits.get(name, how.bits), how)
        quantizer.train(layers[name].training).requires_grad_(False)
        quantizer.to(samples[0].device).attach(layers[name])


def fitted_quantizer(samples: Tensor | Sequence[Tensor], bits: int, how: Activations) -> InputQuantizer:
    """The quantizer whose range suits `samples` [n], or those of several batches."""
    form = Format(bits, how.symmetric)
    batches = [samples] if isinstance(samples, Tensor) else samples
    low, high = over_batches(how.range, [batch.reshape(1, -1) for batch in batches], form)
    scale, zero = scale_and_zero(low, high, form)
    middle = 2 ** (bits - 1) if how.symmetric else 0
    return InputQuantizer(bits, float(scale), float(zero) + middle)


def dynamic_quantizer(layer: nn.Module, bits: int, how: Activations) -> DynamicQuantizer:
    """The quantizer for `layer` that finds its range as it runs."""
    per_row = "row" if isinstance(layer, nn.Linear) else "sample"
    return DynamicQuantizer(bits, per_row if how.dynamic == "row" else "tensor", how.symmetric)


def input_samples(model: nn.Module, layers: dict[str, nn.Module], calibration: Batches) -> dict[str, Tensor]:
    """What enters each of `layers`: at most a million values [n], drawn evenly, with the extremes of every
    batch. Layers that no batch reaches are left out."""
    found = batch_samples(model, layers, calibration)
    return {name: torch.cat(list(parts)) for name, parts in found.items()}


def batch_samples(
    model: nn.Module, layers: dict[str, nn.Module], calibration: Batches
) -> dict[str, list[Tensor]]:
    """`input_samples` with the values [n] of every call of a layer apart, in order."""
    if not len(calibration):
        raise InputError("no calibration batch", expected="at least one, to choose ranges of activations")
    limit = max(1, min(PER_BATCH, PER_LAYER // len(calibration)))
    samples: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(name: str, value: Tensor) -> None:
        samples[name].append(_sample(value.float().flatten(), limit, len(samples[name])))

    watch_inputs(model, layers, calibration, watch)
    return {name: parts for name, parts in samples.items() if parts}


def watch_inputs(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    calibration: Batches,
    watch: Callable[[str, Tensor], None],
) -> None:
    """Run all of `calibration` and call `watch(name, value)` with what enters each of `layers`, detached.

    Raises InputError for inputs that the network does not take.
    """

    def see(name: str, _: Any, inputs: tuple[Any, ...]) -> None:
        watch(name, inputs[0].detach())

    with before_calls(layers, see), modules.evaluating(model), torch.no_grad():
        for batch in calibration:
            try:
                call(model, batch.inputs)
            except (RuntimeError, IndexError, TypeError) as error:
                raise InputError(
                    f"calibration inputs of shape {tuple(first_tensor(batch.inputs).shape)}: {error}",
                    expected="inputs that the network takes",
                ) from error


def check_samples(layer: str, samples: Sequence[Tensor]) -> None:
    """Raise InputError where what enters a layer is not finite."""
    for i, batch in enumerate(samples):
        if not bool(torch.isfinite(batch).all()):
            raise InputError(
                f"NaN or infinity entering {layer!r} in calibration batch {i}",
                expected="finite inputs",
                hint="look for broken samples, or for a division by zero in their normalization",
            )


def _sample(values: Tensor, limit: int, seed: int) -> Tensor:
    if values.numel() <= limit:
        return values
    pick = torch.randint(values.numel(), (limit,), generator=torch.Generator().manual_seed(seed))
    return torch.cat([values[pick.to(values.device)], torch.stack(values.aminmax())])
