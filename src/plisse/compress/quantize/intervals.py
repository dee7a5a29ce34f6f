"""Inputs of layers on levels with thresholds of their own: one bit (signs), and learned intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plisse.compress.quantize.activations import PER_BATCH, PER_LAYER, check_samples, watch_inputs
from plisse.compress.quantize.grids import SMALLEST, Format, bfloat16_through, scale_and_zero
from plisse.compress.quantize.ranges import MSE, Range
from plisse.core import modules
from plisse.core.batch import Batches
from plisse.core.inputinterval import KINDS, InputInterval
from plisse.core.reparam import plain
from plisse.errors import InputError

SHIFTS = ("none", "tensor", "channel")


@dataclass(frozen=True)
class Signs:
    """Inputs of one bit: x' = b + a sign(x - t), with a, b and t of least squared error to begin with.

    shift: t: "none" for 0 (XNOR-Net, Rastegari et al. 2016; Bi-Real Net, Liu et al. 2018), "tensor" for one
    (ABC-Net, Lin et al. 2017), "channel" for one per channel (ReActNet's RSign, Liu et al. 2020). kind:
    "signed": b = 0; "unsigned": b = a, so that the lower value is exactly zero (DoReFa-Net at one bit, Zhou
    et al. 2016); "free": b of its own (AdaBin, Tu et al. 2022). With `Aware(learn_step=True)` a, b and t are
    trained; the gradient of the sign is that of the estimator, over |x - t| <= rms(x - t).

    Inputs behind ReLU have one sign only: they need a shift. ReActNet's activation functions with learned
    shifts are part of a network, not of this step. The thresholds of a channel take 32 bits in the file.

    >>> Signs().bits
    1
    """

    shift: str = "channel"
    kind: str = "free"

    def __post_init__(self) -> None:
        if self.shift not in SHIFTS or self.kind not in KINDS:
            raise InputError(str(self), expected=f"a shift of {SHIFTS} and a kind of {KINDS}")

    @property
    def bits(self) -> int:
        return 1

    def fitted(self, rows: Tensor, axis: int) -> InputInterval:
        """The quantizer for samples [M, C] of a layer's input."""
        quantizer = InputInterval(1, self.kind, rows.shape[1] if self.shift == "channel" else 0, axis)
        shift = rows.mean(0) if self.shift == "channel" else rows.mean().reshape(1)
        shift = _half(torch.zeros_like(shift) if self.shift == "none" else shift)
        high = (rows - shift) >= 0
        above, below = (rows[part].mean() if bool(part.any()) else rows.mean() for part in (high, ~high))
        scale = {
            "signed": 2 * rows.abs().mean(),
            "unsigned": above,
            "free": above - below,
        }[self.kind]
        with torch.no_grad():
            quantizer.shift.copy_(shift)
            quantizer.width.copy_(bfloat16_through(2 * (rows - shift).square().mean().sqrt()))
            quantizer.scale.copy_(bfloat16_through(scale))
            if quantizer.offset is not None:
                quantizer.offset.copy_(_half(below))
        return quantizer


@dataclass(frozen=True)
class Intervals:
    """QIL for inputs (Jung et al. 2019): those in [c - d, c + d] go to 2^bits even levels from 0 to a, those
    below to 0 and those above to a; c, d and a are trained (`Aware`). At the start c - d is the lower and
    c + d = a the upper end of `range`, so that it rounds as `Activations` does.

    bits: 1 to 8. The paper has a = 1, and batch norm to make up for it.
    """

    bits: int = 4
    range: Range = field(default_factory=MSE)

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise InputError(f"{self.bits} bits", expected="1 to 8 bits per value", hint="Intervals(4)")

    def fitted(self, rows: Tensor, axis: int) -> InputInterval:
        """The quantizer for samples [M, C] of a layer's input."""
        form = Format(max(self.bits, 2), symmetric=False)
        low, high = self.range.range(rows.reshape(1, -1), form)
        scale, zero = scale_and_zero(low, high, form)
        kind = "unsigned" if float(zero) == 0 else "signed"
        quantizer = InputInterval(self.bits, kind)
        width = scale * form.high / quantizer.top
        middle = (form.high / 2 - zero) * scale
        with torch.no_grad():
            quantizer.shift.copy_(_half(middle))
            quantizer.width.copy_(bfloat16_through(width)[0])
            quantizer.scale.copy_(bfloat16_through(width)[0])
        return quantizer


def place_intervals(
    model: nn.Module, calibration: Batches, how: Signs | Intervals, ignore: Iterable[str] = ()
) -> None:
    """Attach `how`, in place, to every linear and convolution layer that calibration reaches.

    ignore: layers (dotted names) to leave. Embeddings have no activations at their input.
    Raises InputError where calibration holds no batch or leads to NaN or infinity.
    """
    layers = {
        name: layer
        for name, layer in modules.weighted_layers(plain(model))
        if not isinstance(layer, nn.Embedding) and name not in set(ignore)
    }
    if not len(calibration):
        raise InputError("no calibration batch", expected="at least one, to choose thresholds")
    samples: dict[str, list[Tensor]] = {name: [] for name in layers}
    limit = max(1, min(PER_BATCH, PER_LAYER // len(calibration)))

    def watch(name: str, value: Tensor) -> None:
        rows = value.float().movedim(_axis(layers[name]), -1)
        rows = rows.reshape(-1, rows.shape[-1])
        samples[name].append(_few(rows, max(1, limit // rows.shape[1]), len(samples[name])))

    watch_inputs(model, layers, calibration, watch)
    for name, found in samples.items():
        if found:
            check_samples(name, found)
            layer, rows = layers[name], torch.cat(found)
            quantizer = how.fitted(rows, _axis(layer)).to(rows.device)
            quantizer.train(layer.training).requires_grad_(False).attach(layer)


def _few(rows: Tensor, most: int, seed: int) -> Tensor:
    if len(rows) <= most:
        return rows
    pick = torch.randint(len(rows), (most,), generator=torch.Generator().manual_seed(seed))
    return rows[pick.to(rows.device)]


def _axis(layer: nn.Module) -> int:
    """Where the channels of what enters a layer are."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _half(numbers: Tensor) -> Tensor:
    """Rounded to bfloat16, with their signs."""
    kept = numbers.detach().to(torch.bfloat16).float()
    return torch.where(kept.abs() < SMALLEST, torch.zeros_like(kept), kept)
