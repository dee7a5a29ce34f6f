"""Low rank beside channel pruning and another library's factorized layers, at equal MACs, in one run:
`python -m benchmarks.lowrank.peers [--small]`.

ResNet-20 on CIFAR-10 at 40 % and 60 % of the MACs removed. Every method has one knob, set by bisection so
that as many MACs as possible stay within the bound:
- low rank: ranks as `compress(..., budget="macs=0.6x")` chooses them, whitened factors, scheme Spatial()
- channels: the same budget, met by fewer channels (magnitude)
- torch-pruning: MagnitudePruner with GroupMagnitudeImportance, local ratios; the inner channels of blocks,
  since shortcuts that pad channels are none of its operators
- torch-pruning, global: the same, ratios over all layers together
- TensorLy-Torch: FactorizedConv.from_conv in place of every 3x3 convolution but the first, its own
  Tucker decomposition, one rank fraction for all, "factorized" (CP took 14 s for one layer and was left out)

Nothing is chosen on any image; the first two see 512 images of `val` without labels. Then batch norm is
measured anew on training images, for all alike, and all are trained on 100 batches with labels and the
original as teacher. Scores, paired with the original, are on the 1,017 lossless test images. Parameters are
counted, since TensorLy-Torch has no file of ours. TensorLy-Torch lies in a folder of its own:
`pip install --no-deps --target FOLDER tensorly-torch`, then PYTHONPATH=FOLDER; without it, its rows are left
out. Rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.cifar import interval
from benchmarks.lowrank_training import Row, Rows, before, cifar, original
from plisse.compress.finetune import FineTune, ReestimateNorm, distilled
from plisse.compress.prune.channels import channels_for
from plisse.compress.structure import ranks_within
from plisse.core import modules
from plisse.cost.macs import count_macs
from plisse.train.evaluate import evaluate, paired
from plisse.train.optimizers import SGD
from plisse.train.task import Task

NETWORK = "resnet20"
SHARES = (0.6, 0.4)
PROBES, STATISTICS = 8, 30
TUNING = FineTune(100, lr=0.01, optimizer=SGD(weight_decay=1e-4))
Admits = Callable[[nn.Module], bool]
Method = Callable[[nn.Module, Task, Admits], nn.Module | None]


def low_rank(model: nn.Module, task: Task, admits: Admits) -> nn.Module | None:
    found = ranks_within(model, task, admits)
    return found[1] if found else None


def channels(model: nn.Module, task: Task, admits: Admits) -> nn.Module | None:
    return channels_for(model, task.example, admits)


def torch_pruning(model: nn.Module, task: Task, admits: Admits, over_all: bool = False) -> nn.Module | None:
    import torch_pruning as tp

    def cut(share: float) -> nn.Module:
        network: Any = modules.clone(model).eval()
        stay = [part for name, part in network.named_modules() if _reaches_shortcut(name, part)]
        pruner = tp.pruner.MagnitudePruner(
            network,
            task.example[:1],  # type: ignore[index]
            importance=tp.importance.GroupMagnitudeImportance(),
            global_pruning=over_all,
            pruning_ratio=share,
            ignored_layers=stay,
        )
        pruner.step()
        return modules.clone(network)

    share = bisected(cut, admits)
    return None if share is None else cut(share)


def _reaches_shortcut(name: str, part: nn.Module) -> bool:
    inner = name.startswith("layer") and name.endswith("conv1")
    return isinstance(part, (nn.Conv2d, nn.Linear)) and not inner


def tensorly_torch(model: nn.Module, task: Task, admits: Admits) -> nn.Module | None:
    import tltorch

    def cut(share: float, decompose: bool = False) -> nn.Module:
        network = modules.clone(model).eval()
        for name, part in list(network.named_modules()):
            if isinstance(part, nn.Conv2d) and name.startswith("layer"):
                layer = tltorch.FactorizedConv.from_conv(
                    part,
                    rank=1 - share,
                    implementation="factorized",
                    factorization="tucker",
                    decompose_weights=decompose,
                )
                modules.replace(network, name, layer)
        return network

    share = bisected(cut, admits)
    return None if share is None else cut(share, decompose=True)


def bisected(cut: Callable[[float], nn.Module], admits: Admits) -> float | None:
    """The least share cut that `admits`."""
    low, high = 0.0, 0.98
    best = None
    for _ in range(PROBES):
        middle = (low + high) / 2
        if admits(cut(middle)):
            best = high = middle
        else:
            low = middle
    return best


METHODS: dict[str, Method] = {
    "low rank": low_rank,
    "channels": channels,
    "torch-pruning": torch_pruning,
    "torch-pruning, global": lambda *given: torch_pruning(*given, over_all=True),
    "TensorLy-Torch": tensorly_torch,
}


def measured(name: str, share: float, tuning: FineTune) -> Row:
    """One row: within the MACs, batch norm measured anew, trained."""
    model, task = original(NETWORK), cifar()
    whole = count_macs(model, task.example)
    began = time.process_time()
    cut = METHODS[name](model, task, lambda network: count_macs(network, task.example) <= share * whole)
    seconds = round(time.process_time() - began, 1)
    about: Row = {"name": f"{share:.0%} of MACs: {name}", "method": name, "share": share}
    if cut is None:
        return {**about, "fits": False}
    fresh = ReestimateNorm(STATISTICS)(cut, task)
    tuned = tuning(fresh, distilled(task, model, 4.0, 0.5))
    after = evaluate(ReestimateNorm(STATISTICS)(tuned, task), task)
    first = evaluate(fresh, task)
    return {
        **about,
        "fits": True,
        "batches": tuning.steps,
        "macs": count_macs(cut, task.example) / whole,
        "params": sum(p.numel() for p in cut.parameters()) / sum(p.numel() for p in model.parameters()),
        "cut_cpu_seconds": seconds,
        "score_before": before(NETWORK).score,
        "score_cut": evaluate(cut, task).score,
        "score_cut_norm": first.score,
        "score": after.score,
        "difference_cut_norm": interval(paired(first, before(NETWORK), task.score)),
        "difference": interval(paired(after, before(NETWORK), task.score)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="60 %% of the MACs, 5 batches")
    small = parser.parse_args().small
    rows = Rows("lowrank_peers_small" if small else "lowrank_peers", small)
    tuning = dataclasses.replace(TUNING, steps=5) if small else TUNING
    for share in SHARES[:1] if small else SHARES:
        for name in METHODS:
            if name.startswith("TensorLy") and importlib.util.find_spec("tltorch") is None:
                continue
            if f"{share:.0%} of MACs: {name}" not in rows.found:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row = measured(name, share, tuning)
                rows.add(row)


if __name__ == "__main__":
    main()
