"""The joint default beside each single technique at equal bytes: `python -m benchmarks.joint [--small]`.

Nothing is trained and no label is used. ResNet-20 (the 1,017 lossless CIFAR-10 test images) at 10x and 20x,
MiniLM (STS-B dev, Spearman) at 8x. A single technique has one knob, set by bisection or by trying widths so
that its file is the largest that fits: pruning (sparsity over all weights, magnitude), low rank (share
removed, energy per parameter, whitened spatial factors), both with batch norm measured again; quantization
(one width per network, GPTQ, scales per channel; groups of 64 for MiniLM); and step sizes (one step per
tensor by the same table, trellis, no compensation). "joint" is `compress(model, task, budget=...)` as users
get it.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from benchmarks.joint_samples import Row, Seen, figures, seen, sets_of
from benchmarks.record import RESULTS, write
from plisse.bitstream import modelfile
from plisse.compress.compress import compress
from plisse.compress.correct import BiasCorrection
from plisse.compress.finetune import ReestimateNorm
from plisse.compress.lowrank.factorize import factorized
from plisse.compress.lowrank.problem import pose
from plisse.compress.lowrank.schemes import Spatial
from plisse.compress.lowrank.selectors import EnergyPerParameter
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.grids import PerChannel, PerGroup
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.rounding import GPTQ
from plisse.compress.sensitivity import rate_table
from plisse.compress.step import Step, chain
from plisse.compress.within import Fitting, finishing
from plisse.core.batch import Batches
from plisse.core.origin import origin_of
from plisse.core.reparam import plain
from plisse.data.folder import data_set
from plisse.errors import PlisseError
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.task import Task
from plisse.train.tasks import open_task

CASES = (("resnet20", 10.0), ("resnet20", 20.0), ("minilm", 8.0))
BISECTIONS = 9
WIDER = 1.3
"""The coder saves less than this over a fixed width, so that wider ones need no trial."""


def opened(network: str) -> tuple[nn.Module, Task]:
    """The network and its task."""
    if network == "minilm":
        model = open_model("minilm")
        return model, open_task("stsb", model=model)
    weights = data_set("models", "cifar10_resnet20.safetensors")
    return open_model("resnet20", weights=weights), open_task("cifar10")


def data_of(model: nn.Module, original: nn.Module) -> bytes:
    """The file of a network."""
    return modelfile.dumps(model, build(origin_of(plain(model))), assets=assets(original))


def bisected(make: Callable[[float], Step], model: nn.Module, task: Task, bound: float) -> bytes | None:
    """The largest file within `bound` over a knob from 0 (everything stays) to 1 (nothing does); in the end
    batch norm is measured again, where there is one, for which a thousandth of the bytes is kept."""
    low, high, best = 0.0, 1.0, None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        try:
            size = len(data_of(chain(make(middle), finishing(model))(model, task), model))
        except PlisseError:
            high = middle
            continue
        if size <= 0.999 * bound:
            best = high = middle
        else:
            low = middle
    if best is None:
        return None
    return data_of(chain(make(best), ReestimateNorm(20), finishing(model))(model, task), model)


def pruning(model: nn.Module, task: Task, bound: float) -> bytes | None:
    return bisected(Prune, model, task, bound)


def low_rank(model: nn.Module, task: Task, bound: float) -> bytes | None:
    problem = pose(model, task, scheme=Spatial(), whitened=True)

    def step(ratio: float) -> Step:
        ranks = {name: max(rank, 1) for name, rank in EnergyPerParameter().ranks(problem, ratio).items()}
        return lambda network, _: factorized(network, ranks, problem.spectra, problem.scheme)

    return bisected(step, model, task, bound)


def quantization(model: nn.Module, task: Task, bound: float) -> bytes | None:
    text = not hasattr(model, "conv1")
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    for bits in (8, 6, 5, 4, 3, 2):
        if bits > WIDER * 32 * bound / size:
            continue
        step = Quantize(
            bits,
            symmetric=False,
            granularity=PerGroup(64) if text else PerChannel(),
            rounding=GPTQ(samples=128 if text else 256),
        )
        data = data_of(chain(step, BiasCorrection(), finishing(model))(model, task), model)
        if len(data) <= bound:
            return data
    return None


def step_sizes(model: nn.Module, task: Task, bound: float) -> bytes:
    table = rate_table(model, task).only(lambda option: option.rank is None and not option.sparsity)
    trellis = RateQuantize({}, rounding="trellis")

    def written(net: nn.Module) -> int:
        return len(data_of(net, model))

    fitted = Fitting(model, task, table, trellis, (), trellis, written).within(bound)
    return data_of(finishing(model)(fitted.network, task), model)


def joint(model: nn.Module, task: Task, bound: float) -> bytes:
    return compress(model, task, budget=f"bytes={int(bound)}").data


TECHNIQUES: dict[str, Callable[[nn.Module, Task, float], bytes | None]] = {
    "joint": joint,
    "step sizes": step_sizes,
    "quantization": quantization,
    "low rank": low_rank,
    "pruning": pruning,
}


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

    def answers(self, technique: str) -> dict[str, Seen]:
        """Those of the decoded file."""
        model = with_assets(modelfile.loads(self.place(technique).read_bytes(), build), assets(self.model))
        return {name: seen(model, self.task, self.sets[name], self.original[name]) for name in self.sets}


def rows(case: Case, found: dict[str, Row], rescored: bool = False) -> Iterator[Row]:
    """A row per technique that is not in `found` yet, or where `rescored` every one; "joint" comes first."""
    joint: dict[str, Seen] = {}
    for name in TECHNIQUES:
        row = found.get(name)
        done = row is not None and ("sets" in row or "bytes" not in row) and not rescored
        if done and (name != "joint" or case.kept(found[name])):
            joint = joint or case.answers("joint")
            continue
        row = dict(row) if row is not None and case.kept(row) else case.made(name)
        row.pop("sets", None)
        if "bytes" in row:
            own = case.answers(name)
            joint = joint or own
            beside = {} if name == "joint" else joint
            row["sets"] = {
                each: figures(case.task, own[each], case.original[each], beside.get(each)) for each in own
            }
        yield row
        case.waiting(name).unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ResNet-20 at 20x only")
    parser.add_argument("--network", choices=("resnet20", "minilm"), help="one network")
    parser.add_argument("--fresh", action="store_true", help="measure every row again (of the network)")
    parser.add_argument("--rescored", action="store_true", help="score the files of earlier rows again")
    chosen = parser.parse_args()
    name = "joint_small" if chosen.small else "joint"
    for network, ratio in CASES[1:2] if chosen.small else CASES:
        if chosen.network not in (None, network):
            continue
        earlier = [] if chosen.fresh else [row for row in known(name) if key(row)[:2] == (network, ratio)]
        done = {row["technique"]: row for row in earlier}
        for row in rows(Case.opened(network, ratio), done, chosen.rescored):
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
