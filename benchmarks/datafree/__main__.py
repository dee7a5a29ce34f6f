"""Compression without data beside compression with it: `python -m benchmarks.datafree [--small]`.

ResNet-20 and ResNet-56 on CIFAR-10. Images are: 256 of the `val` split ("real"), 256 JPEG copies of official
test images (a shifted set, without the 1,017 that scores are taken on), 256 of noise, or 256 that were made
from the network by one of the schemes; for training, the 40,000 `train` images, or 1,024 of the others. No
source has labels; no choice is made on the test images. Scores are those of the 1,017 lossless test images,
paired with the original. First and last layer have 8 bits.

Rows are written as they come; a run goes on where an earlier one stopped. `--only TEXT` measures the rows
again whose "network setting source" contains TEXT; `--fresh` starts anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from benchmarks.cifar import interval
from benchmarks.datafree.settings import SETTINGS, Setting, compressed
from benchmarks.datafree.sources import (
    N_CALIBRATION,
    N_TRAIN,
    SOURCES,
    VARIANTS,
    Source,
    cifar,
    describe,
    few,
    many,
    original,
)
from benchmarks.record import RESULTS, write
from plisse.core.reparam import baked
from plisse.train.evaluate import Evaluation, evaluate, paired

Row = dict[str, Any]
THREE = ("real", "Gaussian", "BNS")
ASKED = (
    *("W4A4", "W3A3", "W4A8 ranges", "W4A4 ranges"),
    *("W4A4 trained", "W2A4 reconstructed, trained"),
)
MATRIX = ("W2", "W3", *ASKED)
NETWORKS = ("resnet20", "resnet56")
SEEDS = range(3)


def plan(small: bool = False) -> Iterator[tuple[Setting, Source]]:
    """What is measured, the most telling first."""
    if small:
        yield from ((SETTINGS["W2"], Source(name)) for name in ("real", "Gaussian"))
        return
    yield from matrix(NETWORKS, MATRIX, THREE)
    yield from matrix(NETWORKS, ASKED, SOURCES)
    yield from matrix(NETWORKS[:1], MATRIX, SOURCES)
    for setting in ("W2A4", "W2A4 trained"):
        yield from ((SETTINGS[setting], Source(name)) for name in THREE)
    for setting in ("low rank 50 %", "channels 30 %"):
        yield from ((SETTINGS[setting], Source(name)) for name in ("real", "BNS"))
    yield from ((SETTINGS["W2"], Source(name)) for name in VARIANTS)


def matrix(
    networks: Sequence[str], settings: Sequence[str], sources: Sequence[str]
) -> Iterator[tuple[Setting, Source]]:
    """All of these with every seed."""
    for network, seed, name, source in itertools.product(networks, SEEDS, settings, sources):
        yield SETTINGS[name], Source(source, network, seed)


@cache
def before(network: str) -> Evaluation:
    return evaluate(original(network), cifar())


def row(setting: Setting, source: Source, small: bool) -> Row:
    """Compress with images of the source alone, and score on real test images."""
    training = setting.kind in ("train", "reconstruct, train", "lowrank", "prune")
    few(source)
    if training:
        many(source)  # made before the clock starts
    start = time.process_time()
    found = baked(compressed(setting, source, small))
    seconds = time.process_time() - start
    after, reference = evaluate(found, cifar()), before(source.network)
    return {
        **identity(setting, source),
        "kind": setting.kind,
        "score_before": reference.score,
        "score": after.score,
        "difference": interval(paired(after, reference, cifar().score)),
        "cpu_seconds": round(seconds, 1),
        **describe(source, N_TRAIN if training else N_CALIBRATION),
    }


def identity(setting: Setting, source: Source) -> Row:
    return {
        "network": source.network,
        "setting": setting.name,
        "source": source.name,
        "seed": source.seed,
    }


def known(name: str) -> list[Row]:
    """Rows of an earlier run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two rows with short reconstruction")
    parser.add_argument("--only", metavar="TEXT", help="rows of 'network setting source' with TEXT, again")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    chosen = parser.parse_args()
    name = "datafree_small" if chosen.small else "datafree"
    rows = [] if chosen.fresh else known(name)
    for setting, source in dict.fromkeys(plan(chosen.small)):
        ours = identity(setting, source)
        text = f"{source.network} {setting.name} {source.name}"
        there = [old for old in rows if all(old[key] == value for key, value in ours.items())]
        if (there and not chosen.only) or (chosen.only and chosen.only.lower() not in text.lower()):
            continue
        rows = [old for old in rows if old not in there]
        rows.append(row(setting, source, chosen.small))
        print(rows[-1], flush=True)
        write(name, {"rows": rows})


if __name__ == "__main__":
    main()
