"""The main job: a trained network and a budget in, one small file out, everything measured on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from plisse.compress.finetune import FineTune, distilled
from plisse.compress.recipe import dump_recipe
from plisse.compress.result import Result
from plisse.compress.run import Run
from plisse.compress.spend import BATCHES, Spending, Spent, Training
from plisse.compress.step import Step, chain
from plisse.core.batch import n_samples
from plisse.core.modules import check_finite, check_plain
from plisse.core.origin import origin_of
from plisse.cost.budget import Budget, Cost
from plisse.errors import BudgetError, InputError
from plisse.train.evaluate import evaluate, paired
from plisse.train.run import Hook
from plisse.train.task import Task

FINAL_REPEATS = 61
"""Timed passes of the finished file."""

Progress = Callable[[Iterable[str]], Iterable[str]]


def compress(
    model: nn.Module,
    task: Task,
    *,
    budget: Budget | str | None = None,
    recipe: Step | None = None,
    finetune_steps: int | None = None,
    finetune_lr: float = 0.02,
    strict: bool = False,
    keep_statistics: bool = False,
    seed: int = 0,
    notes: Mapping[str, Any] | None = None,
    allow: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda names: names,
    hooks: tuple[Hook, ...] = (),
) -> Result:
    """Compress `model` for `task`, by a recipe or to a budget, and score what the written file decodes to.

    budget: upper bounds; relative ones refer to the network as it comes, in a plain safetensors file. recipe:
    steps to run before those that the budget asks for. finetune_steps: batches of training with the original
    as teacher, without labels; 0: post-training only. By default a budget that is met without training is all
    that is done where outputs hardly diverge (`WORTH`, compress/spend); else 600 batches, fewer of a large
    network, are tried, and kept where they diverge less. finetune_lr: peak learning rate. strict: a step that
    saves nothing is an error.
    keep_statistics: of training data behind batch norms, two numbers per channel, with which the file can be
    compressed again without data.
    notes: JSON data for the file. allow: the factories that may build the network. say, progress: told about
    the steps, and wrapped around the names of tensors while they are measured. hooks: called after every
    batch of training. The given model stays as it was.

    Raises BudgetError where the bounds cannot be met, SavedNothingError under `strict`, WeightsError for NaN,
    GraphError for a network whose origin is unknown.
    """
    if budget is None and recipe is None:
        raise InputError("neither a budget nor a recipe", expected="one of them", hint="budget='bytes=0.1x'")
    bounds = Budget.parse(budget) if isinstance(budget, str) else budget
    training = _training(finetune_steps, finetune_lr, seed, task)
    _check_parts(task, bounds, training)
    check_plain(model)
    check_finite(model)
    origin_of(model)
    torch.manual_seed(seed)
    told = {"task": task.name.partition(":")[0], **(notes or {})}
    run = Run(model, model, distilled(task, model), strict, allow, say, told, hooks)
    score_before = evaluate(model, task)
    before = run.start(score_before.score)
    training = training.affordable(task, before)
    done, frontier = _run_steps(run, bounds, recipe, training, before, keep_statistics, progress)
    data = run.data(run.model)
    decoded = run.decoded(data)
    after = run.cost(decoded, len(data), FINAL_REPEATS)
    if bounds:
        _check(bounds, after, before)
    score_after = evaluate(decoded, task)
    return Result(
        model=decoded,
        data=data,
        before=before,
        after=after,
        score_before=score_before,
        score_after=score_after,
        difference=paired(score_after, score_before, task.score),
        steps=tuple(run.rows),
        tensors=run.tensor_rows(data),
        frontier=frontier,
        record=_record(model, task, bounds, done, seed),
    )


def _training(steps: int | None, lr: float, seed: int, task: Task) -> Training:
    """As asked for, or where it pays and `task` has something to train on."""
    count = steps if steps is not None else BATCHES if len(task.train) else 0
    return Training(FineTune(steps=count, lr=lr, seed=seed) if count else None, asked=steps is not None)


def _run_steps(
    run: Run,
    bounds: Budget | None,
    recipe: Step | None,
    training: Training,
    before: Cost,
    keep: bool,
    progress: Progress,
) -> Spent:
    """The recipe, then what the budget asks for; without one, training where it is asked for."""
    done: list[Step] = list(chain(recipe).steps) if recipe else []
    for step in done:
        run.step(step)
    training = training.steadied(run.model)
    if bounds is not None:
        steps, frontier = Spending(run, bounds, training, before, keep, progress).all(done)
        return [*done, *steps], frontier
    if training.step and training.asked:
        run.step(training.step)
        done.append(training.step)
    return done, ()


def _check_parts(task: Task, bounds: Budget | None, training: Training) -> None:
    """Raise InputError, before any work, for the first part of `task` that will be needed and is empty."""
    needed = {
        "holdout": "to score on",
        **({"calibration": "to measure what bytes are worth"} if bounds and bounds.bytes else {}),
        **({"train": "to fine-tune on"} if training.step else {}),
    }
    for part, why in needed.items():
        if not len(getattr(task, part)):
            raise InputError(f"task {task.name!r} with an empty {part}", expected=f"a batch at least, {why}")


def _check(bounds: Budget, after: Cost, before: Cost) -> None:
    """Raise BudgetError for the first bound that the finished file breaks."""
    limits = bounds.absolute(before)
    for name in bounds.exceeded(after, before):
        raise BudgetError(
            f"{name}={getattr(after, name):.6g}",
            expected=f"at most {limits[name]:.6g}",
            hint="a larger budget, or more bounds to trade against",
            closest=after,
        )


def _record(
    model: nn.Module, task: Task, bounds: Budget | None, steps: list[Step], seed: int
) -> dict[str, Any]:
    """Configuration, versions and seed: what one needs to run this again."""
    limits = dataclasses.asdict(bounds) if bounds else {}
    return {
        "network": dataclasses.asdict(origin_of(model)),
        "task": task.name.partition(":")[0],
        "batch": n_samples(task.example),
        "budget": {name: limit for name, limit in limits.items() if limit},
        "recipe": dump_recipe(chain(*steps)) if steps else "",
        "seed": seed,
        "threads": torch.get_num_threads(),
        "versions": {"plisse": version("plisse"), "torch": torch.__version__, "numpy": np.__version__},
    }
