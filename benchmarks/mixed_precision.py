"""Mixed against uniform widths at equal written bytes: `python -m benchmarks.mixed_precision [--small]`.

For each width from 2 to 8 the whole network is rounded to nearest at that width, one scale per channel, with
the range (min-max or least squared error) that diverges less on calibration inputs. `MixedPrecision` then
gets exactly the bytes of that file, and the same ranges to choose from. Biases and norms are compact in
both.

ResNet-20 (batch norm folded): 256 unlabelled validation images for all choices, scored on the 1,017 lossless
test images. MiniLM: 128 unlabelled sentences of the training split, scored by Spearman's correlation on the
STS-B development split. No choice is made on either. Mixed beats a width with a higher score in no more
bytes, or with the same score in fewer.

Divergence is measured on the holdout's inputs, from the float network's outputs, without labels, so it has
none of the luck of single labels; for MiniLM it compares the cosines of pairs, as the score does.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cifar import interval
from benchmarks.record import write
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.mixed.costs import float_bytes, written_bytes
from plisse.compress.quantize.mixed.mixed import MixedPrecision, widths_of
from plisse.compress.quantize.mixed.refine import company, uniform
from plisse.compress.quantize.mixed.sensitivity import Perturbation
from plisse.compress.quantize.mixed.table import Picks, Table
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.step import chain
from plisse.core.reparam import baked
from plisse.data.folder import data_set
from plisse.networks.open import open_model
from plisse.train.evaluate import Evaluation, paired
from plisse.train.task import Task, outputs_on
from plisse.train.tasks import open_task

WIDTHS = (2, 3, 4, 5, 6, 8)
SMALL = (3, 4)
RESNET = MixedPrecision("bytes=1x", bits=(2, 3, 4, 5, 6, 7, 8, 10), sensitivity=Perturbation(2), sweeps=2)
MINILM = MixedPrecision("bytes=1x", bits=(2, 3, 4, 5, 6, 7, 8, 10), sensitivity=Perturbation(2), sweeps=1)


def resnet20() -> tuple[nn.Module, Task]:
    model = open_model("resnet20", weights=data_set("models", "cifar10_resnet20.safetensors"))
    task = open_task("cifar10")
    return chain(FoldBatchNorm(), CompactSmall())(model, task), task


def minilm() -> tuple[nn.Module, Task]:
    model = open_model("minilm")
    task = open_task("stsb", model=model)
    task = replace(task, divergence=similarity_divergence)
    return CompactSmall()(model, task), task


def similarity_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """1 minus the correlation between the cosines of all pairs of sentences, [N, D] against [N, D].

    What a ranking of pairs sees: embeddings that all move together stay as good as they were.
    """
    pairs = torch.triu_indices(len(reference), len(reference), 1)
    first, second = (F.normalize(each.float(), dim=-1) for each in (reference, outputs))
    cosines = torch.stack([(each @ each.T)[pairs[0], pairs[1]] for each in (first, second)])
    return 1 - torch.corrcoef(cosines)[0, 1]


class Holdout:
    """Scores on the holdout, and divergence from the float network there, from one pass."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.task = task
        self.targets = torch.cat([batch.target for batch in task.holdout if batch.target is not None])
        self.reference = outputs_on(baked(model), task.holdout)
        self.floating = self.scored(self.reference)

    def __call__(self, model: nn.Module) -> tuple[Evaluation, float]:
        outputs = outputs_on(baked(model), self.task.holdout)
        pairs = zip(self.reference, outputs, strict=True)
        lost = sum(float(self.task.divergence(a, b)) for a, b in pairs) / len(outputs)
        return self.scored(outputs), lost

    def scored(self, outputs: list[Tensor]) -> Evaluation:
        score = self.task.score
        found = torch.cat([score.predict(each) for each in outputs])
        value = score.summary(found, self.targets)
        return Evaluation(score.name, value, value, value, len(found), found, self.targets, score.unit)


def frontier(how: MixedPrecision, model: nn.Module, task: Task, widths: tuple[int, ...]) -> dict[str, Any]:
    """Uniform and mixed at the bytes of every width."""
    start = time.perf_counter()
    holdout = Holdout(model, task)
    table = how.table(model, task)
    measured = time.perf_counter() - start
    choices = best_uniform(how, model, task, table)
    rows = [row(how, model, task, table, choices[width], holdout) for width in widths]
    return {
        "bytes_float": float_bytes(model),
        "score_float": holdout.floating.score,
        "samples": holdout.floating.n,
        "seconds_table": round(measured, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "mixed_beats_every_width": all(each["mixed_beats"] for each in rows),
        "mixed_diverges_less_at_every_width": all(each["mixed_diverges_less"] for each in rows),
        "rows": rows,
    }


def best_uniform(how: MixedPrecision, model: nn.Module, task: Task, table: Table) -> dict[int, Picks]:
    """For every width the choice with the range that diverges least on calibration inputs."""
    lost = company(baked(model), task, 2)
    found: dict[int, tuple[float, Picks]] = {}
    for picks in uniform(table):
        width = next(iter(picks.values())).bits
        value = lost(picks)
        if width not in found or value < found[width][0]:
            found[width] = (value, picks)
    return {width: picks for width, (_, picks) in found.items()}


def row(
    how: MixedPrecision, model: nn.Module, task: Task, table: Table, picks: Picks, holdout: Holdout
) -> dict[str, Any]:
    start = time.perf_counter()
    plain = how.made(model, task, picks)
    size = written_bytes(plain, model, task.name)
    mixed = replace(how, budget=f"bytes={size}").within(model, task, table)
    mixed_size = written_bytes(mixed, model, task.name)
    (before, before_lost), (after, after_lost) = holdout(plain), holdout(mixed)
    first = next(iter(picks.values()))
    found = {
        "width": first.bits,
        "range": type(first.candidate.how.range).__name__ if first.candidate.how else "",
        "bytes": size,
        "mixed_bytes": mixed_size,
        "score": before.score,
        "mixed_score": after.score,
        "difference": interval(paired(after, before, task.score)),
        "divergence": before_lost,
        "mixed_divergence": after_lost,
        "mixed_beats": mixed_size <= size and (after.score, -mixed_size) > (before.score, -size),
        "mixed_diverges_less": after_lost < before_lost,
        "mixed_widths": widths_of(mixed),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print({key: value for key, value in found.items() if key != "mixed_widths"}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two widths of ResNet-20")
    chosen = parser.parse_args()
    if chosen.small:
        model, task = resnet20()
        small = replace(RESNET, bits=(2, 3, 4, 5, 6), sweeps=0)
        write("mixed_precision_small", {"resnet20": frontier(small, model, task, SMALL)})
        return
    found: dict[str, Any] = {}
    for name, make, how in (("resnet20", resnet20, RESNET), ("minilm", minilm, MINILM)):
        model, task = make()
        found[name] = frontier(how, model, task, WIDTHS)
        write("mixed_precision", found)


if __name__ == "__main__":
    main()
