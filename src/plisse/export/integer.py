"""A network as one ONNX file that ONNX Runtime runs in 8-bit integers.

Quantize/dequantize pairs (QDQ) around every matrix product: activations unsigned, 256 steps per tensor,
weights signed, symmetric per output channel. This pairing (u8s8) is the one with fast kernels on x86; signed
activations cost three times as much there. Batch norms are folded into convolutions before.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plisse.bitstream.atomic import write_atomic
from plisse.core import modules
from plisse.core.batch import Inputs, call, map_inputs
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.fakequant import InputQuantizer
from plisse.core.hooks import take_down
from plisse.core.reparam import baked
from plisse.errors import ExportError, InputError, StaysFloat
from plisse.export.attention import FusedAttention, with_sums
from plisse.export.onnx import OPSET, check, has_sequences, onnx_bytes
from plisse.export.report import ExportReport
from plisse.export.rotated import rotated_layers, rotated_nodes, with_names
from plisse.export.session import feeds, open_session, optional, relative_difference, runner, silence
from plisse.export.shapes import with_plain_shapes
from plisse.export.stem import with_fast_stems

Range = Literal["minmax", "percentile"]

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
LEAST_SNR = 6.0
INTEGER = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "ConvInteger",
    "DynamicQuantizeMatMul",
)

TEXT = ["MatMul", "Gemm", "Gather"]
"""What is quantized in networks over token symbols. Ranges of activations are found anew for every input
(dynamic quantization): outliers of a few channels and attention masks leave no static range that fits."""


def to_integer_onnx(
    model: nn.Module,
    example: Inputs,
    calibration: Iterable[Inputs],
    path: str | os.PathLike[str],
    *,
    ranges: Range = "minmax",
    least_snr: float = LEAST_SNR,
    strict: bool = False,
) -> ExportReport:
    """Write `model` as an integer ONNX file and check that it runs in integers and agrees with the network.

    Networks over images get static ranges (QDQ), and convolutions with stride over the channels of an image
    a faster form (`stem`); networks over token symbols get their ranges at run time, and attention as one
    operator of ONNX Runtime's own domain (`attention`), which other runtimes may not know.

    calibration: inputs (without targets) from which the ranges of activations are read; a few batches do.
    ranges: "minmax" covers everything seen; "percentile" cuts 0.001 % off, for activations with outliers.
    least_snr: bound in dB on the outputs over the calibration inputs, below which the file is refused.
    strict: refuse a network with layers that stay in floating point.

    Recurrent layers and layers with rotations (`Incoherent`) stay in floating point, with a warning that
    names them (`StaysFloat`), or an error under `strict`.

    Raises ExportError for these, where the float export fails, no integer kernel runs, or the outputs are too
    far off; nothing is written then. Raises InputError without calibration inputs or without the extra
    "onnx".
    """
    batches = [map_inputs(inputs, lambda tensor: tensor.cpu()) for inputs in calibration]
    if not batches:
        raise InputError("no calibration inputs", expected="at least one batch")
    unrounded = _without_input_quantizers(model)
    _say_what_stays(unrounded, strict)
    example = map_inputs(example, lambda tensor: tensor.cpu())
    floating = (_text if has_sequences(example) else _images)(with_names(unrounded), example)
    with tempfile.TemporaryDirectory() as folder, silence():
        quantized = _dynamic if has_sequences(example) else _static
        data = quantized(floating, batches, Path(folder), ranges)
        operators = integer_operators(data, Path(folder))
    if not operators:
        raise ExportError(
            f"a {type(model).__name__} in which ONNX Runtime runs nothing in integers",
            expected=f"at least one of {', '.join(INTEGER[:4])}",
            hint="to_onnx for networks without convolutions and linear layers, or whose layers are rotated",
        )
    report = _compared(data, model, batches, Path(path), operators)
    if report.snr is None or report.snr < least_snr:
        raise ExportError(
            f"integer outputs with {report.snr:.1f} dB, agreement {report.agreement}",
            expected=f"at least {least_snr:g} dB",
            hint="ranges='percentile', more calibration inputs, or a lower least_snr",
        )
    write_atomic(path, data)
    return report


def _say_what_stays(model: nn.Module, strict: bool) -> None:
    """Warn of layers that are left in floating point, or refuse them."""
    found = rotated_layers(model) | {n: m for n, m in model.named_modules() if isinstance(m, RECURRENT)}
    layers = [f"{type(layer).__name__} {name!r}" for name, layer in found.items()]
    if not layers:
        return
    listed = ", ".join(layers[:12]) + (f" and {len(layers) - 12} more" if len(layers) > 12 else "")
    if strict:
        raise ExportError(
            f"layers with no integer form: {listed}",
            expected="a network that runs in integers throughout",
            hint="other layers, no Incoherent() before, or strict=False, which leaves them in floating point",
        )
    warnings.warn(f"stays in floating point: {listed}", StaysFloat, stacklevel=3)


def _images(model: nn.Module, example: Inputs) -> bytes:
    floating = onnx_bytes(with_fast_stems(model, example), example, OPSET)
    check(floating, model, example)
    return floating


def _text(model: nn.Module, example: Inputs) -> bytes:
    """With attention as one operator, or as the exporter writes it where that gives something else."""
    floating = with_plain_shapes(onnx_bytes(model, example, OPSET, within=FusedAttention()))
    try:
        check(floating, model, example)
    except ExportError:
        floating = onnx_bytes(model, example, OPSET)
        check(floating, model, example)
    return floating


def integer_operators(data: bytes, folder: Path) -> dict[str, int]:
    """How often each integer kernel stands in the graph that ONNX Runtime really runs."""
    onnx = optional("onnx")
    optimized = folder / "optimized.onnx"
    open_session(data, optimized=optimized)
    kinds = [node.op_type for node in onnx.load(str(optimized)).graph.node]
    return {kind: kinds.count(kind) for kind in INTEGER if kind in kinds}


class _Reader:
    """Calibration inputs as ONNX Runtime's quantizer asks for them: one dictionary at a time, then None."""

    def __init__(self, batches: list[Inputs], known: list[str]) -> None:
        self.batches, self.known = batches, known
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        return next(self.waiting, None)

    def rewind(self) -> None:
        self.waiting: Iterator[dict[str, Any]] = iter([feeds(batch, self.known) for batch in self.batches])


