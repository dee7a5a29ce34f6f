"""ONNX Runtime's quantizer: static QDQ for ResNet-20, dynamic int8 and MatMulNBits for the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks
import numpy as np
from worker import Case, Made, Setting, main

IMAGES, SENTENCES = "256 images", "512 sentences"


class Reader:
    """Calibration batches as the feeds of a session; also the reader that GPTQ copies."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names
        self.rewind()

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        self.rewind()
        return self.waiting

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.waiting, None)

    def rewind(self) -> None:
        found = networks.batches(self.folder, "calibration")
        self.waiting = iter([dict(zip(self.names, batch, strict=True)) for batch in found])


def session_of(path: Path, fused: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def made(path: Path, fused: bool = True) -> Made:
    session = session_of(path, fused)
    note = "" if fused else "no kernel for 4-bit activations: runs only without graph optimization"
    names = [node.name for node in session.get_inputs()]

    def function(*arrays: np.ndarray) -> Any:
        return session.run(None, dict(zip(names, arrays, strict=True)))[0]

    return Made(function, path.stat().st_size, "ONNX file", note)


def prepared(folder: Path, files: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = files / "prepared.onnx"
    quant_pre_process(str(folder / "model.onnx"), str(path), skip_symbolic_shape=True)
    return path


def edge_weights(path: Path) -> list[str]:
    """Names of the weights of the first and the last layer."""
    import onnx

    nodes = [n for n in onnx.load(str(path)).graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return [nodes[0].input[1], nodes[-1].input[1]]


def static(folder: Path, files: Path, weights: str, activations: str, ranges: str) -> Made:
    from onnxruntime import quantization as q

    path = prepared(folder, files)
    overrides = {name: [{"quant_type": q.QuantType.QInt8}] for name in edge_weights(path)}
    extra: dict[str, Any] = {"ActivationSymmetric": False, "WeightSymmetric": True}
    if weights != "QInt8":
        extra["TensorQuantOverrides"] = overrides
    names = [node.name for node in session_of(path).get_inputs()]
    q.quantize_static(
        str(path),
        str(files / "quantized.onnx"),
        Reader(folder, names),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=getattr(q.QuantType, activations),
        weight_type=getattr(q.QuantType, weights),
        calibrate_method=getattr(q.CalibrationMethod, ranges),
        extra_options=extra,
    )
    return made(files / "quantized.onnx", fused=activations != "QUInt4")


def dynamic(
    folder: Path, files: Path, operators: list[str] | None = None, source: Path | None = None
) -> Made:
    from onnxruntime import quantization as q

    path = source or prepared(folder, files)
    target = files / "dynamic.onnx"
    q.quantize_dynamic(
        str(path),
        str(target),
        op_types_to_quantize=operators or ["MatMul", "Gemm", "Gather"],
        per_channel=True,
        weight_type=q.QuantType.QInt8,
    )
    return made(target)


def matmul(folder: Path, files: Path, bits: int, algorithm: str, block: int, symmetric: bool) -> Made:
    """MatMulNBits for the linear layers, then the embeddings to 8 bits."""
    from onnxruntime.quantization import matmul_nbits_quantizer as m

    path = prepared(folder, files)
    options: dict[str, Any] = {"block_size": block, "is_symmetric": symmetric, "bits": bits}
    if algorithm == "HQQ":
        options["algo_config"] = m.HQQWeightOnlyQuantConfig(block_size=block, bits=bits)
    elif algorithm == "k-quant":
        options["algo_config"] = m.KQuantWeightOnlyQuantConfig()
    elif algorithm == "GPTQ":
        reader = Reader(folder, list(networks.FIELDS))
        options["algo_config"] = m.GPTQWeightOnlyQuantConfig(reader, block_size=block)
    elif algorithm == "RTN":
        options["algo_config"] = m.RTNWeightOnlyQuantConfig()
    quantizer = m.MatMulNBitsQuantizer(str(path), **options)
    quantizer.process()
    low = files / "low.onnx"
    quantizer.model.save_model_to_file(str(low))
    return dynamic(folder, files, ["Gather"], low)


def case(
    network: str, name: str, method: str, make: Callable[..., Made], *arguments: Any, data: str = "none"
) -> Case:
    weights, activations = (float(part) for part in name[1:].split("A"))
    return Case(
        Setting(network, name, weights, activations, method, data), lambda d, f: make(d, f, *arguments)
    )


def static_case(weights: int, activations: int, ranges: str) -> Case:
    edges = "" if weights == 8 else ", first and last layer 8 bits"
    method = f"static QDQ u{activations}s{weights} per channel, {ranges}{edges}"
    arguments = (f"QInt{weights}", f"QUInt{activations}", ranges)
    return case("resnet20", f"W{weights}A{activations}", method, static, *arguments, data=IMAGES)


def matmul_case(bits: int, algorithm: str, block: int = 32, symmetric: bool = False) -> Case:
    kind = f", {'symmetric' if symmetric else 'asymmetric'}" if algorithm == "default" else ""
    method = f"MatMulNBits {algorithm}, groups of {block}{kind}, embeddings 8 bits"
    data = SENTENCES if algorithm == "GPTQ" else "none"
    return case("minilm", f"W{bits}A32", method, matmul, bits, algorithm, block, symmetric, data=data)


def cases() -> list[Case]:
    grid = ((8, 8), (4, 8), (4, 4))
    found = [static_case(w, a, ranges) for w, a in grid for ranges in ("MinMax", "Percentile")]
    found.append(case("minilm", "W8A8", "dynamic int8 per channel", dynamic))
    for bits in (8, 4, 2):
        found += [matmul_case(bits, "default"), matmul_case(bits, "default", symmetric=True)]
    found += [matmul_case(bits, "HQQ") for bits in (4, 2)]
    found += [matmul_case(4, "default", 128), matmul_case(4, "k-quant"), matmul_case(4, "GPTQ")]
    return found


if __name__ == "__main__":
    main(cases(), ("onnxruntime", "onnx", "numpy"))
