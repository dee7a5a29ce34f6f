"""The joint default beside each single technique at equal bytes: `python -m benchmarks.joint [--small]`.

Nothing is trained and no label is used. ResNet-20 (the 1,017 lossless CIFAR-10 test images) at 10x and 20x,
MiniLM (STS-B dev, Spearman) at 8x. A single technique has one knob, set by bisection or by trying widths so
that its file is the largest that fits: pruning (sparsity over all weights, magnitude), low rank (share
removed, energy per parameter, whitened spatial factors), both with batch norm measured again; quantization
(one width per network, GPTQ, scales per channel; groups of 64 for MiniLM); and step sizes (one step per
tensor by the same table, trellis, no compensation). "joint" is `compress(model, task, budget=...)` as users
get it.

Bytes are lengths of the written files; scores are those of the decoded files. Since scores saturate, three
more figures on the same holdout, of the decoded file beside the original and without labels: divergence (of
class probabilities, KL in nats; of sentence embeddings, 1 - cosine, half the squared distance), its paired
difference from that of "joint" (above zero: this technique diverges more), and agreement (share of images put
into the same class; rank correlation of the two networks' similarities).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from benchmarks.cifar import interval
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
from plisse.core.origin import origin_of
from plisse.core.reparam import plain
from plisse.data.folder import data_set
from plisse.errors import PlisseError
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.evaluate import Evaluation, evaluate, paired
from plisse.train.task import Task, outputs_on
from plisse.train.tasks import open_task

CASES = (("resnet20", 10.0), ("resnet20", 20.0), ("minilm", 8.0))
BISECTIONS = 9
WIDER = 1.3
"""The coder saves less than this over a fixed width, so that wider ones need no trial."""

Row = dict[str, Any]


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


def rows(network: str, ratio: float, found: dict[str, Row]) -> Iterator[Row]:
    """A row per technique that is not in `found` yet; "joint" comes first."""
    model, task = opened(network)
    before = evaluate(model, task)
    reference = outputs_on(model, task.holdout)
    carried = assets(model)
    bound = sum(value.numel() * value.element_size() for value in model.state_dict().values()) / ratio
    for name, technique in TECHNIQUES.items():
        if name in found:
            continue
        start = time.process_time()
        data = technique(model, task, bound)
        row: Row = {"network": network, "ratio": ratio, "technique": name, "bound": int(bound)}
        row["processor_seconds"] = round(time.process_time() - start, 1)
        if data is not None:
            decoded = with_assets(modelfile.loads(data, build), carried)
            row |= {"bytes": len(data), **scored(decoded, task, before)}
            own = diverging(decoded, task, reference)
            row |= {"divergence": float(own.mean()), "divergences": packed(own)}
            if "divergences" in found.get("joint", {}):
                row["beyond_joint"] = difference(own, unpacked(found["joint"]["divergences"]))
        found[name] = row
        yield row


def scored(model: nn.Module, task: Task, before: Evaluation) -> Row:
    """Score, its difference from the original's, and agreement with the original."""
    after = evaluate(model, task)
    return {
        "score_before": before.score,
        "score": after.score,
        "difference": interval(paired(after, before, task.score)),
        "agreement": task.score.summary(after.predictions, before.predictions),
    }


def diverging(model: nn.Module, task: Task, reference: list[Tensor]) -> np.ndarray:
    """The divergence from the original of every sample of the holdout."""
    found = [
        float(task.divergence(wanted[i : i + 1], got[i : i + 1]))
        for wanted, got in zip(reference, outputs_on(model, task.holdout), strict=True)
        for i in range(len(wanted))
    ]
    return np.array(found)


def difference(own: np.ndarray, other: np.ndarray) -> list[float]:
    """Mean of own - other over samples, and its bootstrap interval (95 %)."""
    pairs, random = own - other, np.random.default_rng(0)
    draws = [float(pairs[random.integers(len(pairs), size=len(pairs))].mean()) for _ in range(1000)]
    return [float(pairs.mean()), *map(float, np.percentile(draws, [2.5, 97.5]))]


def packed(values: np.ndarray) -> str:
    """One word for the JSON file."""
    return " ".join(f"{value:.3g}" for value in values)


def unpacked(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="ResNet-20 at 20x only")
    parser.add_argument("--network", choices=("resnet20", "minilm"), help="one network")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows (of the network)")
    chosen = parser.parse_args()
    name = "joint_small" if chosen.small else "joint"
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text())["rows"] if path.exists() else []
    if chosen.fresh:
        found = [row for row in found if chosen.network not in (None, row["network"])]
    for network, ratio in CASES[1:2] if chosen.small else CASES:
        if chosen.network not in (None, network):
            continue
        done = {row["technique"]: row for row in found if (row["network"], row["ratio"]) == (network, ratio)}
        for row in rows(network, ratio, done):
            found.append(row)
            print({key: value for key, value in row.items() if key != "divergences"}, flush=True)
            write(name, {"rows": found})


if __name__ == "__main__":
    main()
