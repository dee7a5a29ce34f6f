"""Runs under the Python that has `nncodec`: INPUT.npz and the squared errors to reach, JSON on the last line.

    python nncodec_worker.py INPUT.npz '[0.43, 136.0]'

For each squared error (summed over all values) the quantization parameter qp is searched until two neighbours
enclose it; bytes and seconds are interpolated linearly in the logarithm of the error. Of the package only the
coder is used, so that everything it imports beside numpy is replaced by empty modules.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import math
import os
import sys
import tempfile
import time
import types
from typing import Any

import numpy as np

SECONDS = ("encode_seconds", "decode_seconds")
ABSENT = ("torch", "torchvision", "pandas", "sklearn", "cv2", "h5py", "tqdm")


class Nothing(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent


class Absent(metaclass=Nothing):
    def __init__(self, *args: Any, **options: Any) -> None:
        pass


class EmptyModule(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for what only other parts of the package need."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in ABSENT or name.startswith("nncodec.framework"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return EmptyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def measure(nnc: Any, weights: dict[str, np.ndarray], qp: int, folder: str) -> dict[str, Any]:
    """Medians of a few runs, fewer for large networks."""
    many = 5 if sum(tensor.size for tensor in weights.values()) < 1 << 21 else 1
    rows = [measure_once(nnc, weights, qp, folder) for _ in range(many)]
    seconds = {name: float(np.median([row[name] for row in rows])) for name in SECONDS}
    return {**rows[0], **seconds}


def measure_once(nnc: Any, weights: dict[str, np.ndarray], qp: int, folder: str) -> dict[str, Any]:
    """One encoding and decoding with the coder's defaults: dependent quantization, row skipping."""
    start = time.process_time()
    data = nnc.compress(
        weights,
        qp=qp,
        use_dq=True,
        row_skipping=True,
        param_opt=True,
        return_bitstream=True,
        bitstream_path=os.path.join(folder, "weights.nnc"),
    )
    encoded = time.process_time()
    decoded = nnc.decompress(data)
    done = time.process_time()
    error = sum(float(np.sum((decoded[k].astype(np.float64) - weights[k]) ** 2)) for k in weights)
    row = {"qp": qp, "bytes": len(data), "squared_error": error}
    return {**row, "encode_seconds": encoded - start, "decode_seconds": done - encoded}


def first_guess(error_per_value: float) -> int:
    """The step is 2^(qp/4), and the error of its trellis a quarter of the step's square."""
    return round(2 * math.log2(max(4 * error_per_value, 1e-30)))


def enclosing(run: Any, target: float, guess: int) -> tuple[int, int]:
    """Neighbouring qp with errors below and above the target."""
    low = guess
    for _ in range(40):
        below, above = run(low), run(low + 1)
        if below["squared_error"] > target:
            low -= 1
        elif above["squared_error"] < target:
            low += 1
        else:
            break
    return low, low + 1


def between(below: dict[str, Any], above: dict[str, Any], target: float) -> dict[str, Any]:
    span = math.log(above["squared_error"] / below["squared_error"])
    share = min(max(math.log(target / below["squared_error"]) / span, 0.0), 1.0)
    names = ("bytes", "encode_seconds", "decode_seconds")
    return {n: math.exp((1 - share) * math.log(below[n]) + share * math.log(above[n])) for n in names}


def main() -> None:
    sys.meta_path.insert(0, Finder())
    with open(os.devnull, "w") as silence:
        spoken, sys.stdout = sys.stdout, silence
        import nncodec.nnc as nnc

        with np.load(sys.argv[1]) as file:
            weights = {name: np.ascontiguousarray(file[name], np.float32) for name in file.files}
        n_values = sum(tensor.size for tensor in weights.values())
        runs: dict[int, dict[str, Any]] = {}
        results = []
        with tempfile.TemporaryDirectory() as folder:

            def run(qp: int) -> dict[str, Any]:
                if qp not in runs:
                    runs[qp] = measure(nnc, weights, qp, folder)
                return runs[qp]

            for target in json.loads(sys.argv[2]):
                low, high = enclosing(run, target, first_guess(target / n_values))
                results.append({**between(run(low), run(high), target), "between": [run(low), run(high)]})
        sys.stdout = spoken
    print(json.dumps(results))


if __name__ == "__main__":
    main()
