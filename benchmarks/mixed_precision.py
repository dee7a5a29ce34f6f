"""A width or a step per weight against one width for all, at equal written bytes:
`python -m benchmarks.mixed_precision [--small] [--network NAME] [--width B] [--arm NAME]`.

For each width the whole network, embeddings too, is rounded by GPTQ at that width: affine, one scale per
channel, with the range (min-max or least squared error) that diverges less on calibration inputs. What is
mixed gets exactly the bytes of that file and GPTQ too:

    widths  `MixedPrecision`: a width and a range for every weight, from 2 to 8 bits
    steps   a step for every weight, and as many bits as the coder needs: `compress` without factors and zeros

Both are chosen by divergence measured on calibration inputs, without labels: ResNet-20 (batch norm folded)
512 validation images, scored on the 1,017 lossless test images; MiniLM 512 sentences of the training split,
scored on the STS-B development split (steps alone, the table of widths takes long). `chosen` names the one
of the two that diverges less on the last calibration batches; nothing is chosen on what is scored.

Three figures come from one pass over the holdout, and from one over a larger set, since differences of
scores are smaller than what 1,017 images can show ("larger": 5,000 test images after JPEG, a shifted set;
3,000 pairs of STS-B's training split without any sentence of calibration). score: the task's. fidelity: the
same score with the original's own predictions in place of the labels, so that 1 is what a perfect copy
gets: the score of a network that is nearly as good as the original is luck, its fidelity is not.
divergence: from the original's outputs, mean per sample: KL in nats for ResNet-20, squared distance of
normalized embeddings for MiniLM. Differences are mixed minus uniform, with paired bootstrap intervals.
Bytes are lengths of whole files.
Rows are kept as they come, and a run goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cifar import interval
from benchmarks.joint_samples import sets_of
from benchmarks.record import RESULTS, write
from plisse.compress.fitting import Fitting, finishing
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.quantize.compensate import Compensate
from plisse.compress.quantize.mixed.candidates import Uniformly, candidates
from plisse.compress.quantize.mixed.costs import float_bytes, written_bytes
from plisse.compress.quantize.mixed.mixed import MixedPrecision, widths_of
from plisse.compress.quantize.mixed.refine import company, uniform
from plisse.compress.quantize.mixed.sensitivity import Perturbation
from plisse.compress.quantize.mixed.table import Picks, Table, make_table
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.rounding import GPTQ
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.sensitivity import RateTable, divergence, held_apart, rate_table
from plisse.compress.step import chain
from plisse.core import modules
from plisse.core.batch import Batches
from plisse.core.reparam import baked, plain, reparametrize, source
from plisse.data.folder import data_set
from plisse.errors import BudgetError
from plisse.networks.open import open_model
from plisse.train.evaluate import Evaluation, paired
from plisse.train.task import Score, Task, outputs_on
from plisse.train.tasks import open_task

BITS = (2, 3, 4, 5, 6, 8)
SMALL = (3,)
ARMS = ("widths", "steps")
MEAN = Score("mean", lambda outputs: outputs, lambda values, _: float(values.mean()))
Row = dict[str, Any]
PerSample = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """A network, its task, how it is rounded, and the divergence of each sample [N, ...] -> [N].

    larger: which of `joint_samples.sets_of` is measured beside the holdout. arms: what is compared with
    uniform widths. batches: of calibration, that choices look at.
    """

    model: nn.Module
    task: Task
    widths: tuple[int, ...]
    how: MixedPrecision
    distance: PerSample
    larger: str
    arms: tuple[str, ...] = ARMS
    batches: int = 2


def resnet20() -> Subject:
    model = open_model("resnet20", weights=data_set("models", "cifar10_resnet20.safetensors"))
    task = open_task("cifar10")
    found = chain(FoldBatchNorm(), CompactSmall())(model, task)
    return Subject(found, task, (8, 6, 5, 4, 3, 2), _how(GPTQ(samples=256), 2, 1), kl_per_sample, "jpeg")


def minilm() -> Subject:
    model = open_model("minilm")
    task = open_task("stsb", model=model)
    found, how = CompactSmall()(model, task), _how(GPTQ(samples=128), 1, 0)
    return Subject(found, task, (6, 4, 3, 2), how, squared_distance, "train", ("steps",), batches=1)


def _how(rounding: GPTQ, batches: int, sweeps: int) -> MixedPrecision:
    sensitivity = Perturbation(batches, upto=4)
    return MixedPrecision(
        "bytes=1x", bits=BITS, symmetric=False, sensitivity=sensitivity, sweeps=sweeps, rounding=rounding
    )


def kl_per_sample(reference: Tensor, outputs: Tensor) -> Tensor:
    """[N, K], [N, K] -> [N] in nats."""
    logs = (F.log_softmax(each.float(), -1) for each in (outputs, reference))
    return F.kl_div(*logs, reduction="none", log_target=True).sum(-1)


def squared_distance(reference: Tensor, outputs: Tensor) -> Tensor:
    """[N, D], [N, D] -> [N], 0 to 4: twice 1 minus the cosine."""
    first, second = (F.normalize(each.float(), dim=-1) for each in (reference, outputs))
    return (first - second).square().sum(-1)


class Holdout:
    """Three evaluations of a network by one pass over held-out samples; see the module."""

    def __init__(self, subject: Subject, batches: Batches) -> None:
        self.task, self.distance, self.batches = subject.task, subject.distance, batches
        self.targets = torch.cat([batch.target for batch in batches if batch.target is not None])
        self.reference = outputs_on(baked(subject.model), batches)
        self.own = self._predicted(self.reference)

    def __call__(self, model: nn.Module) -> dict[str, Evaluation]:
        outputs = outputs_on(baked(model), self.batches)
        predicted = self._predicted(outputs)
        pairs = zip(self.reference, outputs, strict=True)
        lost = torch.cat([self.distance(a, b) for a, b in pairs])
        return {
            "score": _evaluated(self.task.score, predicted, self.targets),
            "fidelity": _evaluated(self.task.score, predicted, self.own),
            "divergence": _evaluated(MEAN, lost, torch.zeros_like(lost)),
        }

    def _predicted(self, outputs: list[Tensor]) -> Tensor:
        return torch.cat([self.task.score.predict(each) for each in outputs])


def _evaluated(score: Score, predicted: Tensor, targets: Tensor) -> Evaluation:
    value = score.summary(predicted, targets)
    return Evaluation(score.name, value, value, value, len(predicted), predicted, targets, score.unit)


class Arms:
    """What is compared, with the tables that all budgets share."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.model, self.task = subject, subject.model, subject.task
        self.seconds: dict[str, float] = {}

    @cached_property
    def table(self) -> Table:
        """Of widths."""
        start = time.process_time()
        found = self.subject.how.table(self.model, self.task)
        self.seconds["widths"] = round(time.process_time() - start, 1)
        return found

    @cached_property
    def rates(self) -> RateTable:
        """Of steps alone: factors and zeros are tried for weights that nothing computes."""
        start = time.process_time()
        held = {name: source(self.model, name) for name in modules.weight_names(plain(self.model))}
        found = rate_table(reparametrize(self.model, held), self.task, n_batches=self.subject.batches)
        self.seconds["steps"] = round(time.process_time() - start, 1)
        return found

    def uniform(self, bits: int) -> nn.Module:
        """The range by divergence of weights rounded to nearest, then GPTQ."""
        how = self.subject.how
        hows = [Uniformly(how.symmetric, how.granularity, range) for range in how.ranges]
        names = modules.weight_names(plain(self.model))
        options = {name: candidates(source(self.model, name), (bits,), hows) for name in names}
        free = {name: [0.0] * len(each) for name, each in options.items()}
        lost = company(baked(self.model), self.task, self.subject.batches)
        same: list[Picks] = list(uniform(make_table(options, free, lambda _: (None,), {})))
        return how.made(self.model, self.task, min(same, key=lost))

    def widths(self, size: int) -> nn.Module:
        return replace(self.subject.how, budget=f"bytes={size}").within(self.model, self.task, self.table)

    def steps(self, size: int) -> nn.Module:
        rounding = self.subject.how.rounding
        assert isinstance(rounding, GPTQ)
        after = (Compensate(rounding.samples),)
        fitting = Fitting(
            self.model,
            self.task,
            self.rates,
            RateQuantize({}),
            after,
            RateQuantize({}, rounding="trellis"),
            self.size,
        )
        return finishing(self.model)(fitting.within(size).network, self.task)

    def size(self, model: nn.Module) -> int:
        return written_bytes(model, self.model, self.task.name)


