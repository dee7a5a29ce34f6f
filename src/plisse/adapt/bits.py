"""Bits: integer weights whose highest bits are the coarser weights, and activations at as many bits.

A weight is coded once, at `top` bits: u = clip(floor(w / s), -2^(top-1), 2^(top-1) - 1). At b bits its code
is u >> (top - b), its value (u >> (top - b) + 1/2) s 2^(top - b): the middle of a cell that is cut in two
from b to b + 1. So the planes of a file, highest first, are a valid network after every plane from the lowest
listed one.

Source: Nunez et al. 2021 (LCS, quantized); Nair et al. 2025 (Matryoshka quantization) for nested integers; Yu
et al. 2021 (any-precision networks) for statistics per number of bits; Esser et al. 2020 (LSQ) for learned
steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from plisse.adapt.elastic import Point, Range, Space
from plisse.adapt.reparams import Dial, Held, Line, Tabled, on_line
from plisse.adapt.sparsity import checked_weights, inner_weights, norms_on_line
from plisse.adapt.subspace import Subspace
from plisse.compress.quantize.activations import Activations, batch_samples, fitted_quantizer, watch_inputs
from plisse.compress.quantize.aware.inputs import LearnedScale
from plisse.compress.quantize.fake import ScaleGradient
from plisse.compress.quantize.grids import Format, bfloat16_through
from plisse.compress.quantize.ranges import MSE
from plisse.core import modules
from plisse.core.batch import Batches, BatchList
from plisse.core.reparam import Plain, Reparam, Reparametrized, baked
from plisse.core.stored import Stored, Uniform, raw
from plisse.errors import InputError

BITS = (3, 4, 5, 6, 7, 8)
FIRST_RANGE = 4  # bits at which the first step is chosen


class FloorThrough(torch.autograd.Function):
    """The largest whole number not above; the gradient passes unchanged (straight through)."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return torch.floor(value)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Planes(Reparam):
    """The source coded at `top` bits and read at the dial's bits (see the module).

    The step s is learned with LSQ's gradient, unless `scale` gives it; it is a number of bfloat16 in use and
    in the file.
    """

    def __init__(self, inner: Reparam, dial: Dial, top: int, scale: float | None = None) -> None:
        super().__init__()
        self.source, self.dial, self.top = inner, dial, top
        values = inner().detach().float()
        first = first_step(values, top) if scale is None else torch.tensor(scale)
        self.scale = nn.Parameter(first, requires_grad=scale is None)
        self.step_gradient = (values.numel() * 2 ** (top - 1)) ** -0.5

    def forward(self) -> Tensor:
        bits = int(self.dial.point.settings["bits"])
        half = 2 ** (bits - 1)
        step = bfloat16_through(ScaleGradient.apply(self.scale, self.step_gradient)) * 2 ** (self.top - bits)
        cells = torch.clamp(FloorThrough.apply(self.source().float() / step) + 0.5, 0.5 - half, half - 0.5)
        return cells * step

    @property
    def step(self) -> float:
        """s, as it is in use."""
        return float(bfloat16_through(self.scale.detach()))

    def codes(self, source: Reparam | None = None) -> Tensor:
        """The codes u, int8, of the source, or of an end of its line, as it is now."""
        with torch.no_grad():
            half = 2 ** (self.top - 1)
            cells = torch.floor((source or self.source)().float() / self.step)
            return cells.clamp(-half, half - 1).to(torch.int8)

    def settled(self) -> Reparam:
        """The same weights as integers, which take a quarter of the memory and are not trained. Of a line,
        both ends in the middle of their cells at `top` bits: the same weights at the ends, and between them
        the same or the next (more where one end is beyond the range), in a quarter of the bytes."""
        if isinstance(self.source, Plain):
            return CodedPlanes(self.codes(), self.step, self.dial, self.top)
        if isinstance(self.source, Line):
            start, end = (Held(self._middles(end)) for end in (self.source.start, self.source.end))
            return Planes(Line(start, end, self.dial), self.dial, self.top, self.step)
        return self

    def _middles(self, end: Reparam) -> Stored:
        return CodedPlanes(self.codes(end), self.step, self.dial, self.top).whole()

    def stored(self) -> Stored:
        bits = int(self.dial.point.settings["bits"])
        step = self.step * 2 ** (self.top - bits)
        odd = torch.round(2 * self.forward().detach() / step).to(torch.int32).cpu().numpy()
        return Stored(odd, odd.shape, Uniform(np.array([step / 2], np.float32)))


class CodedPlanes(Reparam):
    """`Planes` whose codes are given: int8, any shape. scale: the step at `top` bits."""

    codes: Tensor

    def __init__(self, codes: Tensor, scale: float, dial: Dial, top: int) -> None:
        super().__init__()
        self.register_buffer("codes", codes.to(torch.int8))
        self.scale, self.dial, self.top = scale, dial, top

    def forward(self) -> Tensor:
        gone = self.top - int(self.dial.point.settings["bits"])
        return ((self.codes >> gone).float() + 0.5) * (self.scale * 2**gone)

    def stored(self) -> Stored:
        return self._read(self.top - int(self.dial.point.settings["bits"]))

    def whole(self) -> Stored:
        """All `top` bits, wherever the dial stands."""
        return self._read(0)

    def _read(self, gone: int) -> Stored:
        odd = 2 * (self.codes >> gone).to(torch.int32).cpu().numpy() + 1
        return Stored(odd, odd.shape, Uniform(np.array([self.scale * 2**gone / 2], np.float32)))


