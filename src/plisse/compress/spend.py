"""What a budget asks for, step by step: structure first, then bytes, and training where it pays."""

from __future__ import annotations

import dataclasses

from torch import nn

from plisse.compress.finetune import FineTune
from plisse.compress.fitting import shrink_within
from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.result import FrontierPoint
from plisse.compress.run import Run
from plisse.compress.sensitivity import Progress, RateTable, divergence, held_apart, rate_table
from plisse.compress.step import Step, chain
from plisse.compress.structure import structure_within
from plisse.compress.within import plan_bytes
from plisse.core.batch import n_samples
from plisse.cost.budget import Budget, Cost
from plisse.errors import BudgetError, WeightsError
from plisse.train.task import Task

PROBES = 31
"""Timed passes while searching for a width."""

FINISHING = (AbsorbStatistics, CompactSmall)
"""Steps of a byte budget that may find nothing left to save."""

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
FOLDED_CLIP = 1.0

BATCHES, LEAST, WORK = 600, 50, 1e13
"""Of training, where nobody said how many: as many as take `WORK` multiply-adds forward, between these."""

WORTH = 0.01
"""Divergence from the original above which training is tried, where nobody said whether."""


Spent = tuple[list[Step], tuple[FrontierPoint, ...]]
"""Steps that were run, and the curve that the bytes were chosen from."""


@dataclasses.dataclass(frozen=True)
class Training:
    """step: the training, None for none. asked: by the user; otherwise it is tried where a network diverges
    by more than `WORTH` without it, and kept where it diverges less with it."""

    step: FineTune | None
    asked: bool = True

    def affordable(self, task: Task, before: Cost) -> Training:
        """With fewer batches where nobody said how many and a network of cost `before` computes much."""
        if self.step is None or self.asked:
            return self
        batch = before.macs / n_samples(task.example) * n_samples(task.train[0].inputs)
        steps = min(self.step.steps, max(LEAST, round(WORK / max(batch, 1.0))))
        return dataclasses.replace(self, step=dataclasses.replace(self.step, steps=steps))

    def steadied(self, model: nn.Module) -> Training:
        """With gradients of norm 1 at most where `model` has no norms, such as after folding: without either,
        ten batches destroy a ResNet-20 of 4 bits."""
        step = self.step
        if step is None or step.clip is not None or any(isinstance(each, NORMS) for each in model.modules()):
            return self
        return dataclasses.replace(self, step=dataclasses.replace(step, clip=FOLDED_CLIP))


@dataclasses.dataclass
class Spending:
    """A budget being spent. before: cost of the network as it came. keep: statistics, see `finishing`."""

    run: Run
    bounds: Budget
    training: Training
    before: Cost
    keep: bool
    progress: Progress

    def all(self, done: list[Step]) -> Spent:
        """The steps that were run, after those that are `done`, and the frontier of the bytes."""
        structure = self.structure()
        if self.bounds.bytes is None:
            return structure, ()
        limit = self.bounds.bytes.absolute(self.before.bytes)
        if done and self.run.written(self.run.model) <= limit:
            return [*structure, *self._kept_within(limit)], ()
        steps, frontier = self.bytes(limit)
        return [*structure, *steps], frontier

    def structure(self) -> list[Step]:
        """Cut channels or ranks where a bound asks for it, train, and fold batch norm where time counts."""
        run = self.run
        fold: list[Step] = [FoldBatchNorm(self.keep)] if self.bounds.latency else []

        def cost(network: nn.Module) -> Cost:
            return run.cost(chain(*fold)(network, run.task), repeats=PROBES)

        cut = structure_within(run.model, run.task, self.bounds, self.before, cost)
        if cut is None:
            return []
        label, run.model = cut
        run.note(label)
        steps = self._trained()
        for step in fold:
            run.step(step)
        return [*steps, *fold]

    def bytes(self, limit: float) -> Spent:
        """Spend `limit` bytes on the network as it is."""
        run, training = self.run, self.training
        run.say("measuring what every tensor costs and loses")
        table = rate_table(run.model, run.task, progress=self.progress)
        later = None if self.bounds.latency else training.step
        if training.asked or later is None:
            return self._planned(limit, table, later)
        return self._better_of_two(limit, table, later)

    def _planned(self, limit: float, table: RateTable, training: FineTune | None) -> Spent:
        run = self.run
        plan = plan_bytes(
            run.model,
            run.task,
            limit,
            table=table,
            written=run.written,
            training=training,
            keep_statistics=self.keep,
        )
        for step in plan.steps:
            run.step(step, asked=not isinstance(step, FINISHING))
        run.model = shrink_within(run.model, limit, run.written)
        return list(plan.steps), plan.frontier

    def _better_of_two(self, limit: float, table: RateTable, training: FineTune) -> Spent:
        """Without training; where that diverges too far, with it too."""
        start = self.run.state()
        found, lost = self._planned(limit, table, None), self.lost()
        if lost <= WORTH:
            return found
        untrained = self.run.state()
        self.run.back(start)
        self.run.say(f"training, as the outputs diverge by {lost:.3f}")
        try:
            trained = self._planned(limit, table, training)
            if self.lost() < lost:
                return trained
        except (BudgetError, WeightsError) as error:
            self.run.say(f"training leads nowhere ({error})")
        self.run.back(untrained)
        return found

    def _trained(self) -> list[Step]:
        """Train the network as it is; unless asked for, it stays as it was where that leads away."""
        if self.training.step is None:
            return []
        start, lost = self.run.state(), self.lost()
        if not self.training.asked and lost <= WORTH:
            return []
        try:
            self.run.step(self.training.step)
            if self.training.asked or self.lost() < lost:
                return [self.training.step]
        except WeightsError:
            if self.training.asked:
                raise
        self.run.back(start)
        return []

    def _kept_within(self, limit: float) -> list[Step]:
        """Where a recipe met the bound on bytes: train if asked to, and stay within it."""
        steps = self._trained() if self.training.asked and not self.bounds.latency else []
        self.run.model = shrink_within(self.run.model, limit, self.run.written)
        return steps

    def lost(self) -> float:
        """Divergence from the original on calibration batches that are looked at last."""
        return divergence(self.run.model, self.run.original, self.run.task, held_apart(self.run.task))
