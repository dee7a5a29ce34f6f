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
from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.recipe import dump_recipe
from plisse.compress.result import FrontierPoint, Result
from plisse.compress.run import Run
from plisse.compress.step import Step, chain
from plisse.compress.structure import structure_within
from plisse.compress.within import plan_bytes, shrink_within
from plisse.core.batch import n_samples
from plisse.core.modules import check_finite, check_plain
from plisse.core.origin import origin_of
from plisse.cost.budget import Budget, Cost
from plisse.errors import BudgetError, InputError
from plisse.train.evaluate import evaluate, paired
from plisse.train.task import Task

PROBES, FINAL_REPEATS = 31, 61
FINISHING = (AbsorbStatistics, CompactSmall)
"""Steps of a byte budget that may find nothing left to save."""
"""Timed passes while searching for a width, and of the finished file."""

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
FOLDED_CLIP = 1.0

Progress = Callable[[Iterable[str]], Iterable[str]]


def compress(
    model: nn.Module,
    task: Task,
    *,
    budget: Budget | str | None = None,
    recipe: Step | None = None,
    finetune_steps: int = 0,
    finetune_lr: float = 0.02,
    strict: bool = False,
    keep_statistics: bool = False,
    seed: int = 0,
    notes: Mapping[str, Any] | None = None,
    allow: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda names: names,
) -> Result:
    """Compress `model` for `task`, by a recipe or to a budget, and score what the written file decodes to.

    budget: upper bounds; relative ones refer to the network as it comes, in a plain safetensors file. recipe:
    steps to run before those that the budget asks for. finetune_steps: batches of training with the original
    as teacher (0: post-training only); labels are not used. strict: a step that saves nothing is an error.
    keep_statistics: of training data behind batch norms, two numbers per channel, with which the file can be
    compressed again without data.
    notes: JSON data for the file. allow: the factories that may build the network. say, progress: told about
    the steps, and wrapped around the names of tensors while they are measured. The given model stays as it
    was.

    Raises BudgetError where the bounds cannot be met, SavedNothingError under `strict`, WeightsError for NaN,
    GraphError for a network whose origin is unknown.
    """
    if budget is None and recipe is None:
        raise InputError("neither a budget nor a recipe", expected="one of them", hint="budget='bytes=0.1x'")
    bounds = Budget.parse(budget) if isinstance(budget, str) else budget
    training = FineTune(steps=finetune_steps, lr=finetune_lr, seed=seed) if finetune_steps else None
    _check_parts(task, bounds, training)
    check_plain(model)
    check_finite(model)
    origin_of(model)
    torch.manual_seed(seed)
    kind = task.name.partition(":")[0]
    run = Run(model, model, distilled(task, model), strict, allow, say, {"task": kind, **(notes or {})})
    score_before = evaluate(model, task)
    before = run.start(score_before.score)
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


def _run_steps(
    run: Run,
    bounds: Budget | None,
    recipe: Step | None,
    training: FineTune | None,
    before: Cost,
    keep: bool,
    progress: Progress,
) -> tuple[list[Step], tuple[FrontierPoint, ...]]:
    """The recipe, then the structure, then the bytes; returns the steps that were run and the frontier."""
    done: list[Step] = list(chain(recipe).steps) if recipe else []
    for step in done:
        run.step(step)
    training = training and steadied(training, run.model)
    if bounds is None:
        if training:
            run.step(training)
            done.append(training)
        return done, ()
    structure = _run_structure(run, bounds, training, before, keep)
    if bounds.bytes is None:
        return [*done, *structure], ()
    limit = bounds.bytes.absolute(before.bytes)
    later = None if bounds.latency else training
    if done and run.written(run.model) <= limit:
        return [*done, *structure, *_trained_within(run, later, limit)], ()
    run.say("measuring what every tensor costs and loses")
    plan = plan_bytes(
        run.model,
        run.task,
        limit,
        written=run.written,
        training=later,
        keep_statistics=keep,
        progress=progress,
    )
    for step in plan.steps:
        run.step(step, asked=not isinstance(step, FINISHING))
    run.model = shrink_within(run.model, limit, run.written)
    return [*done, *structure, *plan.steps], plan.frontier


def _trained_within(run: Run, training: FineTune | None, limit: float) -> list[Step]:
    """Train what the recipe made, which is within the bound on bytes already, and keep it there."""
    steps: list[Step] = [training] if training else []
    for step in steps:
        run.step(step)
    run.model = shrink_within(run.model, limit, run.written)
    return steps


def steadied(training: FineTune, model: nn.Module) -> FineTune:
    """`training` with gradients of norm 1 at most where `model` has no norms, such as after folding: without
    either, ten batches destroy a ResNet-20 of 4 bits."""
    if training.clip is not None or any(isinstance(module, NORMS) for module in model.modules()):
        return training
    return dataclasses.replace(training, clip=FOLDED_CLIP)


def _run_structure(
    run: Run, bounds: Budget, training: FineTune | None, before: Cost, keep: bool
) -> list[Step]:
    """Cut channels or ranks where a bound asks for it, train, and fold batch norm where time counts."""
    fold: list[Step] = [FoldBatchNorm(keep)] if bounds.latency else []
    cut = structure_within(
        run.model, run.task, bounds, before, lambda net: run.cost(chain(*fold)(net, run.task), repeats=PROBES)
    )
    if cut is None:
        return []
    label, run.model = cut
    run.note(label)
    steps = [*([training] if training else []), *fold]
    for step in steps:
        run.step(step)
    return steps


def _check_parts(task: Task, bounds: Budget | None, training: FineTune | None) -> None:
    """Raise InputError, before any work, for the first part of `task` that will be needed and is empty."""
    needed = {
        "holdout": "to score on",
        **({"calibration": "to measure what bytes are worth"} if bounds and bounds.bytes else {}),
        **({"train": "to fine-tune on"} if training else {}),
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
