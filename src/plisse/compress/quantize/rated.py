"""Entropy-coded uniform quantization: one step per tensor, symbols without bound, bits left to the coder.

At a given error this takes fewer bits than any grid with few symbols, since rare symbols may be long (Gish
and Pierce 1968). What varies is how values become symbols: nearest with a dead zone, by what each symbol
costs in bits, or along a trellis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from plisse.bitstream.tensors import encode_tensor
from plisse.compress.names import check_names
from plisse.core import modules
from plisse.core.reparam import Reparam, plain, reparametrize, source
from plisse.core.rounding import rate_aware_round
from plisse.core.stored import Stored, Trellis, Uniform, to_bfloat16
from plisse.core.trellis import prefers_trellis, trellis_quantize, trellis_values
from plisse.errors import InputError
from plisse.train.task import Task

Rounding = Literal["nearest", "rate", "trellis"]
ROUNDINGS = ("nearest", "rate", "trellis")
LARGEST = 2**24  # symbols beyond are no exact numbers in float32


class Memo:
    """Remembers the last result for as long as the tensors of a module are the same and unchanged.

    Copies and pickles start empty.
    """

    def __init__(self) -> None:
        self._states: list[tuple[Any, ...]] = []
        self._result: Tensor | None = None

    def get(self, module: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, or its earlier result."""
        tensors = [*module.parameters(), *module.buffers()]
        if any(tensor.is_inference() for tensor in tensors):  # these do not count their changes
            return compute()
        states = [(tensor, tensor._version, tensor.data_ptr(), tensor.device) for tensor in tensors]
        if self._result is None or not _same(states, self._states):
            self._states, self._result = states, compute()
        return self._result

    def __reduce__(self) -> tuple[Any, ...]:
        return Memo, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Memo:
        return Memo()