def _static(floating: bytes, batches: list[Inputs], folder: Path, ranges: Range) -> bytes:
    """QDQ: unsigned activations with ranges from calibration, signed weights with a scale per channel."""
    quantization, prepared, result = _prepared(floating, folder)
    session = open_session(prepared)
    methods = quantization.CalibrationMethod
    quantization.quantize_static(
        str(prepared),
        str(result),
        _Reader(batches, [node.name for node in session.get_inputs()]),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=methods.MinMax if ranges == "minmax" else methods.Percentile,
        nodes_to_exclude=_left_alone(prepared),
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    return result.read_bytes()


def _dynamic(floating: bytes, batches: list[Inputs], folder: Path, ranges: Range) -> bytes:
    """Signed weights with a scale per channel; activations get their range at run time."""
    quantization, prepared, result = _prepared(floating, folder)
    quantization.quantize_dynamic(
        str(prepared),
        str(result),
        op_types_to_quantize=TEXT,
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=_left_alone(prepared),
        extra_options={"DefaultTensorType": optional("onnx").TensorProto.FLOAT},
    )
    return with_sums(result.read_bytes())


def _left_alone(prepared: Path) -> list[str]:
    return rotated_nodes(optional("onnx").load(str(prepared)).graph.node)


def _prepared(floating: bytes, folder: Path) -> tuple[Any, Path, Path]:
    """ONNX Runtime's quantizer, the file made ready for it, and where its result goes."""
    shape_inference = optional("onnxruntime.quantization.shape_inference")
    plain, prepared, result = (folder / f"{name}.onnx" for name in ("plain", "prepared", "result"))
    plain.write_bytes(floating)
    shape_inference.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    return optional("onnxruntime.quantization"), prepared, result


def _compared(
    data: bytes, model: nn.Module, batches: list[Inputs], path: Path, operators: dict[str, int]
) -> ExportReport:
    """File against network on the calibration inputs."""
    network = modules.clone(baked(model)).cpu().eval()
    run = runner(open_session(data))
    with torch.inference_mode():
        reference = [call(network, inputs) for inputs in batches]
    found = [run(inputs) for inputs in batches]
    worst = max(relative_difference(a, b) for a, b in zip(reference, found, strict=True))
    signal = sum(float(a.double().square().sum()) for a in reference)
    noise = sum(float((a - b).double().square().sum()) for a, b in zip(reference, found, strict=True))
    snr = 10 * float(torch.log10(torch.tensor(signal / max(noise, 1e-300), dtype=torch.float64)))
    return ExportReport(path, len(data), worst, _agreement(reference, found), snr, operators)


def _agreement(reference: list[Tensor], found: list[Tensor]) -> float | None:
    if reference[0].dim() != 2 or reference[0].shape[1] < 2:
        return None
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(reference, found, strict=True)]
    return float(torch.cat(same).float().mean())


def _without_input_quantizers(model: nn.Module) -> nn.Module:
    """A baked copy whose activations are not rounded; the file gets its own ranges and real integers."""
    plain = modules.clone(baked(model)).cpu()
    for name, module in list(plain.named_modules()):
        if isinstance(module, (InputQuantizer, DynamicQuantizer)):
            layer, _, child = name.rpartition(".")
            take_down(plain.get_submodule(layer), child)
    return plain
