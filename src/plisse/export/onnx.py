"""A network as one ONNX file in floating point."""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plisse.bitstream.atomic import write_atomic
from plisse.core import modules
from plisse.core.batch import Inputs, call, map_inputs
from plisse.core.reparam import baked
from plisse.errors import ExportError
from plisse.export.report import ExportReport
from plisse.export.session import (
    OUTPUT,
    input_names,
    open_session,
    optional,
    relative_difference,
    runner,
    silence,
    tensors_of,
)

OPSET = 17
TOLERANCE = 1e-3
AS_IT_IS: AbstractContextManager[Any] = nullcontext()


def to_onnx(
    model: nn.Module, example: Inputs, path: str | os.PathLike[str], *, opset: int = OPSET
) -> ExportReport:
    """Write `model` as one ONNX file with its weights inside and a free batch axis, checked by ONNX Runtime.

    example: inputs of one batch; axis 0 of every input and of the output is the batch. Where the inputs are
    token symbols (a dictionary of integers [N, T]), axis 1 is free too. Inputs are named
    "input", by the keys of a dictionary, or "input_0", "input_1", ...; the output is "output". opset: of
    ONNX, 17 and up. Activation quantizers are exported as the rounding that they do; `to_integer_onnx`
    exports for integer kernels.

    Raises ExportError where the exporter cannot follow the network, or where ONNX Runtime gives outputs that
    differ by more than 1e-3 of the largest, at this or another batch size; nothing is written then.
    Raises InputError where the extra "onnx" is not installed, OutputError where the file cannot be written.
    """
    data = onnx_bytes(model, example, opset)
    error = check(data, model, example)
    write_atomic(path, data)
    return ExportReport(Path(path), len(data), error)


def onnx_bytes(
    model: nn.Module, example: Inputs, opset: int = OPSET, *, within: AbstractContextManager[Any] = AS_IT_IS
) -> bytes:
    """The ONNX file of the baked network in evaluation mode, not checked. within: entered while tracing."""
    optional("onnx")
    network = _Positional(modules.clone(baked(model)).cpu().eval(), example)
    tensors = tensors_of(map_inputs(example, lambda tensor: tensor.cpu()))
    names = input_names(example)
    failures = []
    for dynamo in (False, True):
        try:
            with AS_IT_IS if dynamo else within:
                return _exported(network, tensors, names, opset, dynamo)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    raise ExportError(
        f"a {type(model).__name__} that torch.onnx cannot export ({'; then '.join(failures)})"[:600],
        expected="operators with an ONNX counterpart",
        hint="another opset, or a network without data-dependent control flow",
    )


def check(data: bytes, model: nn.Module, example: Inputs, tolerance: float = TOLERANCE) -> float:
    """The largest relative difference between file and network, on `example`, on a batch of another size and,
    for token symbols, on sequences of another length.

    Raises ExportError above `tolerance`.
    """
    network = modules.clone(baked(model)).cpu().eval()
    session = open_session(data)
    worst = 0.0
    variants = [example, map_inputs(example, lambda tensor: torch.cat([tensor, tensor[:1]]))]
    if has_sequences(example):
        variants.append(map_inputs(example, lambda tensor: torch.cat([tensor, tensor[:, -1:]], 1)))
    for inputs in variants:
        inputs = map_inputs(inputs, lambda tensor: tensor.cpu())
        with torch.inference_mode():
            reference = call(network, inputs)
        try:
            found = runner(session)(inputs)
        except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
            raise ExportError(
                f"ONNX Runtime refuses inputs of {tuple(tensors_of(inputs)[0].shape)}: {str(error)[:200]}",
                expected="a network for which batch size and sequence length are free",
            ) from error
        worst = max(worst, relative_difference(reference, found))
    if worst > tolerance:
        raise ExportError(
            f"outputs that differ by {worst:.1e} of the largest",
            expected=f"at most {tolerance:.0e}",
            hint="an evaluation-mode network that is a pure function of its inputs",
        )
    return worst


def has_sequences(example: Inputs) -> bool:
    """Whether the inputs are token symbols: a dictionary of integers [N, T] of one shape."""
    return isinstance(example, dict) and all(
        tensor.dim() == 2
        and not tensor.is_floating_point()
        and tensor.shape == next(iter(example.values())).shape
        for tensor in example.values()
    )


class _Positional(nn.Module):
    """The network with its inputs as positional tensors and its main output alone."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        super().__init__()
        self.model = model
        self.has_sequences = has_sequences(example)
        self.names = input_names(example) if isinstance(example, dict) else None
        self.single = isinstance(example, Tensor)

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.names is not None:
            return call(self.model, dict(zip(self.names, tensors, strict=True)))
        return call(self.model, tensors[0] if self.single else tensors)


def _exported(
    network: _Positional, tensors: tuple[Tensor, ...], names: list[str], opset: int, dynamo: bool
) -> bytes:
    """One ONNX file by torch's tracing exporter, or by the one over torch.export (dynamo)."""
    free = {0: "batch", 1: "sequence"} if network.has_sequences else {0: "batch"}
    axes = {**dict.fromkeys(names, free), OUTPUT: {0: "batch"}}
    if network.has_sequences and network(*tensors).dim() == 3:
        axes[OUTPUT] = free
    with tempfile.TemporaryDirectory() as folder, silence(), torch.no_grad():
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network,
            tensors,
            str(file),
            input_names=names,
            output_names=[OUTPUT],
            opset_version=opset,
            dynamo=dynamo,
            external_data=False,
            **({"dynamic_shapes": (tuple(free for _ in names),)} if dynamo else {"dynamic_axes": axes}),
        )
        return file.read_bytes()
