"""Every post-training method on real networks, one table: `python -m benchmarks.quantization [--small]`.

ResNet-20 on CIFAR-10: batch norm folded, first and last layer 8 bits, scales per channel; 256 of the 5,000
`val` images for calibration, without labels; scored on the 1,017 lossless test images, paired with the
original, and beside them on 1,000 of the JPEG ones, a shifted set. MiniLM on STS-B: groups of 64 weights;
calibration on training sentences without their scores; scored on the development split.

Bytes are lengths of the written files, everything included; scores are those of the decoded files. Rows are
written as they come, a file per network; a run goes on where an earlier one stopped, `--fresh` starts anew,
`--only TEXT` measures the rows whose method contains TEXT again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.cifar import interval
from benchmarks.quantization.methods import BESIDE_PEERS, METHODS, SETTINGS, Setting
from benchmarks.record import RESULTS, write
from plisse.bitstream import modelfile
from plisse.compress.finetune import distilled
from plisse.compress.run import short
from plisse.compress.step import Chain
from plisse.core.batch import BatchList
from plisse.core.origin import origin_of
from plisse.core.reparam import plain
from plisse.data.folder import data_set
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.evaluate import Evaluation, evaluate, paired
from plisse.train.task import Task
from plisse.train.tasks import cifar10_jpeg_holdout, open_task

CALIBRATION, SHIFTED = 256, 1000
SMALL = ("nearest, MSE", "GPTQ")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network under test, its task, and what the original scores."""

    name: str
    model: nn.Module
    task: Task
    before: Evaluation
    shifted: Any = None


def resnet20() -> Subject:
    """ResNet-20 with 256 unlabelled images for calibration."""
    task = open_task("cifar10")
    batches, seen = [], 0
    for batch in task.calibration:
        batches.append(batch)
        seen += len(batch.inputs)
        if seen >= CALIBRATION:
            break
    model = open_model("resnet20", weights=data_set("models", "cifar10_resnet20.safetensors"))
    task = dataclasses.replace(task, calibration=BatchList(tuple(batches)))
    shifted = cifar10_jpeg_holdout()
    some = BatchList(tuple(shifted[i] for i in range(-(-SHIFTED // len(shifted[0].inputs)))))
    return Subject("resnet20", model, task, evaluate(model, task), some)


def minilm() -> Subject:
    """MiniLM with the task's own calibration sentences."""
    model = open_model("minilm")
    task = open_task("stsb", model=model)
    return Subject("minilm", model, task, evaluate(model, task))


def row(subject: Subject, setting: Setting, method: str, steps: Chain) -> Row:
    """Run the steps, write, read back, score."""
    start = time.perf_counter()
    found = steps(subject.model, distilled(subject.task, subject.model))
    seconds = time.perf_counter() - start
    carried = assets(subject.model)
    data = modelfile.dumps(found, build(origin_of(plain(found))), assets=carried)
    decoded = with_assets(modelfile.loads(data, build), carried)
    after = evaluate(decoded, subject.task)
    result: Row = {
        "network": subject.name,
        "setting": setting.name,
        "method": method,
        "steps": [short(step) for step in steps.steps],
        "bytes": len(data),
        "score_before": subject.before.score,
        "score": after.score,
        "difference": interval(paired(after, subject.before, subject.task.score)),
        "seconds": round(seconds, 1),
    }
    if subject.shifted is not None:
        result["jpeg"] = evaluate(decoded, subject.task, subject.shifted).score
    return result


def known(name: str, fresh: bool) -> list[Row]:
    """Rows of an earlier run."""
    path = Path(RESULTS) / f"{name}.json"
    if fresh or not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text())["rows"]
    return rows


def wanted(chosen: argparse.Namespace, method: str) -> bool:
    if chosen.small and method not in SMALL:
        return False
    return chosen.only is None or chosen.only.lower() in method.lower()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two methods")
    parser.add_argument("--only", metavar="TEXT", help="methods whose name contains TEXT, run again")
    parser.add_argument("--network", choices=("resnet20", "minilm"), help="one network")
    parser.add_argument("--setting", help="one setting, such as W4A4")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    chosen = parser.parse_args()
    for network, opened in (("resnet20", resnet20), ("minilm", minilm)):
        if chosen.network not in (None, network):
            continue
        subject = opened()
        name = f"quantization_{network}" + ("_small" if chosen.small else "")
        rows = known(name, chosen.fresh)
        for setting in (*SETTINGS, *BESIDE_PEERS):
            if chosen.setting != setting.name and (chosen.setting or setting in BESIDE_PEERS):
                continue
            for method, steps in METHODS[network](setting).items():
                done = any(key(old) == (network, setting.name, method) for old in rows)
                if not wanted(chosen, method) or (done and not chosen.only):
                    continue
                rows = [old for old in rows if key(old) != (network, setting.name, method)]
                rows.append(row(subject, setting, method, steps))
                print({k: v for k, v in rows[-1].items() if k != "steps"}, flush=True)
                write(name, {"rows": rows})


def key(old: Row) -> tuple[str, str, str]:
    return old["network"], old["setting"], old["method"]


if __name__ == "__main__":
    main()
