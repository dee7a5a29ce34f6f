"""Ranges of activations from real and from made images: `python -m benchmarks.datafree.ranges [--small]`.

W4A4 by ranges alone (no reconstruction, no training) on ResNet-20, the setting where made images fell behind.
For each rule that chooses a range: the mean score over three draws of 256 images, and the difference made
minus real with its 95 % interval, by a bootstrap over images of the mean over draws. The sets: the 1,017
lossless test images; 3,983 other official test images after JPEG compression; 3,000 `val` images that were
used neither for calibration nor for the choice of a rule (the network is right on nearly all of them, as on
what it was trained on); 1,000 further `val` images that the rule was chosen on, by divergence.

`width` compares every layer's range: made over real, the least, the mean and the largest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.datafree.sources import TEST, Source, cifar, few, original
from benchmarks.record import RESULTS, write
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax, Percentile, Range
from plisse.compress.step import chain
from plisse.core.batch import Batches, call
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import baked, plain
from plisse.data.cifar10 import read_jpeg_test, read_validation
from plisse.data.folder import data_set
from plisse.data.images import IMAGENET, ImageBatches

NETWORK = "resnet20"
RULES: dict[str, Range] = {
    "MSE": MSE(),
    "MSE, order 2.4": MSE(2.4),
    "99.9 percent": Percentile(99.9),
    "extremes": MinMax(),
}
SOURCES = ("real", "BNS")
DRAWS = 3
CHOICE = range(1000, 2000)  # of `val`; real calibration images come from the first 1,000
HELD = range(2000, 5000)
TEST_SET, CHOICE_SET = "test, lossless", "val, rule chosen here"
HELD_SET, JPEG_SET = "val, held apart", "test, JPEG"
SCORED = ("MSE", "MSE, order 2.4")
"""The usual rule and the one that was chosen are scored on all sets, the others where the choice was made."""
RESAMPLES = 2000


@cache
def sets() -> dict[str, Batches]:
    """Images to score on, with labels."""
    folder = data_set("cifar10")
    validation, shifted = read_validation(folder), read_jpeg_test(folder)
    return {
        TEST_SET: cifar().holdout,
        JPEG_SET: ImageBatches(shifted.take(np.arange(TEST, len(shifted))), 128, IMAGENET),
        HELD_SET: ImageBatches(validation.take(np.array(HELD)), 128, IMAGENET),
        CHOICE_SET: ImageBatches(validation.take(np.array(CHOICE)), 128, IMAGENET),
    }


def ranged(source: Source, rule: Range) -> nn.Module:
    """W4A4 by the ranges that `rule` finds on images of the source; weights as in `benchmarks.datafree`."""
    step = Quantize(bits=4, symmetric=False, range=MSE(), first_last_bits=8, activations=Activations(4, rule))
    task = dataclasses.replace(cifar(), calibration=few(source))
    return baked(chain(FoldBatchNorm(), step)(original(NETWORK), task))


@dataclass(frozen=True, eq=False)
class Judged:
    """Per image: 1 where the network is right, and its divergence from the original, KL in nats."""

    hits: NDArray[np.float64]
    loss: NDArray[np.float64]


def judged(model: nn.Module, label: str) -> Judged:
    """On one of the `sets`."""
    found, (wanted, labels) = logs(model, label), reference(label)
    loss = (wanted.exp() * (wanted - found)).sum(1)
    return Judged((found.argmax(1) == labels).double().numpy(), loss.double().numpy())


@cache
def reference(label: str) -> tuple[Tensor, Tensor]:
    """The original's log-probabilities on a set, and its labels."""
    targets = [batch.target for batch in sets()[label] if batch.target is not None]
    return logs(original(NETWORK), label), torch.cat(targets)


def logs(model: nn.Module, label: str) -> Tensor:
    with torch.inference_mode():
        return torch.cat([call(model, batch.inputs).log_softmax(1) for batch in sets()[label]])


def widths(model: nn.Module) -> dict[str, float]:
    """Range of activations at every layer that has one."""
    found = {name: part for name, part in plain(model).named_modules() if isinstance(part, InputQuantizer)}
    return {name: float(part.scale) * part.top for name, part in found.items()}


