"""The main job: a trained network and a budget in, one small file out, everything measured on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.finetune import FineTune, distilled
from plisse.compress.recipe import dump_recipe
from plisse.compress.result import FrontierPoint, Result, StepRow, TensorRow
from plisse.compress.step import Chain, Step, chain
from plisse.compress.within import plan_bytes, shrink_within, structure_within
from plisse.core.modules import check_finite
from plisse.core.origin import origin_of
from plisse.core.reparam import baked, plain
from plisse.cost.budget import Budget, Cost
from plisse.cost.measure import measure
from plisse.errors import BudgetError, InputError, SavedNothingError
from plisse.networks.assets import assets, with_assets
from plisse.networks.build import build
from plisse.train.evaluate import evaluate, paired
from plisse.train.task import Task

Progress = Callable[[Iterable[str]], Iterable[str]]
Report = Callable[[str], None]


@dataclasses.dataclass
class Run:
    """One compression as it goes: the network now, and the rows so far."""

    model: nn.Module
    task: Task
    strict: bool
    allow: tuple[str, ...]
    say: Report
    notes: Mapping[str, Any]
    rows: list[StepRow] = dataclasses.field(default_factory=list)

    def data(self, model: nn.Module) -> bytes:
        """The file of `model` as it is now."""
        skeleton = build(origin_of(plain(model)), allow=self.allow)
        return modelfile.dumps(model, skeleton, assets=assets(model), notes=self.notes)

    def written(self, model: nn.Module) -> int:
        """Length of that file."""
        return len(self.data(model))

    def cost(self, model: nn.Module) -> Cost:
        return measure(baked(model), self.task.example, written=self.written(model))

    def step(self, step: Step, name: str | None = None) -> None:
        """Run one step, measure, and note whether it saved anything."""
        label = name or _short(step)
        self.say(label)
        self.model = step(self.model, self.task)
        self.note(label, trains=isinstance(step, FineTune))

    def note(self, label: str, trains: bool = False) -> None:
        cost = self.cost(self.model)
        score = evaluate(baked(self.model), self.task).score
        nothing = bool(self.rows) and not trains and _saved_nothing(self.rows[-1].cost, cost)
        self.rows.append(StepRow(label, cost, score, nothing))
        if nothing and self.strict:
            raise SavedNothingError(
                f"step {label}: {self.rows[-2].cost.bytes} bytes before, {cost.bytes} after",
                expected="fewer bytes, MACs or seconds",
                hint="leave the step out, or drop --strict",
            )


def compress(
    model: nn.Module,
    task: Task,
    *,
    budget: Budget | str | None = None,
    recipe: Step | None = None,
    finetune_steps: int = 0,
    finetune_lr: float = 0.02,
    strict: bool = False,
    seed: int = 0,
    notes: Mapping[str, Any] | None = None,
    allow: tuple[str, ...] = (),
    say: Report = lambda text: None,
    progress: Progress = lambda names: names,
) -> Result:
    """Compress `model` for `task`, by a recipe or to a budget, and score what the written file decodes to.

    budget: upper bounds; relative ones refer to the network as it comes, in a plain float32 file. recipe:
    steps to run instead of, or before, those that the budget asks for. finetune_steps: batches of training
    with distillation from the original (0: post-training only, no labels used). The caller's model stays as
    it was.

    Raises BudgetError where the bounds cannot be met, SavedNothingError under `strict`, WeightsError for NaN.

    >>> # result = compress(model, task, budget="bytes=0.1x"); result.ratio
    """
    if budget is None and recipe is None:
        raise InputError("neither a budget nor a recipe", expected="one of them", hint="budget='bytes=0.1x'")
    bounds = Budget.parse(budget) if isinstance(budget, str) else budget
    check_finite(model)
    torch.manual_seed(seed)
    run = Run(model, distilled(task, model), strict, allow, say, {"task": task.name, **(notes or {})})
    before = _original_cost(model, task)
    score_before = evaluate(model, task)
    run.rows.append(StepRow("original (float32)", before, score_before.score))
    training = FineTune(steps=finetune_steps, lr=finetune_lr, seed=seed) if finetune_steps else None
    done, frontier = _run_steps(run, bounds, recipe, training, before, progress)
    if bounds and bounds.bytes:
        run.model = shrink_within(run.model, bounds.bytes.absolute(before.bytes), run.written)
    data = run.data(run.model)
    decoded = modelfile.loads(data, lambda origin: build(origin, allow=allow))
    with_assets(decoded, assets(model))
    after = measure(decoded, task.example, written=len(data))
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
        tensors=tensor_rows(data),
        frontier=frontier,
        record=_record(model, task, bounds, chain(*done), seed, finetune_steps),
    )


def _run_steps(
    run: Run,
    bounds: Budget | None,
    recipe: Step | None,
    training: FineTune | None,
    before: Cost,
    progress: Progress,
) -> tuple[list[Step], tuple[FrontierPoint, ...]]:
    """The recipe, then the structure, then the bytes; returns the steps that were run and the frontier."""
    done: list[Step] = list(chain(recipe).steps) if recipe else []
    for step in done:
        run.step(step)
    if bounds is None:
        return done, ()
    cut = structure_within(run.model, run.task, bounds, before, run.cost)
    if cut is not run.model:
        run.model = cut
        run.note("Prune(Channels)")
        if training:
            run.step(training)
    if bounds.bytes is None:
        return done, ()
    limit = bounds.bytes.absolute(before.bytes)
    run.say("measuring what every tensor costs and loses")
    plan = plan_bytes(run.model, run.task, limit, written=run.written, training=training, progress=progress)
    for step in plan.steps:
        run.step(step)
    return [*done, *plan.steps], plan.frontier


def tensor_rows(data: bytes) -> tuple[TensorRow, ...]:
    """The tensors of a file, largest first."""
    rows = [
        TensorRow(entry.name, entry.shape, entry.bytes, entry.coding, entry.zeros)
        for entry in modelfile.summary(data).tensors
    ]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _original_cost(model: nn.Module, task: Task) -> Cost:
    """The network as its users have it: a plain safetensors file in its own precision."""
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    return measure(model, task.example, written=len(safetensors.torch.save(state)))


def _saved_nothing(before: Cost, after: Cost) -> bool:
    faster = (
        before.latency is not None
        and after.latency is not None
        and after.latency < before.latency - (before.latency_spread or 0.0)
    )
    return not (after.bytes < before.bytes or after.macs < before.macs or faster)


def _check(bounds: Budget, after: Cost, before: Cost) -> None:
    broken = bounds.exceeded(after, before)
    if broken:
        limits = bounds.absolute(before)
        name = broken[0]
        raise BudgetError(
            f"{name}={getattr(after, name):.6g}",
            expected=f"at most {limits[name]:.6g}",
            hint="a larger budget, or more bounds to trade against",
            closest=after,
        )


def _short(step: Step) -> str:
    """A step's name and fields for a table: long mappings are counted, not listed."""
    parts = []
    for field in dataclasses.fields(step):  # type: ignore[arg-type]
        value = getattr(step, field.name)
        if isinstance(value, Mapping):
            parts.append(f"{field.name}={len(value)} tensors")
        elif value != field.default:
            parts.append(f"{field.name}={value!r}")
    return f"{type(step).__name__}({', '.join(parts)})"


def _record(
    model: nn.Module, task: Task, bounds: Budget | None, recipe: Chain, seed: int, steps: int
) -> dict[str, Any]:
    """Configuration, versions and seed: what one needs to run this again."""
    limits = dataclasses.asdict(bounds) if bounds else {}
    return {
        "network": dataclasses.asdict(origin_of(model)),
        "task": task.name,
        "budget": {name: limit for name, limit in limits.items() if limit},
        "recipe": dump_recipe(recipe) if recipe.steps else "",
        "finetune_steps": steps,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "versions": {"plisse": version("plisse"), "torch": torch.__version__, "numpy": np.__version__},
    }
