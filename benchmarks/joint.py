"""The joint default beside each single technique at equal bytes: `python -m benchmarks.joint [--small]`.

No label is used. ResNet-20 (the 1,017 lossless CIFAR-10 test images) at 10x and 20x, MiniLM (STS-B dev,
Spearman) at 8x. A single technique has one knob, set by bisection or by trying widths so that its file is the
largest that fits: pruning (sparsity over all weights, magnitude), low rank (share removed, energy per
parameter, whitened spatial factors), both with batch norm measured again; quantization (one width per
network, GPTQ, scales per channel, the better of two ranges, folded or not; groups of 64 for MiniLM); and step
sizes (one step per tensor by the same table, trellis, no compensation). "joint" is `compress(model, task,
budget=..., finetune_steps=0)`. Then all of them trained at the point chosen, 600 batches with the original as
teacher, quantization by learned steps.

Bytes are lengths of the written files; scores are those of the decoded files. Since scores saturate, there
are larger sets of samples beside the holdout (see benchmarks.joint_samples), and two more figures on each, of
the decoded file beside the original and without labels: divergence (of class probabilities, KL in nats; of
sentence embeddings, 1 - cosine, half the squared distance) and agreement (share of images put into the same
class; rank correlation of the two networks' similarities). Scores and agreements are paired with those of
"joint" ("joint_minus_this", above zero: joint is better), and so are divergences ("beyond_joint", above zero:
this technique diverges more).

Files are kept in the folder for temporary files, by network, ratio and technique. `--rescored` scores those
that the rows were made from again, and makes those that are gone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from benchmarks.joint_samples import Row, Seen, figures, seen, sets_of
from benchmarks.joint_techniques import TECHNIQUES, TRAINED, reference
from benchmarks.record import RESULTS, write
from plisse.bitstream import modelfile
from plisse.core.batch import Batches
from plisse.data.folder import data_set
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.task import Task
from plisse.train.tasks import open_task

CASES = (("resnet20", 10.0), ("resnet20", 20.0), ("minilm", 8.0))


def opened(network: str) -> tuple[nn.Module, Task]:
    """The network and its task."""
    if network == "minilm":
        model = open_model("minilm")
        return model, open_task("stsb", model=model)
    weights = data_set("models", "cifar10_resnet20.safetensors")
    return open_model("resnet20", weights=weights), open_task("cifar10")


@dataclass(frozen=True, eq=False)
class Case:
    """A network and a number of bytes, and how the original answers."""

    network: str
    ratio: float
    model: nn.Module
    task: Task
    sets: dict[str, Batches]

    @classmethod
    def opened(cls, network: str, ratio: float) -> Case:
        model, task = opened(network)
        return cls(network, ratio, model, task, sets_of(network, task))

    @cached_property
    def original(self) -> dict[str, Seen]:
        return {name: seen(self.model, self.task, self.sets[name]) for name in self.sets}

    @property
    def techniques(self) -> list[str]:
        """MiniLM loses nothing that training could win back."""
        trained = self.network != "minilm"
        return [name for name in TECHNIQUES if trained or not name.endswith(TRAINED)]

    @property
    def bound(self) -> float:
        return (
            sum(value.numel() * value.element_size() for value in self.model.state_dict().values())
            / self.ratio
        )

    def made(self, technique: str) -> Row:
        """The row without scores. The file is written to its place; the row beside it, until it is scored."""
        waiting = self.waiting(technique)
        if waiting.exists():
            return json.loads(waiting.read_text())
        start = time.process_time()
        data = TECHNIQUES[technique](self.model, self.task, self.bound)
        row = {"network": self.network, "ratio": self.ratio, "technique": technique, "bound": int(self.bound)}
        row["processor_seconds"] = round(time.process_time() - start, 1)
        if data is not None:
            self.place(technique).write_bytes(data)
            row["bytes"] = len(data)
            waiting.write_text(json.dumps(row))
        return row

    def waiting(self, technique: str) -> Path:
        return self.place(technique).with_suffix(".json")

    def place(self, technique: str) -> Path:
        folder = Path(tempfile.gettempdir()) / "plisse_joint"
        folder.mkdir(exist_ok=True)
        return folder / f"{self.network}_{self.ratio:.0f}_{technique.replace(' ', '_')}.plisse"

    def kept(self, row: Row) -> bool:
        """Whether the file that `row` was made from is still there."""
        place = self.place(row["technique"])
        return "bytes" not in row or (place.exists() and place.stat().st_size == row["bytes"])

    def settled(self, row: Row) -> bool:
        """Whether nothing is left to do: what "joint" answered must be there, to pair the others with it."""
        if row["technique"] == reference(row["technique"]):
            return "sets" in row and self.kept(row)
        return "bytes" not in row or "joint_minus_this" in row.get("sets", {}).get("holdout", {})

    def answers(self, technique: str) -> dict[str, Seen]:
        """Those of the decoded file."""
        model = with_assets(modelfile.loads(self.place(technique).read_bytes(), build), assets(self.model))
        return {name: seen(model, self.task, self.sets[name], self.original[name]) for name in self.sets}


def rows(
    case: Case, found: dict[str, Row], only: Sequence[str] = (), rescored: bool = False
) -> Iterator[Row]:
    """A row for every technique, or for those of `only`, that has none yet or was not paired with "joint";
    where `rescored` for all. "joint" comes first; without its file, the others wait to be paired."""
    joint: dict[str, dict[str, Seen]] = {}
    for name in set(map(reference, TECHNIQUES)):
        if name in found and case.settled(found[name]) and not rescored:
            joint[name] = case.answers(name)
    for name in only or case.techniques:
        row = found.get(name)
        if row is not None and case.settled(row) and not rescored:
            continue
        row = dict(row) if row is not None and case.kept(row) else case.made(name)
        row.pop("sets", None)
        if "bytes" in row:
            own = case.answers(name)
            beside = joint.get(reference(name), {}) if name != reference(name) else {}
            if name == reference(name):
                joint[name] = own
            row["sets"] = {
                each: figures(case.task, own[each], case.original[each], beside.get(each)) for each in own
            }
        yield row
        case.waiting(name).unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ResNet-20 at 20x only")
    parser.add_argument("--network", choices=("resnet20", "minilm"), help="one network")
    parser.add_argument("--only", choices=tuple(TECHNIQUES), nargs="+", default=(), help="some techniques")
    parser.add_argument("--fresh", action="store_true", help="measure every row again (of the network)")
    parser.add_argument("--rescored", action="store_true", help="score the files of earlier rows again")
    chosen = parser.parse_args()
    name = "joint_small" if chosen.small else "joint"
    for network, ratio in CASES[1:2] if chosen.small else CASES:
        if chosen.network not in (None, network):
            continue
        earlier = [] if chosen.fresh else [row for row in known(name) if key(row)[:2] == (network, ratio)]
        done = {row["technique"]: row for row in earlier}
        for row in rows(Case.opened(network, ratio), done, chosen.only, chosen.rescored):
            print(row, flush=True)
            add(name, row)


def known(name: str) -> list[Row]:
    """The rows that are there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def add(name: str, row: Row) -> None:
    """Put a row into its place, in what is there by now: another network may be measured meanwhile."""
    every = {key(each): each for each in [*known(name), row]}
    write(name, {"rows": sorted(every.values(), key=place_of)})


def key(row: Row) -> tuple[str, float, str]:
    return row["network"], row["ratio"], row["technique"]


def place_of(row: Row) -> tuple[int, int]:
    """Where a row stands in the table."""
    return CASES.index((row["network"], row["ratio"])), list(TECHNIQUES).index(row["technique"])


if __name__ == "__main__":
    main()
