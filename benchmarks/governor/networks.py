"""The operating points of the benchmark: networks for CIFAR-10 of growing size."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from plisse.adapt.elastic import Elastic
from plisse.adapt.family import by_width
from plisse.compress.finetune import FineTune, distilled
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.prune.patterns import Channels
from plisse.compress.prune.prune import Prune
from plisse.data.folder import data_set
from plisse.networks.open import load, open_model, save
from plisse.train.task import Task

SPARSITY = 0.5
STEPS = {"small": 20, "full": 300}


def family(task: Task, kept: Path, size: str) -> Elastic:
    """ResNet-56, ResNet-20, and ResNet-20 with half of its inner channels gone and trained again, batch norms
    folded. kept: folder where the trained one is written, and read by a later run."""
    large, middle = (_trained(name) for name in ("resnet56", "resnet20"))
    path = kept / f"governor_{size}.plisse"
    if not path.exists():
        kept.mkdir(parents=True, exist_ok=True)
        save(_cut(middle, task, STEPS[size]), path)
    folded = [FoldBatchNorm()(network, task) for network in (load(path), middle, large)]
    return by_width(folded)


def _trained(name: str) -> nn.Module:
    return open_model(name, weights=data_set("models", f"cifar10_{name}.safetensors"))


def _cut(network: nn.Module, task: Task, steps: int) -> nn.Module:
    small = Prune(SPARSITY, Channels(round_to=8), scope="layer")(network, task)
    return FineTune(steps, lr=0.02)(small, distilled(task, network)).eval()
