"""What is mixed against one width, and the joint default against single techniques, luck of single roundings
averaged out: `python -m benchmarks.draws [--case NAME] [--network NAME] [--small]`.

A rounding that happens to score above the original says little about the method that made it. Here every file
is made anew for each of several draws of the calibration samples (seeds of the task):

    mixed  steps at the bytes of one width, both as in benchmarks.mixed_precision
    joint  the joint default, step sizes and one width within a bound, as in benchmarks.joint

Scores, fidelity (the score with the original's predictions in place of labels) and divergence are means over
the draws. Differences are those of the first form minus another, with intervals by a bootstrap over draws and
samples. Sets: the holdout and a larger one (see benchmarks.joint_samples; for MiniLM without the sentences of
any draw). What the networks answered is kept in the folder for temporary files until all draws are there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import mixed_precision
from benchmarks.joint import opened
from benchmarks.joint_samples import diverging, sets_of, untouched
from benchmarks.joint_techniques import TECHNIQUES
from benchmarks.mixed_precision import Arms, Subject
from benchmarks.record import RESULTS, write
from plisse.bitstream import modelfile
from plisse.core.batch import Batches
from plisse.core.reparam import baked
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import build
from plisse.train.task import Score, Task, outputs_on
from plisse.train.tasks import open_task

NAME = "draws"
DRAWS = (0, 1, 2, 3)
RESAMPLES = 1000
FORMS = {"mixed": ("steps", "uniform"), "joint": ("joint", "step sizes", "quantization")}
PLACES: dict[tuple[str, str], tuple[float, ...]] = {
    ("mixed", "resnet20"): (3, 4, 5, 6),
    ("joint", "resnet20"): (10.0,),
    ("mixed", "minilm"): (4, 6),
    ("joint", "minilm"): (8.0,),
}
"""Widths in bits, and ratios."""
LARGER = {"resnet20": "jpeg", "minilm": "train"}
Row = dict[str, Any]
Made = tuple[nn.Module, int]


def task_of(network: str, model: nn.Module, draw: int) -> Task:
    """Calibration samples, and nothing else that matters here, depend on the draw."""
    return (
        open_task("stsb", model=model, seed=draw) if network == "minilm" else open_task("cifar10", seed=draw)
    )


def mixed(network: str, draw: int, width: float) -> Iterator[tuple[str, Made]]:
    """Steps and one width, at equal bytes."""
    subject: Subject = getattr(mixed_precision, network)()
    arms = Arms(replace(subject, task=task_of(network, subject.model, draw)))
    same = arms.uniform(int(width))
    size = arms.size(same)
    yield "uniform", (same, size)
    found = arms.steps(size)
    yield "steps", (found, arms.size(found))


def joint(network: str, draw: int, ratio: float) -> Iterator[tuple[str, Made]]:
    """The joint default and two single techniques within a bound."""
    model, _ = opened(network)
    task = task_of(network, model, draw)
    bound = sum(value.numel() * value.element_size() for value in model.state_dict().values()) / ratio
    for form in FORMS["joint"]:
        data = TECHNIQUES[form](model, task, bound)
        if data is not None:
            yield form, (with_assets(modelfile.loads(data, build), assets(model)), len(data))


MAKERS: dict[str, Callable[[str, int, float], Iterator[tuple[str, Made]]]] = {"mixed": mixed, "joint": joint}


@dataclass(frozen=True, eq=False)
class Judge:
    """What a network answers on both sets, and what that is worth."""

    network: str

    @cached_property
    def original(self) -> nn.Module:
        return opened(self.network)[0]

    @cached_property
    def task(self) -> Task:
        return task_of(self.network, self.original, DRAWS[0])

    @cached_property
    def sets(self) -> dict[str, Batches]:
        if self.network != "minilm":
            every = sets_of(self.network, self.task)
            return {"holdout": every["holdout"], "larger": every[LARGER[self.network]]}
        tasks = [task_of("minilm", self.original, draw) for draw in DRAWS]
        return {"holdout": self.task.holdout, "larger": untouched(self.task, beside=tasks)}

    @cached_property
    def outputs(self) -> dict[str, list[Tensor]]:
        """Of the original."""
        return {name: outputs_on(self.original, batches) for name, batches in self.sets.items()}

    def targets(self, name: str) -> Tensor:
        return torch.cat([batch.target for batch in self.sets[name] if batch.target is not None])

    def predicted(self, outputs: list[Tensor]) -> Tensor:
        return torch.cat([self.task.score.predict(each) for each in outputs])

    def answers(self, model: nn.Module) -> dict[str, tuple[Tensor, float]]:
        """Predictions and the mean divergence on every set."""
        found = {}
        for name, batches in self.sets.items():
            outputs = outputs_on(baked(model), batches)
            lost = float(diverging(self.task, self.outputs[name], outputs).mean())
            found[name] = self.predicted(outputs), lost
        return found


def drawn(judge: Judge, case: str, at: float, draw: int) -> dict[str, Row]:
    """Bytes and answers of every form, from the folder where they are there."""
    folder = Path(tempfile.gettempdir()) / "plisse_draws"
    folder.mkdir(exist_ok=True)
    place = folder / f"{case}_{judge.network}_{at:g}_{draw}.pt"
    if not place.exists():
        made = MAKERS[case](judge.network, draw, at)
        found = {form: {"bytes": size, "answers": judge.answers(model)} for form, (model, size) in made}
        torch.save(found, place)
    return torch.load(place, weights_only=True)  # type: ignore[no-any-return]


def row(judge: Judge, case: str, at: float, draws: tuple[int, ...]) -> Row:
    """Means over draws, and the first form minus each other one."""
    every = [drawn(judge, case, at, draw) for draw in draws]
    first, *others = (form for form in FORMS[case] if form in every[0])
    found: Row = {"case": case, "network": judge.network, "at": at, "draws": len(draws), "first": first}
    found["bytes"] = {form: [each[form]["bytes"] for each in every] for form in (first, *others)}
    score = judge.task.score
    for name in judge.sets:
        answers = {form: [each[form]["answers"][name] for each in every] for form in (first, *others)}
        wanted = {"score": judge.targets(name), "fidelity": judge.predicted(judge.outputs[name])}
        values = {form: torch.stack([part for part, _ in each]) for form, each in answers.items()}
        means = {
            key: {form: float(np.mean(scores(score, values[form], goal))) for form in values}
            for key, goal in wanted.items()
        }
        means["divergence"] = {form: float(np.mean([lost for _, lost in answers[form]])) for form in values}
        beside = {
            key: {form: difference(score, values[first], values[form], goal) for form in others}
            for key, goal in wanted.items()
        }
        original = score.summary(wanted["fidelity"], wanted["score"])
        found[name] = {"original": original, **means, "first_minus": beside}
    return found


def scores(score: Score, values: Tensor, targets: Tensor) -> list[float]:
    """Of every draw: [D, N] predictions."""
    return [score.summary(each, targets) for each in values]


def difference(score: Score, after: Tensor, before: Tensor, targets: Tensor) -> list[float]:
    """The mean over draws of after - before [D, N], and its interval (95 %) by a bootstrap over both.

    >>> from plisse.train.task import ACCURACY
    >>> right = torch.zeros(2, 5, dtype=torch.int64)
    >>> difference(ACCURACY, right, 1 - right, right[0])
    [1.0, 1.0, 1.0]
    """
    random, found = torch.Generator().manual_seed(0), []
    number, count = after.shape
    for _ in range(RESAMPLES):
        picks = torch.randint(count, (count,), generator=random)
        draws = torch.randint(number, (number,), generator=random).unique(return_counts=True)
        weighed = [
            int(times)
            * (
                score.summary(after[draw][picks], targets[picks])
                - score.summary(before[draw][picks], targets[picks])
            )
            for draw, times in zip(*draws, strict=True)
        ]
        found.append(sum(weighed) / number)
    value = np.mean(scores(score, after, targets)) - np.mean(scores(score, before, targets))
    return [float(value), *map(float, np.percentile(found, [2.5, 97.5]))]


def known(name: str) -> list[Row]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def key(each: Row) -> tuple[str, str, float]:
    return each["case"], each["network"], each["at"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one draw of one width of ResNet-20")
    parser.add_argument("--case", choices=tuple(FORMS), help="one comparison")
    parser.add_argument("--network", choices=tuple(LARGER), help="one network")
    chosen = parser.parse_args()
    name, draws = (f"{NAME}_small", DRAWS[:1]) if chosen.small else (NAME, DRAWS)
    wanted = [(*pair, at) for pair, places in PLACES.items() for at in places]
    for case, network, at in wanted[:1] if chosen.small else wanted:
        done = {key(each) for each in known(name)}
        if chosen.case not in (None, case) or chosen.network not in (None, network):
            continue
        if (case, network, at) in done and not chosen.small:
            continue
        found = row(Judge(network), case, at, draws)
        every = {key(each): each for each in [*known(name), found]}
        write(name, {"rows": [every[each] for each in wanted if each in every]})
        print(found, flush=True)


if __name__ == "__main__":
    main()
