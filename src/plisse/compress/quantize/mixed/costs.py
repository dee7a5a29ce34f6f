"""What a weight costs at a width: bytes as written, bit operations, or measured seconds; and the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.quantize.mixed.candidates import FLOAT
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.hooks import before_calls
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.core.reparam import baked, plain
from plisse.cost.budget import Budget, Limit
from plisse.cost.macs import layer_macs
from plisse.cost.measure import Runnable, interleaved
from plisse.errors import GraphError, InputError
from plisse.networks.assets import assets
from plisse.networks.build import build

BITS_SQUARED = FLOAT * FLOAT
KINDS = ("bytes", "bitops", "latency")

Seconds = Mapping[str, Mapping[int, float]]
"""Layer name and width to seconds per pass."""


@dataclass(frozen=True)
class Bound:
    """One upper bound: kind "bytes", "bitops" or "latency"."""

    kind: str
    limit: Limit

    @classmethod
    def parse(cls, text: str) -> Bound:
        """One part of `Budget.parse`, with bit operations in the units of MACs.

        >>> Bound.parse("bitops=0.05x")
        Bound(kind='bitops', limit=Limit(value=0.05, relative=True))
        """
        kind, _, number = text.partition("=")
        kind = kind.strip().lower()
        if kind not in KINDS or "," in text:
            raise InputError(
                f"budget {text!r}", expected=f"one of {', '.join(KINDS)} with a number", hint="bytes=0.12x"
            )
        field = "macs" if kind == "bitops" else kind
        limit: Limit = getattr(Budget.parse(f"{field}={number}"), field)
        return cls(kind, limit)


def matrix_macs(model: nn.Module, example: Inputs) -> dict[str, float]:
    """MACs of every weight matrix in one pass over `example`. A module that holds several (a recurrent layer)
    shares its MACs by their sizes; matrices that are only looked up (embeddings) have 0."""
    macs, found = layer_macs(model, example), {}
    for name in modules.weight_names(model):
        layer = name.rpartition(".")[0]
        held = modules.matrices(model.get_submodule(layer))
        share = modules.tensor(model, name).numel() / max(1, sum(value.numel() for value in held.values()))
        found[name] = macs.get(layer, 0) * share
    return found


def bit_operations(macs: float, bits: int, input_bits: int | None) -> float:
    """MACs x bits of the weight x bits of the input (HAWQ-V3, Yao et al. 2021); floats have 32."""
    return macs * bits * (input_bits or FLOAT)


def float_bytes(model: nn.Module) -> int:
    """Length of the network in a plain safetensors file."""
    state = modules.distinct_state(baked(model))
    return len(safetensors.torch.save(state))


def written_bytes(model: nn.Module, original: nn.Module, task_name: str) -> int:
    """Length of the file of `model` as `compress` writes it, with what belongs to `original`'s file. A
    network whose origin is unknown is measured against itself as skeleton."""
    network = plain(model)
    try:
        origin = origin_of(network)
        skeleton = build(origin, allow=(origin.name,))
    except GraphError:
        model, skeleton = modules.clone(model), modules.clone(network)
        with_origin(plain(model), Origin("factory", "network:unknown"))
    notes = {"task": task_name.partition(":")[0]}
    return len(modelfile.dumps(model, skeleton, assets=assets(original), notes=notes))


def measured_seconds(
    model: nn.Module,
    example: Inputs,
    kernels: Mapping[int, Callable[[Any], Runnable]],
    *,
    repeats: int = 30,
    threads: int | None = None,
) -> dict[str, dict[int, float]]:
    """Seconds of every weighted layer at every width, each layer run alone on the input that it gets in a
    pass over `example`, the widths in turns.

    kernels: width to a function from a layer to what runs it at that width; 32 is the layer itself unless
    said otherwise. repeats, threads: as in `latency`. Layers that `example` does not reach, and those that a
    kernel refuses with GraphError or InputError, are left out or lack that width.
    """
    model = baked(model).eval()
    inputs = _layer_inputs(model, example)
    return {
        name: _timed(
            model.get_submodule(name), value, {FLOAT: lambda layer: layer, **kernels}, repeats, threads
        )
        for name, value in inputs.items()
    }


def _layer_inputs(model: nn.Module, example: Inputs) -> dict[str, Tensor]:
    """What enters every weighted layer when it is first called."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _: Any, inputs: tuple[Any, ...]) -> None:
        found.setdefault(name, inputs[0].detach().clone())

    with before_calls(dict(modules.weighted_layers(model)), keep), torch.no_grad():
        call(model, example)
    return found


def _timed(
    layer: nn.Module,
    value: Inputs,
    kernels: Mapping[int, Callable[[Any], Runnable]],
    repeats: int,
    threads: int | None,
) -> dict[int, float]:
    runs: dict[str, Runnable] = {}
    for bits, make in kernels.items():
        try:
            runs[str(bits)] = make(layer)
        except (GraphError, InputError):
            continue
    timings = interleaved(runs, value, repeats=repeats, threads=threads)
    return {int(bits): timing.median for bits, timing in timings.items()}
