"""How long compressing without data takes: `python -m benchmarks.datafree.command [--small]`.

1,000 images of 3 x 32 x 32 from ResNet-20 with default settings: by `synthesize` alone, and by the command
line, from start to written file. Wall and CPU time of the process; OMP_NUM_THREADS sets how many threads it
has. Bar: ten minutes on two cores, that is 1,200 CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, write
from plisse.data.folder import data_set

N, SMALL_N = 1000, 64
BAR_S = 600.0
ALONE = """
import sys
from plisse.compress.datafree.synthesize import synthesize
from plisse.networks.open import open_model
made = synthesize(open_model("resnet20", weights=sys.argv[1]).eval(), shape=(3, 32, 32), n=int(sys.argv[2]))
print(made.report.mean_bns, made.report.confidence)
"""
NAMES = ("images alone", "compress --data none --bits 4")


def command(name: str, n: int, folder: Path) -> list[str]:
    """What is run."""
    weights = str(data_set("models", "cifar10_resnet20.safetensors"))
    if name == NAMES[0]:
        return [sys.executable, "-c", ALONE, weights, str(n)]
    given = ["--weights", weights, "--data", "none", "--samples", str(n), "--bits", "4"]
    out = str(folder / "small.plisse")
    return [sys.executable, "-m", "plisse.cli", "compress", "resnet20", *given, "-o", out]


def row(name: str, n: int) -> dict[str, Any]:
    """Time of one command. Raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command(name, n, Path(folder)), check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "command": name,
        "images": n,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load": round(os.getloadavg()[0], 1),
    }


def table(data: dict[str, Any]) -> str:
    """Seconds, beside the bar."""
    lines = ["| command | images | CPU s | wall s | threads | load |", "|---|---|---|---|---|---|"]
    for each in data["rows"]:
        keys = ("command", "images", "cpu_seconds", "wall_seconds", "threads", "load")
        lines.append("| " + " | ".join(str(each[key]) for key in keys) + " |")
    return f"""## Time without data (`python -m benchmarks.datafree.command`)

ResNet-20, images of 3 x 32 x 32, default settings, the whole process. Bar: {BAR_S:.0f} s on two cores.
`load` is the mean number of processes that wanted a core: wall time suffers from others, CPU time hardly.

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"{SMALL_N} images")
    parser.add_argument("--fresh", action="store_true", help="start anew")
    chosen = parser.parse_args()
    name = "datafree_command_small" if chosen.small else "datafree_command"
    path = RESULTS / f"{name}.json"
    rows = [] if chosen.fresh or not path.exists() else json.loads(path.read_text(encoding="utf-8"))["rows"]
    for each in NAMES:
        if not any(old["command"] == each for old in rows):
            rows.append(row(each, SMALL_N if chosen.small else N))
            print(rows[-1], flush=True)
            write(name, {"network": "resnet20", "bar_seconds": BAR_S, "rows": rows})


if __name__ == "__main__":
    main()