def row(arms: Arms, holdouts: tuple[Holdout, Holdout], old: Row, wanted: Iterable[str]) -> Row:
    """One width, and what is mixed at its bytes; `old` with the arms `wanted` measured. holdouts: the task's
    own and the larger one."""
    task, judges = arms.task, held_apart(arms.task)
    same = arms.uniform(old["width"])
    size, before = arms.size(same), [each(same) for each in holdouts]
    found: Row = {**old, "uniform": {"bytes": size, **_measured(before[0]), "larger": _measured(before[1])}}
    for name in wanted:
        make = {"widths": arms.widths, "steps": arms.steps}[name]
        start = time.process_time()
        try:
            mixed = make(size)
        except BudgetError as error:
            found[name] = {"error": str(error)}
            continue
        seconds = round(time.process_time() - start, 1)
        apart = divergence(mixed, arms.model, task, judges)
        own, larger = (
            _measured(after) | _differences(after, first, task.score)
            for after, first in zip((each(mixed) for each in holdouts), before, strict=True)
        )
        found[name] = {"bytes": arms.size(mixed), "seconds": seconds, "apart": apart, **own, "larger": larger}
        if name == "widths":
            found[name]["bits"] = widths_of(mixed)
    done = [name for name in ARMS if "apart" in found.get(name, {})]
    found["chosen"] = min(done, key=lambda name: found[name]["apart"]) if done else None
    return found


