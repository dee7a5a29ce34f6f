"""The contract between `python -m benchmarks.peers` and a worker that runs under a peer's own Python.

    PYTHON benchmarks/peers/NAME_worker.py JOB OUT

JOB has job.json ({"networks": [...], "small": bool, "match": str, "setting": str}) and a folder per network,
see `prepare`. The worker writes one JSON line per configuration to standard output, either of

    {"network", "setting", "weight_bits", "activation_bits", "method", "calibration", "outputs", "bytes",
     "bytes_of", "seconds", "note", "packed_bytes"}
    {"network", "setting", "weight_bits", "activation_bits", "method", "calibration", "error"}

and one line {"versions": {...}}. outputs: name of an .npz in OUT with `outputs` [N, D] of the test samples.
bytes: length of the file that a user would ship, bytes_of says which; packed_bytes: what the weights would
take if they were packed, where the tool leaves them in floating point or one byte each. seconds: for making
the network, not for its scoring. Everything else that a tool prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import networks
import numpy as np

MAX_ERROR = 300


@dataclass(frozen=True)
class Setting:
    """weight_bits, activation_bits: 32 for floating point. calibration: what data the tool sees."""

    network: str
    setting: str
    weight_bits: float
    activation_bits: float
    method: str
    calibration: str = "none"


@dataclass(frozen=True)
class Made:
    """A quantized network: arrays in, array out, and what it takes on disk."""

    function: Callable[..., Any]
    bytes: int
    bytes_of: str
    note: str = ""
    packed_bytes: int | None = None


@dataclass(frozen=True)
class Case:
    """make: gets the folder of the network and an empty folder for files."""

    setting: Setting
    make: Callable[[Path, Path], Made]


@cache
def shim_torchvision() -> Any:
    """Declare the two operators without which torchvision built for another torch cannot be imported.

    Gives the library, which has to live as long as the process.
    """
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def versions(*names: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in names}


def main(cases: Iterable[Case], packages: tuple[str, ...]) -> None:
    """Run every case whose network the job names, and report each as a line."""
    job, out = Path(sys.argv[1]), Path(sys.argv[2])
    report = _reporter()
    wanted = networks.describe(job)
    say(report, {"versions": versions(*packages)})
    for number, case in enumerate(cases):
        setting = case.setting
        if setting.network not in wanted["networks"] or wanted.get("match", "") not in setting.method:
            continue
        if wanted.get("setting") not in (None, "", setting.setting):
            continue
        files = out / f"files_{number}"
        files.mkdir(parents=True)
        say(report, {**asdict(setting), **attempt(case, job / setting.network, files, out / f"{number}.npz")})


def attempt(case: Case, folder: Path, files: Path, path: Path) -> dict[str, Any]:
    """Make and run one configuration; an error is a result too."""
    start = time.perf_counter()
    try:
        made = case.make(folder, files)
        seconds = time.perf_counter() - start
        np.savez(path, outputs=networks.run(made.function, folder))
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".strip()[:MAX_ERROR]}
    return {
        "outputs": path.name,
        "bytes": made.bytes,
        "bytes_of": made.bytes_of,
        "note": made.note,
        "packed_bytes": made.packed_bytes,
        "seconds": round(seconds, 2),
    }


def say(report: TextIO, line: dict[str, Any]) -> None:
    report.write(json.dumps(line) + "\n")
    report.flush()


def _reporter() -> TextIO:
    """Standard output for ourselves; what tools print there goes to standard error from now on."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return report
