"""NNCF on OpenVINO models, the way that writes packed files: int8, and weights compressed to 8 to 2 bits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
from worker import Case, Made, Setting, main

os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")

NAMES = {"resnet20": ("input",), "minilm": networks.FIELDS}
DATA = {"resnet20": "256 images", "minilm": "512 sentences"}


def floating(folder: Path) -> Any:
    import openvino

    return openvino.convert_model(folder / "model.onnx")


def samples(folder: Path, batch_size: int) -> Any:
    """The calibration data, as many samples as NNCF wants batches."""
    import nncf

    found = networks.batches(folder, "calibration", batch_size)
    return nncf.Dataset([dict(zip(NAMES[folder.name], batch, strict=True)) for batch in found])


def saved(model: Any, files: Path) -> int:
    """Bytes of model.xml and model.bin; what is left in floating point is kept in float16, its default."""
    import openvino

    openvino.save_model(model, files / "model.xml", compress_to_fp16=True)
    return sum((files / f"model.{end}").stat().st_size for end in ("xml", "bin"))


def made(model: Any, folder: Path, files: Path, note: str = "") -> Made:
    """Runs the file as saved, in float32 where it is not quantized."""
    import openvino

    size = saved(model, files)
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(files / "model.xml", "CPU")

    def function(*arrays: np.ndarray) -> Any:
        return compiled(dict(zip(NAMES[folder.name], arrays, strict=True)))[0]

    return Made(function, size, "OpenVINO xml and bin", note)


def static(folder: Path, files: Path, accurate: bool) -> Made:
    import nncf

    data = samples(folder, 1)
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if folder.name == "minilm" else {}
    model = nncf.quantize(
        floating(folder),
        data,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=256,
        fast_bias_correction=not accurate,
        **options,
    )
    return made(model, folder, files)


def weights(folder: Path, files: Path, kind: str, group: int | None, options: dict[str, Any]) -> Made:
    import nncf

    if kind.startswith("INT8"):
        model = nncf.compress_weights(floating(folder), mode=nncf.CompressWeightsMode[kind])
        return made(model, folder, files)
    model = nncf.compress_weights(
        floating(folder),
        mode=nncf.CompressWeightsMode[kind],
        ratio=1.0,
        group_size=group,
        dataset=samples(folder, 1) if options else None,
        **options,
    )
    return made(model, folder, files, "word embeddings and last layer 8 bits, its default")


def case(
    network: str, name: str, method: str, make: Callable[..., Made], *arguments: Any, data: str = "none"
) -> Case:
    bits, activations = (float(part) for part in name[1:].split("A"))
    return Case(Setting(network, name, bits, activations, method, data), lambda d, f: make(d, f, *arguments))


def weights_case(network: str, bits: int, kind: str, group: int | None = 32, **options: Any) -> Case:
    words = [word.replace("_", " ") for word, on in options.items() if on]
    where = "" if bits == 8 else (", per channel" if group == -1 else f", groups of {group}")
    method = ", ".join([f"compress_weights {kind}{where}", *words])
    data = DATA[network] if options else "none"
    return case(network, f"W{bits}A32", method, weights, kind, group, options, data=data)


def cases() -> list[Case]:
    found = [
        case("resnet20", "W8A8", "quantize, fast bias correction", static, False, data=DATA["resnet20"]),
        case("resnet20", "W8A8", "quantize, full bias correction", static, True, data=DATA["resnet20"]),
        weights_case("resnet20", 8, "INT8_ASYM"),  # INT4 and INT2 leave its convolutions at 8 bits too
        case("minilm", "W8A8", "quantize, transformer", static, False, data=DATA["minilm"]),
        weights_case("minilm", 8, "INT8_ASYM"),
    ]
    for bits, kinds in ((4, ("INT4_SYM", "INT4_ASYM", "NF4")), (3, ("INT3_SYM",)), (2, ("INT2_SYM",))):
        found += [weights_case("minilm", bits, kind) for kind in kinds]
        last = kinds[1] if bits == 4 else kinds[0]
        found.append(weights_case("minilm", bits, last, awq=True, scale_estimation=True))
        found.append(weights_case("minilm", bits, last, awq=True, scale_estimation=True, gptq=True))
    return found


if __name__ == "__main__":
    main(cases(), ("nncf", "openvino", "numpy"))