def _measured(found: dict[str, Evaluation]) -> Row:
    return {key: each.score for key, each in found.items()}


def _differences(after: dict[str, Evaluation], before: dict[str, Evaluation], score: Score) -> Row:
    """Mixed minus uniform, with intervals."""
    by = {"score": score, "fidelity": score, "divergence": MEAN}
    return {f"{k}_difference": interval(paired(after[k], before[k], by[k])) for k in by}


def known(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"networks": {}, "rows": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one width of ResNet-20, not kept with others")
    parser.add_argument("--network", choices=("resnet20", "minilm"), help="one network")
    parser.add_argument("--width", type=int, help="one width")
    parser.add_argument("--arm", choices=ARMS, help="one of what is mixed")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    chosen = parser.parse_args()
    name = "mixed_precision_small" if chosen.small else "mixed_precision"
    record = {"networks": {}, "rows": []} if chosen.small or chosen.fresh else known(name)
    for network, opened in (("resnet20", resnet20), ("minilm", minilm)):
        if chosen.network not in (None, network) or (chosen.small and network != "resnet20"):
            continue
        subject = opened()
        wanted = list(missing(record, network, subject, chosen))
        if not wanted:
            continue
        arms, sets = Arms(subject), sets_of(network, subject.task)
        own, larger = (Holdout(subject, sets[each]) for each in ("holdout", subject.larger))
        sizes: Row = {"bytes_float": float_bytes(subject.model), "larger": subject.larger}
        sizes |= {"score_float": task_score(own), "samples": len(own.own)}
        sizes |= {"larger_score_float": task_score(larger), "larger_samples": len(larger.own)}
        for old, names in wanted:
            found = row(arms, (own, larger), old, names)
            record["rows"] = [each for each in record["rows"] if _key(each) != _key(found)] + [found]
            seconds = record["networks"].get(network, {}).get("table_seconds", {}) | arms.seconds
            record["networks"][network] = {**sizes, "table_seconds": seconds}
            print(_said(found), flush=True)
            write(name, record)


def missing(
    record: Row, network: str, subject: Subject, chosen: argparse.Namespace
) -> Iterator[tuple[Row, list[str]]]:
    """The rows as they are, and the arms that they lack."""
    for bits in SMALL if chosen.small else subject.widths:
        fresh: Row = {"network": network, "width": bits}
        old = next((each for each in record["rows"] if _key(each) == _key(fresh)), fresh)
        names = [name for name in subject.arms if name not in old and chosen.arm in (None, name)]
        if names and chosen.width in (None, bits):
            yield old, names


def _key(each: Row) -> tuple[str, int]:
    return each["network"], each["width"]


def task_score(holdout: Holdout) -> float:
    return holdout.task.score.summary(holdout.own, holdout.targets)


def _said(found: Row) -> Row:
    return {
        key: {name: value for name, value in part.items() if name != "bits"}
        if isinstance(part, dict)
        else part
        for key, part in found.items()
    }


if __name__ == "__main__":
    main()