def difference(made: NDArray[np.float64], real: NDArray[np.float64], seed: int = 0) -> list[float]:
    """made - real, [draws, images] each: the mean, and its interval over images.

    >>> [round(x, 2) for x in difference(np.ones((2, 50)), np.zeros((2, 50)))]
    [1.0, 1.0, 1.0]
    """
    each = (made - real).mean(0)
    picks = np.random.default_rng(seed).integers(len(each), size=(RESAMPLES, len(each)))
    low, high = np.percentile(each[picks].mean(1), [2.5, 97.5])
    return [float(each.mean()), float(low), float(high)]


def plan(small: bool = False) -> list[tuple[str, str]]:
    """rule, set."""
    if small:
        return [("MSE", TEST_SET)]
    sets = (TEST_SET, CHOICE_SET, HELD_SET, JPEG_SET)
    first = [(rule, label) for label in sets for rule in SCORED]
    return [*first, *((rule, CHOICE_SET) for rule in RULES if rule not in SCORED)]


@cache
def networks(rule: str, draws: int) -> dict[str, list[nn.Module]]:
    """source to the networks of all draws."""
    return {
        source: [ranged(Source(source, NETWORK, seed), RULES[rule]) for seed in range(draws)]
        for source in SOURCES
    }


def row(rule: str, label: str, draws: int) -> dict[str, Any]:
    """One rule, on one of the `sets`."""
    made = networks(rule, draws)
    pairs = zip(made["BNS"], made["real"], strict=True)
    found = [(widths(one), widths(real)) for one, real in pairs]
    ratios = [one[layer] / real[layer] for one, real in found for layer in real]
    width = [min(ratios), mean(ratios), max(ratios)]
    return {"rule": rule, "set": label, **scores(made, label), "width": width}


def scores(made: Mapping[str, list[nn.Module]], label: str) -> dict[str, Any]:
    """Of all draws of all sources on one set."""
    found = {source: [judged(each, label) for each in nets] for source, nets in made.items()}
    hits = {source: np.stack([one.hits for one in each]) for source, each in found.items()}
    wanted, targets = reference(label)
    return {
        "n": hits["real"].shape[1],
        "before": float((wanted.argmax(1) == targets).double().mean()),
        **{source: [float(score) for score in each.mean(1)] for source, each in hits.items()},
        "divergence": {source: [float(one.loss.mean()) for one in each] for source, each in found.items()},
        "difference": difference(hits["BNS"], hits["real"]),
    }


def table(data: dict[str, Any]) -> str:
    """Scores by each rule on each set, and what made images lose."""
    lines = [
        "| set | rule | before | real | BNS | BNS - real, 95 % | KL real | KL BNS |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in data["rows"]:
        value, low, high = (f"{100 * part:+.2f}" for part in one["difference"])
        means = [f"{100 * mean(one[source]):.2f}" for source in SOURCES]
        losses = [f"{mean(one['divergence'][source]):.4f}" for source in SOURCES]
        before = f"{100 * one['before']:.2f}"
        cells = [f"{one['set']} ({one['n']:,})", one["rule"], before, *means, f"{value} ({low} to {high})"]
        lines.append(f"| {' | '.join([*cells, *losses])} |")
    one = data["rows"][0]
    least, middle, most = one["width"]
    return f"""## Ranges alone (`python -m benchmarks.datafree.ranges`)

ResNet-20, W4A4 with nothing but ranges chosen, from 256 real or made images: accuracy in %, mean over
{len(one["real"])} draws; the difference made minus real with its interval over images; divergence from the
original in nats. "{CHOICE_SET}" is what a rule may be chosen by. Ranges by {one["rule"]} from made images are
{middle:.2f} times as wide as from real ones ({least:.2f} to {most:.2f} by layer).

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one rule, one draw, test images alone")
    parser.add_argument("--fresh", action="store_true", help="start anew")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    name = "datafree_ranges_small" if chosen.small else "datafree_ranges"
    path = RESULTS / f"{name}.json"
    rows = [] if chosen.fresh or not path.exists() else json.loads(path.read_text(encoding="utf-8"))["rows"]
    for rule, label in plan(chosen.small):
        if any((each["rule"], each["set"]) == (rule, label) for each in rows):
            continue
        rows.append(row(rule, label, 1 if chosen.small else DRAWS))
        print(rows[-1], flush=True)
        write(name, {"network": NETWORK, "rows": rows})


if __name__ == "__main__":
    main()
