"""Training a subspace: an objective and a hook under the one `fit`, then the tables that points need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.adapt.reparams import Line
from plisse.adapt.samplers import Decay, Sandwich, Schedule
from plisse.adapt.sparsity import measure_thresholds
from plisse.adapt.statistics import measure_statistics
from plisse.adapt.subspace import Subspace
from plisse.core.batch import Batch, main_output
from plisse.errors import InputError
from plisse.train.history import History
from plisse.train.loop import fit
from plisse.train.objectives import with_penalty
from plisse.train.run import State
from plisse.train.task import Divergence, Loss, Objective, Task

SCHEDULES: dict[str, Schedule] = {
    "width": Schedule(Sandwich(4)),
    "sparsity": Schedule(Sandwich(3, listed=True), Decay(0.4)),
    "bits": Schedule(Sandwich(3)),
}
"""What suits an axis where nothing else is asked for; why, for sparsities, is in docs/elastic.md."""


@dataclass(frozen=True, eq=False)
class SubspaceObjective:
    """The mean, over the points of a step, of `objective` at each.

    distill: where above 0 and the first point is the largest, the others learn this share of their loss from
    its outputs, and the rest from the objective (in-place distillation, Yu and Huang 2019, who take 1).
    divergence: (reference outputs, outputs) to a scalar, such as that of a `Task`.
    """

    objective: Objective
    divergence: Divergence
    schedule: Schedule = field(default_factory=Schedule)
    distill: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        if not isinstance(model, Subspace):
            raise InputError(f"a {type(model).__name__}", expected="a Subspace")
        points = self.schedule.points(model.space, float(model.progress))
        losses: list[Tensor] = []
        teacher: Tensor | None = None
        for point in points:
            model.select(point)
            loss, outputs = self._at(model, batch, teacher)
            losses.append(loss)
            if self.distill > 0 and point == model.space.largest:
                teacher = outputs.detach()
        names = ["largest" if point == model.space.largest else "cheaper" for point in points]
        parts = {name: loss.detach() for name, loss in zip(names, losses, strict=True)}
        return Loss(torch.stack(losses).mean(), parts)

    def _at(self, model: Subspace, batch: Batch, teacher: Tensor | None) -> tuple[Tensor, Tensor]:
        with _outputs_of(model) as outputs:
            total = self.objective(model, batch).total
        if teacher is not None:
            soft = self.divergence(teacher, outputs[-1])
            total = self.distill * soft + (1 - self.distill) * total
        return total, outputs[-1]


@dataclass(frozen=True)
class EndpointCosine:
    """(sum <w0, w1>)^2 / (sum |w0|^2 sum |w1|^2) over all lines of a subspace; zero for a point subspace.

    Keeps the endpoints apart. Source: Wortsman et al. 2021; Nunez et al. 2021.
    """

    def __call__(self, model: nn.Module) -> Tensor:
        lines = [module for module in model.modules() if isinstance(module, Line)]
        if not lines:
            return next(model.parameters()).new_zeros(())
        ends = [(line.start().float(), line.end().float()) for line in lines]
        inner = torch.stack([(one * other).sum() for one, other in ends]).sum()
        norms = [torch.stack([end.square().sum() for end in side]).sum() for side in zip(*ends, strict=True)]
        return inner.square() / (norms[0] * norms[1]).clamp_min(1e-12)


def note_progress(state: State) -> None:
    """Hook of `fit`: tells the subspace how far training is."""
    if isinstance(state.model, Subspace):
        state.model.progress.fill_((state.step + 1) / state.steps)


def train_subspace(
    subspace: Subspace,
    task: Task,
    *,
    steps: int,
    schedule: Schedule | None = None,
    distill: float = 0.0,
    cosine: float = 1.0,
    statistics: int = 20,
    **settings: Any,
) -> History:
    """Train all points of `subspace` in place on `task.train`, then measure what they need to be served.

    schedule: the points of each step; None for that of the axis in SCHEDULES. distill: see
    `SubspaceObjective`. cosine: weight of `EndpointCosine`, which is zero for point subspaces. statistics:
    batches for the batch-norm statistics of each listed point. settings: of `fit`, such as optimizer,
    precision, seed, checkpoint.
    """
    if not 0 <= distill <= 1:
        raise InputError(f"distill={distill}", expected="0 to 1")
    schedule = schedule or SCHEDULES[subspace.space.largest.axis]
    objective: Objective = SubspaceObjective(task.objective, task.divergence, schedule, distill)
    if cosine and any(isinstance(module, Line) for module in subspace.modules()):
        objective = with_penalty(objective, EndpointCosine(), cosine)
    hooks = (note_progress, *settings.pop("hooks", ()))
    subspace.train()
    history = fit(subspace, objective, task.train, steps=steps, hooks=hooks, **settings)
    finish(subspace, task, statistics)
    return history


def finish(subspace: Subspace, task: Task, statistics: int = 20) -> None:
    """Measure, on inputs of `task.train`, the tables of a subspace whose weights are done, in place."""
    subspace.eval()
    measure_thresholds(subspace)
    measure_statistics(subspace, task.train, statistics)
    subspace.select(subspace.space.largest)


@contextmanager
def _outputs_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """The main output of every call of `model` for a while."""
    seen: list[Tensor] = []
    handle = model.register_forward_hook(lambda _, __, output: seen.append(main_output(output)))
    try:
        yield seen
    finally:
        handle.remove()
