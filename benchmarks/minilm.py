"""MiniLM, a sentence encoder of 22.7 M parameters, on STS-B: `python -m benchmarks.minilm [--small]`.

Calibration uses sentences of the training split without their scores; nothing is trained. The score is the
Spearman correlation on the development split (1,500 pairs), from the decoded file, paired with the original.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks.cifar import summary
from benchmarks.record import write
from plisse.compress.compress import compress
from plisse.networks.open import open_model
from plisse.train.task import Task
from plisse.train.tasks import open_task

BUDGETS = (12.0, 8.5, 6.5)
SMALL = (8.5,)


def point(task: Task, megabytes: float) -> dict[str, Any]:
    """Compress to a file of at most `megabytes` (10^6 bytes), tokenizer included."""
    model = open_model("minilm")
    start = time.perf_counter()
    result = compress(model, task, budget=f"bytes={megabytes}MB", finetune_steps=0)
    row = summary(result)
    return {
        "megabytes_asked": megabytes,
        "seconds": round(time.perf_counter() - start, 1),
        **row,
        "kept": row["score_after"] / row["score_before"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one point")
    chosen = parser.parse_args()
    model = open_model("minilm")
    task = open_task("stsb", model=model)
    rows = []
    for megabytes in SMALL if chosen.small else BUDGETS:
        rows.append(point(task, megabytes))
        print(rows[-1], flush=True)
        write("minilm_small" if chosen.small else "minilm", {"network": "minilm", "points": rows})


if __name__ == "__main__":
    main()
