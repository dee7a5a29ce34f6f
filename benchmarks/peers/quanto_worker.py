"""optimum-quanto: packed weights of 8, 4 and 2 bits, and calibrated 8-bit activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import torch
from worker import Case, Made, Setting, main

EDGES = ["conv1", "linear"]


def saved(model: torch.nn.Module, files: Path) -> int:
    """Bytes of its state as safetensors, the file that its README documents."""
    from safetensors.torch import save_file

    path = files / "model.safetensors"
    save_file({name: value.contiguous().clone() for name, value in model.state_dict().items()}, path)
    return path.stat().st_size


def quantized(
    folder: Path, files: Path, weights: str, activations: str | None, edges: str | None, hqq: bool
) -> Made:
    from optimum import quanto

    model = networks.NETWORKS[folder.name](folder)
    options: dict[str, Any] = {"activations": getattr(quanto, activations) if activations else None}
    if hqq:
        options["optimizer"] = quanto.HqqOptimizer()
    if edges:
        edge = {k: v for k, v in options.items() if k != "optimizer"}
        quanto.quantize(model, weights=getattr(quanto, edges), include=EDGES, **edge)
        quanto.quantize(model, weights=getattr(quanto, weights), exclude=EDGES, **options)
    else:
        quanto.quantize(model, weights=getattr(quanto, weights), **options)
    if activations:
        with torch.no_grad(), quanto.Calibration():
            for batch in networks.batches(folder, "calibration"):
                model(*map(torch.from_numpy, batch))
    quanto.freeze(model)
    return Made(networks.torch_function(model), saved(model, files), "safetensors of its packed state")


def case(network: str, weights: int, activations: int = 32, edges: bool = False, hqq: bool = False) -> Case:
    calibrated = activations < 32
    name = f"W{weights}A{activations}"
    method = "HQQ scales" if hqq else "max scales"
    method += ", groups of 128" if weights < 8 else ", per channel"
    method += ", first and last layer 8 bits" if edges else ""
    data = "none" if not calibrated else ("256 images" if network == "resnet20" else "512 sentences")
    setting = Setting(network, name, weights, activations, method, data)

    def make(folder: Path, files: Path) -> Made:
        return quantized(
            folder,
            files,
            f"qint{weights}",
            f"qint{activations}" if calibrated else None,
            "qint8" if edges else None,
            hqq,
        )

    return Case(setting, make)


CASES = [
    case("resnet20", 8),
    case("resnet20", 8, 8),
    case("resnet20", 4, 8, edges=True),
    case("resnet20", 4),
    case("resnet20", 4, edges=True),
    case("resnet20", 4, edges=True, hqq=True),
    case("resnet20", 2, edges=True),
    case("resnet20", 2, edges=True, hqq=True),
    case("minilm", 8),
    case("minilm", 8, 8),
    case("minilm", 4),
    case("minilm", 4, hqq=True),
    case("minilm", 2),
    case("minilm", 2, hqq=True),
]

if __name__ == "__main__":
    main(CASES, ("optimum-quanto", "torch", "transformers", "numpy"))
