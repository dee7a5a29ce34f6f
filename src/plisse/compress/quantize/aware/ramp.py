"""From many bits to few: train at wider grids first, each stage from where the last one ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plisse.compress.quantize.aware.inputs import input_quantizers
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import check_bits
from plisse.core.reparam import Reparametrized
from plisse.errors import InputError


@dataclass(frozen=True)
class Stage:
    """A training before the last one, with every width below `bits` raised to it.

    bits: 2 to 8. steps: batches, at least 1. lr: peak learning rate; None takes that of the last training.

    At 2 or 3 bits a network that was rounded at once starts near chance; one that comes from the next wider
    grid keeps most of what it knew (progressive quantization, Zhuang et al. 2018).
    """

    bits: int
    steps: int
    lr: float | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.steps < 1:
            raise InputError(f"a stage of {self.steps} steps", expected="at least 1", hint="Stage(4, 600)")


Widths = Mapping[str, int]


def widths(model: Reparametrized) -> Widths:
    """Bits of every uniform weight grid and of every activation quantizer, by dotted names."""
    grids = {name: m.form.bits for name, m in model.reparams.items() if isinstance(m, FakeQuantized)}
    return {**grids, **{name: m.bits for name, m in input_quantizers(model).items()}}


def at_least(model: Reparametrized, bits: int, final: Widths) -> None:
    """Set every width to its final one, or to `bits` where that is more, in place; scales follow."""
    quantizers: dict[str, Any] = input_quantizers(model)
    for name, own in final.items():
        wanted = max(bits, own)
        if name in quantizers:
            _widen_inputs(model, name, quantizers[name], wanted)
        else:
            grid = model.reparams[name]
            if isinstance(grid, FakeQuantized) and grid.form.bits != wanted:
                grid.widen(wanted)


def _widen_inputs(model: Reparametrized, name: str, quantizer: Any, bits: int) -> None:
    before, quantizer.bits = quantizer.top, bits
    if quantizer.top == before:
        return
    learned: Any = {part: model.reparams.get(f"{name}.{part}") for part in ("scale", "zero_point")}
    if learned["scale"] is None:
        quantizer.scale.data.mul_((before / quantizer.top) ** 0.5)
    if learned["zero_point"] is None:
        quantizer.zero_point.mul_(quantizer.top / before).round_()
    for reparam in learned.values():
        if reparam is not None:
            reparam.widen(quantizer.top, before)
