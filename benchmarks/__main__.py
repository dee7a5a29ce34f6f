"""Every benchmark one after the other: `python -m benchmarks`. Each writes benchmarks/results/NAME.json."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "coder",
    "cifar",
    "minilm",
    "latency",
    "quantization",
    "quantization_training",
    "recurrent",
    "mixed_precision",
    "draws",
    "integer",
    "joint",
    "lowrank",
    "lowrank.unseen",
    "lowrank_training",
    "lowrank_tensors",
    "lowrank.widths",
    "lowrank.peers",
    "datafree",
    "datafree.ranges",
    "datafree.command",
    "datafree_text",
    "similarity",
    "sphere",
    "subspace",
    "governor",
    "video",
)


def main() -> None:
    for name in NAMES:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.results"], check=True)


if __name__ == "__main__":
    main()
