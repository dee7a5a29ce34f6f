"""Writing results: one JSON file per benchmark, with the facts of the machine that matter for reading it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from plisse.bitstream.atomic import write_atomic

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("plisse", "torch", "numpy", "onnxruntime", "transformers", "torch-pruning", "constriction")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def write(name: str, data: Mapping[str, Any]) -> Path:
    """Write `data` and the machine's facts to benchmarks/results/{name}.json; no paths, no host names."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**data, "machine": machine()}, indent=2, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())
    return path


def machine() -> dict[str, Any]:
    """Processor, cores, threads and versions."""
    information = _processor()
    return {
        "processor": information.get("model name", platform.machine()),
        "instructions": [word for word in INSTRUCTIONS if word in information.get("flags", "").split()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> dict[str, str]:
    """The first processor's entries where the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