class RateQuantized(Reparam):
    """x^ = step k with k = sign(x) floor(|x| / step + 1/2 - dead_zone), or k by rate-aware rounding.

    The gradient passes unchanged everywhere (straight-through). Zeros stay exactly zero.

    source: what computes the weight. step: above 0, rounded to bfloat16. rounding: "nearest" or "rate".
    dead_zone: 0 to 0.3, widens the interval that becomes zero (and all others' lower end); "nearest" only.
    rate_weight: worth of a bit in squared steps, about 0.1; "rate" only (core.rounding).

    >>> from plisse.core.reparam import Plain
    >>> RateQuantized(Plain(torch.tensor([-0.9, 0.2, 5.0])), step=0.5).stored().symbols
    array([-2,  0, 10], dtype=int32)
    """

    step: Tensor

    def __init__(
        self,
        source: Reparam,
        step: float,
        rounding: Literal["nearest", "rate"] = "nearest",
        dead_zone: float = 0.0,
        rate_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.source = source
        self.register_buffer("step", torch.tensor(_checked_step(step)))
        self.rounding, self.dead_zone, self.rate_weight = rounding, dead_zone, rate_weight
        self._memo = Memo()

    def forward(self) -> Tensor:
        values = self.source().float()
        return self._symbols(values).float() * self.step + (values - values.detach())

    def stored(self) -> Stored:
        with torch.no_grad():
            symbols = self._symbols(self.source().float()).cpu().numpy()
        return Stored(symbols, symbols.shape, Uniform(np.array([float(self.step)], np.float32)))

    def _symbols(self, values: Tensor) -> Tensor:
        values = values.detach()
        if self.rounding == "nearest":
            return nearest(values, float(self.step), self.dead_zone)
        return self._memo.get(self, lambda: _by_rate(values, float(self.step), self.rate_weight))


class TrellisQuantized(Reparam):
    """Values on the path through a trellis that costs least in error and bits (core.trellis).

    The gradient passes unchanged everywhere. No value is exactly zero: not for pruned weights.

    source: what computes the weight. step: between levels of the union codebook, above 0, rounded to
    bfloat16; a scalar grid of twice this step has the same rate. rate_weight: worth of a bit in squared
    steps, about 0.4.
    """

    step: Tensor

    def __init__(self, source: Reparam, step: float, rate_weight: float = 0.4) -> None:
        super().__init__()
        self.source, self.rate_weight = source, rate_weight
        self.register_buffer("step", torch.tensor(_checked_step(step)))
        self._memo = Memo()

    def forward(self) -> Tensor:
        values = self.source().float()
        path = self._symbols(values).cpu().numpy()
        levels = torch.from_numpy(trellis_values(path.reshape(-1), float(self.step))).to(values.device)
        return levels.reshape(values.shape) + (values - values.detach())

    def stored(self) -> Stored:
        with torch.no_grad():
            path = self._symbols(self.source().float()).cpu().numpy()
        return Stored(path, path.shape, Trellis(float(self.step)))

    def _symbols(self, values: Tensor) -> Tensor:
        values = values.detach()
        return self._memo.get(self, lambda: _by_trellis(values, float(self.step), self.rate_weight))


@dataclass(frozen=True)
class RateQuantize:
    """Quantize the named weights with one step each, for an entropy coder.

    steps: weight name to step, each above 0: the spacing of a scalar grid. rounding: "nearest", "rate", or
    "trellis", which deals levels at half the step, so that the rate stays the same and the error falls;
    tensors that are sparse or below about 1.2 bits are rounded by rate instead (core.trellis).
    dead_zone: 0 to 0.3 steps, for "nearest". rate_weight: worth of a bit in squared steps.
    Raises InputError for a name that is no tensor of the network, or a number out of range.
    """

    steps: Mapping[str, float]
    rounding: Rounding = "nearest"
    dead_zone: float = 0.0
    rate_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise InputError(f"rounding {self.rounding!r}", expected=f"one of {', '.join(ROUNDINGS)}")
        if not 0 <= self.dead_zone <= 0.3:
            raise InputError(f"dead_zone {self.dead_zone}", expected="0 to 0.3 steps")
        if self.rate_weight < 0:
            raise InputError(f"rate_weight {self.rate_weight}", expected="0 or more squared steps per bit")
        for step in self.steps.values():
            _checked_step(step)

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        check_names(self.steps, modules.weight_names(plain(model)))
        return reparametrize(
            model, {name: self.quantized(source(model, name), step) for name, step in self.steps.items()}
        )

    def quantized(self, values: Reparam, step: float) -> Reparam:
        """The reparametrization of one tensor."""
        if self.rounding == "nearest":
            return RateQuantized(values, step, "nearest", self.dead_zone)
        if self.rounding == "trellis" and _prefers_trellis(values, step / 2):
            return TrellisQuantized(values, step / 2, 4 * self.rate_weight)
        return RateQuantized(values, step, "rate", rate_weight=self.rate_weight)


def rescale(network: nn.Module, factor: float) -> None:
    """Multiply every entropy-coded step of `network` by `factor`, in place, rounded to bfloat16."""
    for module in network.modules():
        if isinstance(module, (RateQuantized, TrellisQuantized)):
            module.step.fill_(float(to_bfloat16(float(module.step) * factor)))


def coded_bytes(network: nn.Module) -> int:
    """What the entropy-coded weights of `network` take in a file."""
    coded = (m for m in network.modules() if isinstance(m, (RateQuantized, TrellisQuantized)))
    return sum(len(encode_tensor(module.stored())) for module in coded)


def _checked_step(step: float) -> float:
    if not (np.isfinite(step) and step > 0):
        raise InputError(f"step {step}", expected="a positive number")
    return float(to_bfloat16(step))


def _prefers_trellis(values: Reparam, step: float) -> bool:
    with torch.no_grad():
        return prefers_trellis(values().detach().float().cpu().numpy(), step)


def nearest(values: Tensor, step: float, dead_zone: float) -> Tensor:
    size = torch.floor(values.abs() / step + (0.5 - dead_zone)).clamp(0, LARGEST)
    return (torch.sign(values) * size).to(torch.int32)


def _by_rate(values: Tensor, step: float, rate_weight: float) -> Tensor:
    symbols = rate_aware_round(values.cpu().numpy(), step, rate_weight).clip(-LARGEST, LARGEST)
    return torch.from_numpy(symbols).to(values.device)


def _by_trellis(values: Tensor, step: float, rate_weight: float) -> Tensor:
    path = trellis_quantize(values.cpu().numpy().reshape(-1), step, rate_weight)
    return torch.from_numpy(path).to(values.device).reshape(values.shape)


def _same(now: list[tuple[Any, ...]], before: list[tuple[Any, ...]]) -> bool:
    return len(now) == len(before) and all(
        tensor is earlier and state == before_state
        for (tensor, *state), (earlier, *before_state) in zip(now, before, strict=True)
    )
