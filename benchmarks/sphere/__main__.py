"""The reduced parameter space: `python -m benchmarks.sphere [--small] [--only PART]`.

training     networks with ReLU on functions of the paper's kind and on two real sets: standard training and
             the reduced space (10 runs each, AdamW, cosine, the same steps; the learning rate of each method
             is the one with the least median error on validation data); errors on test data
storage      bytes of files with and without the canonical form, at 2 to 6 bits; scores of the decoded files
order        the order of magnitudes after random rescaling, with and without the form
equivalence  random networks before and after: largest error, neurons removed

Rows are written as they come; a run goes on where an earlier one stopped, `--fresh` starts anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, write
from benchmarks.sphere import storage, training
from plisse.data.folder import data_folder, data_set
from plisse.networks.open import open_model
from plisse.train.tasks import open_task

Record = dict[str, Any]
PARTS = ("equivalence", "order", "storage", "training")
RUNS, STEPS = 10, 500


def equivalence(record: Record, small: bool) -> Record:
    return {"equivalence": storage.equivalence(10 if small else 50)}


def order(record: Record, small: bool) -> Record:
    task = open_task("digits")
    model = storage.trained_digits(task, 0)
    kinds = ((torch.float64, False), (torch.float32, False), (torch.float32, True))
    return {"order": [storage.pruning_order(model, task, *kind) for kind in kinds]}


def with_storage(record: Record, small: bool, name: str) -> Record:
    """Three digits networks, or ResNet-20 where its data are there."""
    rows = [row for row in record.get("storage", []) if not row["network"].startswith(name)]
    if name == "digits":
        task = open_task("digits")
        for seed in range(1 if small else 3):
            rows += storage.compare_bytes(
                f"digits_cnn, seed {seed}", storage.trained_digits(task, seed), task
            )
    else:
        task = open_task("cifar10")
        model = open_model("resnet20", weights=data_set("models", "cifar10_resnet20.safetensors"))
        rows += storage.compare_bytes("resnet20", model, task)
    return {"storage": rows, "equal_divergence": storage.at_equal_divergence(rows)}


def with_case(record: Record, case: training.Case, small: bool) -> Record:
    rows = [row for row in record.get("training", []) if row["case"] != case.name]
    found = training.compare(case, 4 if small else RUNS, 100 if small else STEPS)
    for row in found:
        print({key: row[key] for key in ("case", "method", "rate", "median", "worst", "seconds")}, flush=True)
    return {"training": [*rows, *found]}


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
            record = keep(measure(record, chosen.small))
            print(record[part], flush=True)
    for case in training.cases(chosen.small) if "training" in wanted else ():
        if case.name not in {row["case"] for row in record.get("training", [])}:
            record = keep(with_case(record, case, chosen.small))
    networks = ("digits", "resnet20") if data_folder() and not chosen.small else ("digits",)
    for network in networks if "storage" in wanted else ():
        if not any(row["network"].startswith(network) for row in record.get("storage", [])):
            record = keep(with_storage(record, chosen.small, network))
            print(*record["equal_divergence"], sep="\n", flush=True)


if __name__ == "__main__":
    main()
