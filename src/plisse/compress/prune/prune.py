"""The pruning step."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch

from torch import Tensor, nn

from plisse.compress.notes import with_notes
from plisse.compress.prune.channels import prune_channels
from plisse.compress.prune.importance import Importance, weight_scores
from plisse.compress.prune.mask import Masked, apply_masks, nm_masks, unstructured_masks
from plisse.compress.prune.patterns import (
    NM,
    Channels,
    Gradual,
    OneShot,
    Pattern,
    Schedule,
    Scope,
    Unstructured,
)
from plisse.core import modules
from plisse.core.reparam import Reparametrized, plain
from plisse.errors import InputError
from plisse.train.loop import State, fit
from plisse.train.task import Task


@dataclass(frozen=True)
class Prune:
    """Cut the least important weights or channels.

    sparsity: share that goes, 0 <= sparsity < 1: of single weights (`Unstructured`) or of channels
    (`Channels`); `NM` has its own, 1 - n/m. scope: rank all weights together, or each layer for itself.
    importance: "magnitude" |w|, or "taylor" |w dL/dw|. schedule: `OneShot()`, or `Gradual(...)` while
    training; channels go in one shot. ignore: patterns of layer or tensor names that stay ("fc", "layer1.*").

    Masks come back as a `Reparametrized` of `Masked` weights; channels are physically removed from a baked
    copy. Whatever was left alone is said by `plisse.compress.notes.notes_of(result)`.
    """

    sparsity: float = 0.5
    pattern: Pattern = field(default_factory=Unstructured)
    scope: Scope = "global"
    importance: Importance = "magnitude"
    schedule: Schedule = field(default_factory=OneShot)
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity={self.sparsity}", expected="a share from 0 up to, not including, 1")
        if self.scope not in ("global", "layer"):
            raise InputError(f"scope {self.scope!r}", expected="global or layer")
        if isinstance(self.pattern, Channels) and isinstance(self.schedule, Gradual):
            raise InputError(
                "channels pruned gradually",
                expected="OneShot() for channels",
                hint="several Prune steps with FineTune between them",
            )

    @property
    def final_sparsity(self) -> float:
        """Share of the weights or channels that goes."""
        if isinstance(self.pattern, NM):
            return 1 - self.pattern.n / self.pattern.m
        return self.sparsity

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        if isinstance(self.pattern, Channels):
            return self._without_channels(model, task, self.pattern)
        if isinstance(self.schedule, Gradual):
            return self._while_training(model, task, self.schedule)
        masks, notes = plan_masks(self, model, self.final_sparsity, task)
        return with_notes(apply_masks(model, masks), notes)

    def _while_training(self, model: nn.Module, task: Task, schedule: Gradual) -> nn.Module:
        masks, notes = plan_masks(self, model, 0.0, task)
        pruned = apply_masks(model, masks)
        fit(
            pruned,
            task.objective,
            task.train,
            steps=schedule.steps,
            optimizer=schedule.optimizer,
            hooks=(Tighten(self, schedule, task),),
        )
        return with_notes(pruned, notes)

    def _without_channels(self, model: nn.Module, task: Task, pattern: Channels) -> nn.Module:
        return prune_channels(
            model,
            task.example,
            keep=1 - self.sparsity,
            round_to=pattern.round_to,
            scope=self.scope,
            importance=self.importance,
            ignore=self.ignore,
            task=task,
        )


def prunable(model: nn.Module, ignore: tuple[str, ...] = ()) -> list[str]:
    """The weight matrices of `model` whose layer or tensor name matches no pattern in `ignore`."""
    names = modules.weight_names(plain(model))
    return [
        name
        for name in names
        if not any(fnmatch(name, pattern) or fnmatch(name.rpartition(".")[0], pattern) for pattern in ignore)
    ]


@dataclass(frozen=True)
class Tighten:
    """A hook of `fit`: every so many steps, choose the masks anew at the sparsity that is due.

    A weight that is masked counts as zero in the next choice, so masks only ever lose weights.
    """

    step: Prune
    schedule: Gradual
    task: Task

    def __call__(self, state: State) -> None:
        done = state.step + 1
        if not self.schedule.due(done):
            return
        sparsity = self.schedule.sparsity(done, self.step.final_sparsity)
        masks, _ = plan_masks(self.step, state.model, sparsity, self.task)
        assert isinstance(state.model, Reparametrized)
        for name, mask in masks.items():
            masked = state.model.reparams[name]
            assert isinstance(masked, Masked)
            masked.mask &= mask.to(masked.mask.device)


def plan_masks(
    step: Prune, model: nn.Module, sparsity: float, task: Task | None
) -> tuple[dict[str, Tensor], list[str]]:
    """The masks of `step` at `sparsity`, and a remark for every tensor that stays dense."""
    names = prunable(model, step.ignore)
    if not names:
        raise InputError(f"ignore={step.ignore}", expected="at least one weight that is not ignored")
    scores = weight_scores(step.importance, model, names, task)
    if isinstance(model, Reparametrized):
        for name, reparam in model.reparams.items():
            if name in scores and isinstance(reparam, Masked):
                scores[name] = scores[name].masked_fill(~reparam.mask, -1.0)  # masked before: first to go
    if isinstance(step.pattern, NM):
        m = step.pattern.m
        return nm_masks(plain(model), scores, m - round(sparsity * m), m)
    return unstructured_masks(scores, sparsity, step.scope), []
