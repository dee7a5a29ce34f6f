"""Synthetic images of two tools, used alike: `python -m benchmarks.datafree_peers [--small]`.

64 images from ResNet-20: by `synthesize` with its defaults, and by the data generation of Sony's
model_compression_toolkit with its defaults, at 100 and at its default of 500 iterations per batch of 32; both
on one thread. Then the same reconstruction (BRECQ, as in `benchmarks.datafree`) to 3 and 2 bits with each
set, with 64 real images and with noise; scores are those of the 1,017 lossless CIFAR-10 test images, paired
with the original. Each set's distance from the training data, as `similarity` measures it, stands beside.
Needs PLISSE_PEERS, the folder of environments that `benchmarks.peers` needs too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cifar import interval
from benchmarks.datafree.settings import SETTINGS, rounded
from benchmarks.datafree.sources import cifar, original
from benchmarks.peers.__main__ import python_of
from benchmarks.peers.prepare import prepare
from benchmarks.record import RESULTS, write
from plisse.compress.datafree.similarity import similarity
from plisse.compress.datafree.synthesize import synthesize
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import baked
from plisse.data.cifar10 import read_validation
from plisse.data.folder import data_set
from plisse.data.images import IMAGENET, normalized
from plisse.train.evaluate import evaluate, paired

SHAPE = (3, 32, 32)
N, SMALL_N = 64, 32
SETTINGS_USED = ("W2", "W3")
OURS, REAL, NOISE = "Plissé", "real images", "noise"
PEERS = {"MCT, 100 iterations": 100, "MCT, 500 iterations": 500}


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """images: [N, 3, 32, 32], normalized. cpu_seconds: for making them."""

    images: Tensor
    cpu_seconds: float = 0.0
    note: str = ""


@cache
def images(name: str, n: int) -> Images:
    """The images of a source. Raises RuntimeError where the peer's environment is missing or fails."""
    if name == REAL:
        chosen = read_validation(data_set("cifar10"), 1).sample(n, 0)
        return Images(normalized(chosen.pixels, chosen.white, IMAGENET))
    if name == NOISE:
        return Images(torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0)))
    if name == OURS:
        cpu = time.process_time()
        made = synthesize(original("resnet20"), shape=SHAPE, n=n)
        note = f"iterations per batch: {', '.join(map(str, made.report.iterations))}"
        return Images(made.images, time.process_time() - cpu, note)
    return peer_images(n, 10 if n == SMALL_N else PEERS[name])


def peer_images(n: int, iterations: int) -> Images:
    python = python_of("mct", os.environ.get("PLISSE_PEERS"))
    if isinstance(python, str):
        raise RuntimeError(python)
    worker = Path(__file__).parent / "peers" / "mct_images.py"
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job", Path(folder) / "images.npz"
        prepare(job, ("resnet20",), small=True)
        command = [str(python), str(worker), str(job), str(out), str(n), str(iterations), "0"]
        ended = subprocess.run(command, env={**os.environ, **single}, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(ended.stderr.strip().splitlines()[-1][:300])
        with np.load(out) as found:
            made = torch.from_numpy(found["images"])
            return Images(made, float(found["cpu_seconds"]), f"{iterations} iterations per batch of 32")


def row(name: str, setting: str, n: int) -> dict[str, Any]:
    found = images(name, n)
    model, task = original("resnet20"), cifar()
    batches = BatchList(tuple(Batch(part.clone()) for part in found.images.split(64)))
    step = rounded(SETTINGS[setting], 0, 10 if n == SMALL_N else 100)
    small = baked(step(model, dataclasses.replace(task, calibration=batches)))
    after, before = evaluate(small, task), evaluate(model, task)
    near = similarity(model, batches)
    return {
        "images": name,
        "setting": setting,
        "n": len(found.images),
        "score": after.score,
        "difference": interval(paired(after, before, task.score)),
        "cpu_seconds": round(found.cpu_seconds, 1),
        "distance": near.value,
        "confidence": near.confidence,
        "note": found.note,
    }


def wanted(small: bool) -> list[tuple[str, str]]:
    """images, setting."""
    if small:
        return [(name, "W2") for name in (OURS, "MCT, 100 iterations")]
    first, last = PEERS
    names = (first, OURS, REAL, NOISE)
    return [(name, setting) for setting in SETTINGS_USED for name in names] + [
        (last, s) for s in SETTINGS_USED
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="32 images, 10 iterations, short reconstruction")
    parser.add_argument("--fresh", action="store_true", help="start anew")
    chosen = parser.parse_args()
    path = RESULTS / ("datafree_peers_small.json" if chosen.small else "datafree_peers.json")
    rows = [] if chosen.fresh or not path.exists() else json.loads(path.read_text(encoding="utf-8"))["rows"]
    done = {(each["images"], each["setting"]) for each in rows}
    for name, setting in wanted(chosen.small):
        if (name, setting) in done:
            continue
        try:
            rows.append(row(name, setting, SMALL_N if chosen.small else N))
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)
            continue
        print(rows[-1], flush=True)
        write(path.stem, {"network": "resnet20", "rows": rows})


if __name__ == "__main__":
    main()