class Chosen(Reparam):
    """One of several reparametrizations, by the listed point that the dial stands at."""

    def __init__(self, each: Sequence[Reparam], dial: Dial) -> None:
        super().__init__()
        self.each, self.dial = nn.ModuleList(each), dial

    def forward(self) -> Tensor:
        values = [reparam() for reparam in self.each]
        return values[self.dial.space.points.index(self.dial.point)]

    def settled(self) -> Reparam:
        """The same as a table."""
        return Tabled(torch.stack([reparam().detach() for reparam in self.each]), self.dial)

    def stored(self) -> Stored:
        return raw(self.forward().detach().cpu().numpy())


def bits_subspace(
    model: nn.Module,
    calibration: Batches,
    *,
    bits: Sequence[int] = BITS,
    activations: bool = True,
    line: bool = False,
    spread: float = 0.1,
    names: Sequence[str] | None = None,
) -> Subspace:
    """The networks of `model` with weights and activations at each of `bits` (whole numbers, 2 to 8).

    calibration: batches without need of labels, for the first ranges of activations. activations: round what
    enters the covered layers too, with a learned step for each number of bits. line: covered matrices and
    norms are on a line. names: weight matrices that are covered; None for all but the first and the last.
    """
    space = bits_space(bits)
    network = modules.clone(baked(model))
    dial, top = Dial(space), int(space.largest.value)
    covered = inner_weights(network) if names is None else checked_weights(network, names)
    reparams: dict[str, Reparam] = {}
    for seed, name in enumerate(covered):
        inner: Reparam = Plain(modules.tensor(network, name))
        reparams[name] = Planes(on_line(inner, dial, spread, seed) if line else inner, dial, top)
    if line:
        reparams.update(norms_on_line(network, dial))
    layers = [name.removesuffix(".weight") for name in covered if name.endswith(".weight")]
    found = _input_tables(network, layers, calibration, dial) if activations else {}
    quantizers = sorted({name.rpartition(".")[0] for name in found})
    wrapped = Reparametrized(network, {**reparams, **found})
    return Subspace(wrapped, dial, BitsOf(tuple(quantizers)))


def bits_space(bits: Sequence[int]) -> Space:
    """Numbers of bits in rising order as a space."""
    fine = all(isinstance(number, int) and 2 <= number <= 8 for number in bits)
    if not bits or not fine or sorted(bits) != list(range(min(bits), max(bits) + 1)):
        raise InputError(
            f"bits {tuple(bits)}", expected="whole numbers in a row, from 2 to 8", hint="3, 4, 5"
        )
    points = tuple(Point("bits", float(number)) for number in sorted(bits))
    return Space((Range("bits", points[0].value, points[-1].value, whole=True),), points)


def first_step(values: Tensor, top: int) -> Tensor:
    """A step [scalar] at `top` bits whose range suits a few bits: 2 r / 2^top for the range -r to r with the
    least squared error at FIRST_RANGE bits."""
    low, high = MSE().range(values.reshape(1, -1), Format(FIRST_RANGE))
    reach = torch.maximum(low.abs(), high.abs()).max()
    return bfloat16_through(2 * reach / 2**top)


class BitsOf:
    """The bits of every quantizer of activations at a point."""

    def __init__(self, quantizers: tuple[str, ...]) -> None:
        self.quantizers = quantizers

    def __call__(self, point: Point) -> dict[str, dict[str, int]]:
        return {name: {"bits": int(point.settings["bits"])} for name in self.quantizers}


def _input_tables(
    network: nn.Module, layers: Sequence[str], calibration: Batches, dial: Dial
) -> dict[str, Reparam]:
    """Hang quantizers on `layers`, in place; a learned step and a zero point for each listed point."""
    found: dict[str, Reparam] = {}
    wanted = {name: network.get_submodule(name) for name in layers}
    values: dict[str, int] = {}
    watch_inputs(
        network,
        wanted,
        BatchList((calibration[0],)),
        lambda name, value: values.update({name: value[0].numel()}),
    )
    for name, samples in batch_samples(network, wanted, calibration).items():
        fitted = [fitted_quantizer(samples, int(point.value), Activations()) for point in dial.space.points]
        fitted[-1].attach(wanted[name])
        scales = [LearnedScale(each.scale, (values[name] * each.top) ** -0.5) for each in fitted]
        found[f"{name}.input_quantizer.scale"] = Chosen(scales, dial)
        zeros = torch.stack([each.zero_point for each in fitted])
        found[f"{name}.input_quantizer.zero_point"] = Tabled(zeros, dial)
    return found
