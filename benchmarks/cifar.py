"""ResNet-20 on CIFAR-10, from 2x to 40x: `python -m benchmarks.cifar [--small]`.

Which images are used for what:
- calibration (choice of step sizes, no labels): 512 of the 5,000 `val` images
- fine-tuning (no labels either; the original network is the teacher): the 40,000 `train` images
- score, paired with the original: the 1,017 lossless test images; beside it the 5,000 JPEG test images, a
  shifted set. No choice is made on either.

Sizes are lengths of the files as written, everything included; scores are those of the decoded file.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from benchmarks.record import RESULTS, write
from plisse.compress.compress import compress
from plisse.compress.result import Result
from plisse.data.folder import data_set
from plisse.networks.open import open_model
from plisse.train.evaluate import evaluate, paired
from plisse.train.task import Task
from plisse.train.tasks import cifar10_jpeg_holdout, open_task

POINTS = ((2.0, 0), (4.0, 0), (8.0, 0), (12.0, 624), (20.0, 936), (40.0, 2496))
SMALL = ((8.0, 0), (20.0, 60))


def point(task: Task, ratio: float, steps: int) -> dict[str, Any]:
    """Compress to 1/ratio of the bytes and score on both sets."""
    model = open_model("resnet20", weights=data_set("models", "cifar10_resnet20.safetensors"))
    start = time.perf_counter()
    result = compress(model, task, budget=f"bytes={1 / ratio:.6f}x", finetune_steps=steps)
    seconds = time.perf_counter() - start
    shifted = cifar10_jpeg_holdout()
    jpeg_before, jpeg_after = (evaluate(net, task, shifted) for net in (model, result.model))
    return {
        "ratio_asked": ratio,
        "finetune_steps": steps,
        "seconds": round(seconds, 1),
        **summary(result),
        "jpeg_before": jpeg_before.score,
        "jpeg_after": jpeg_after.score,
        "jpeg_difference": interval(paired(jpeg_after, jpeg_before, task.score)),
    }


def summary(result: Result) -> dict[str, Any]:
    """Bytes and paired scores of one compression."""
    return {
        "bytes_before": result.before.bytes,
        "bytes_after": result.after.bytes,
        "ratio": result.ratio,
        "bits_per_parameter": 8 * result.after.bytes / result.before.params,
        "score_before": result.score_before.score,
        "score_after": result.score_after.score,
        "score_interval": [result.score_after.low, result.score_after.high],
        "difference": interval(result.difference),
        "samples": result.difference.n,
    }


def interval(difference: Any) -> list[float]:
    """value, low, high."""
    return [difference.value, difference.low, difference.high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two points, a minute")
    parser.add_argument("--only", type=float, help="run one ratio of the curve again")
    chosen = parser.parse_args()
    task = open_task("cifar10")
    name = "cifar_small" if chosen.small else "cifar"
    rows = [row for row in read(name) if chosen.only and row["ratio_asked"] != chosen.only]
    for ratio, steps in SMALL if chosen.small else POINTS:
        if chosen.only and ratio != chosen.only:
            continue
        rows.append(point(task, ratio, steps))
        print(rows[-1], flush=True)
        rows.sort(key=lambda row: row["ratio_asked"])
        write(name, {"network": "resnet20", "points": rows})


def read(name: str) -> list[dict[str, Any]]:
    """The points of an earlier run, none without one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["points"] if path.exists() else []


if __name__ == "__main__":
    main()
