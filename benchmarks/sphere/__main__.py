"""The reduced parameter space: `python -m benchmarks.sphere [--small] [--only PART]`.

training     networks with ReLU on functions of the paper's kind and on two real sets: standard training and
             the reduced space (20 runs each, AdamW, cosine, the same steps; the learning rate of each
             method is the one with the least median error on validation data); errors on test data
storage      bytes of files with and without the canonical form, at 2 to 6 bits, of three digits networks and
             of ResNet-20 where its data are there; scores of the decoded files
order        the order of magnitudes after random rescaling, with and without the form
equivalence  random networks before and after: largest error, neurons removed
steps        weight steps between networks of neighbouring video frames, with and without the form

Rows are written as they come; a run goes on where an earlier one stopped, `--fresh` starts anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.record import RESULTS, write
from benchmarks.sphere import steps, storage, training
from benchmarks.sphere.order import KINDS, pruning_order
from plisse.data.folder import data_folder, data_set
from plisse.networks.open import open_model
from plisse.train.task import Task
from plisse.train.tasks import open_task

Record = dict[str, Any]
Keep = Callable[[Record], Record]
PARTS = ("equivalence", "order", "steps", "storage", "training")
RUNS = 20
SMALL_RUNS, SMALL_STEPS = 4, 100


def equivalence(record: Record, small: bool) -> Record:
    return {"equivalence": storage.equivalence(10 if small else 50)}


def order(record: Record, small: bool) -> Record:
    task = open_task("digits")
    model = storage.trained_digits(task, 0)
    return {"order": [pruning_order(model, task, *kind) for kind in KINDS]}


def measure_steps(small: bool, keep: Keep) -> None:
    """One row for each pair of frames."""
    frames = steps.pictures()
    for pair in steps.PAIRS[: 1 if small else None]:
        rows = keep({}).get("steps", [])
        if list(pair) not in [row["frames"] for row in rows]:
            row = steps.compare(pair, frames, small)
            print(row, flush=True)
            keep({"steps": [*rows, row]})


def measure_storage(network: str, small: bool, keep: Keep) -> None:
    """Three digits networks, or ResNet-20: rows as they come."""
    if network == "digits":
        task = open_task("digits")
        for seed in range(1 if small else 3):
            name = f"digits_cnn, seed {seed}"
            _keep_storage(name, lambda seed=seed: storage.trained_digits(task, seed), task, keep)  # type: ignore[misc]
        return
    weights = data_set("models", "cifar10_resnet20.safetensors")
    _keep_storage("resnet20", lambda: open_model("resnet20", weights=weights), open_task("cifar10"), keep)


def _keep_storage(name: str, make: Callable[[], nn.Module], task: Task, keep: Keep) -> None:
    rows = keep({}).get("storage", [])
    found = {(row["form"], row["bits"]) for row in rows if row["network"] == name}
    if found.issuperset(itertools.product(storage.grids(4), storage.BITS)):
        return
    for made in storage.compare_bytes(name, make(), task, found):
        rows = sorted([*keep({}).get("storage", []), *made], key=storage.place)
        print(*made, sep="\n", flush=True)
        equal = storage.at_equal_divergence(rows)
        keep({"storage": rows, "equal_divergence": equal, "equal_score": storage.at_equal_score(rows)})


def measure_training(case: training.Case, small: bool, keep: Keep) -> None:
    runs = SMALL_RUNS if small else RUNS
    for count in (SMALL_STEPS,) if small else case.steps:
        for method in training.METHODS:
            rows = keep({}).get("training", [])
            own = {row["method"]: row for row in rows if (row["case"], row["steps"]) == (case.name, count)}
            if method in own:
                continue
            standard = own["standard"]["errors"] if own else None
            row = training.measure(case, method, runs, count, standard)
            print({key: row[key] for key in SHOWN}, flush=True)
            keep({"training": [*rows, row]})


SHOWN = ("case", "steps", "method", "rate", "mean", "mean_to_standard", "seconds")


def known(name: str, fresh: bool) -> Record:
    path = Path(RESULTS) / f"{name}.json"
    if fresh or not path.exists():
        return {}
    record: Record = json.loads(path.read_text())
    return {key: value for key, value in record.items() if key != "machine"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer runs and cases, no ResNet-20")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    chosen = parser.parse_args()
    name = "sphere_small" if chosen.small else "sphere"
    record = known(name, chosen.fresh)
    write(name, record)
    wanted = (chosen.only,) if chosen.only else PARTS

    def keep(changed: Record) -> Record:
        """Add to what is in the file by now."""
        whole = {**known(name, False), **changed}
        write(name, whole)
        return whole

    for part, measure in (("equivalence", equivalence), ("order", order)):
        if part in wanted and part not in record:
            print(keep(measure(record, chosen.small))[part], flush=True)
    for case in training.cases(chosen.small) if "training" in wanted else ():
        measure_training(case, chosen.small, keep)
    if "steps" in wanted and data_folder():
        measure_steps(chosen.small, keep)
    networks = ("digits", "resnet20") if data_folder() and not chosen.small else ("digits",)
    for network in networks if "storage" in wanted else ():
        measure_storage(network, chosen.small, keep)


if __name__ == "__main__":
    main()
