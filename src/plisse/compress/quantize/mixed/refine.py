"""Widths in each other's company: measure what a step up or down does to the network as it is chosen.

A table of single losses does not see how rounding errors of several weights meet; at few bits that is most of
the loss. A sweep measures every weight's next narrower and next wider candidate with all others as chosen,
and solves the same allocation over these differences; it is kept where the whole network gets better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from plisse.compress.quantize.mixed.candidates import FLOAT
from plisse.compress.quantize.mixed.sensitivity import spread_batches
from plisse.compress.quantize.mixed.table import CostOf, Picks, Table, Widths, total
from plisse.core import modules
from plisse.core.batch import BatchList
from plisse.cost.allocate import Choices, Solver, lower_hull, solve
from plisse.train.task import Task, mean_divergence, outputs_on

Lost = Callable[[Picks], float]


def company(model: nn.Module, task: Task, batches: int) -> Lost:
    """A function from a choice to the divergence that it causes as a whole, on `batches` of the calibration
    set; inputs are not rounded. model: plain; stays as it was."""
    probe = modules.clone(model).eval()
    few: BatchList = spread_batches(task.calibration, batches)
    reference = outputs_on(probe, few)
    weights = {name: modules.tensor(probe, name).detach().clone() for name in modules.weight_names(probe)}
    now: dict[str, Widths] = {}

    def lost(picks: Picks) -> float:
        for name, pick in picks.items():
            if now.get(name) is not pick:
                value = weights[name] if pick.bits == FLOAT else pick.candidate.values()
                modules.set_tensor(probe, name, value)
                now[name] = pick
        return mean_divergence(task, reference, outputs_on(probe, few))

    return lost


def refined(
    table: Table, picks: Picks, budget: float, cost: CostOf, lost: Lost, sweeps: int, solver: Solver
) -> dict[str, Widths]:
    """The choice after at most `sweeps` sweeps, from the best of `picks` and the uniform widths that fit.

    lost: of the weights together; what inputs lose is taken from the table.
    """

    def loss(each: Picks) -> float:
        return lost(each) + table.predicted_inputs(each)

    starts = [dict(picks), *(each for each in uniform(table) if total(each, cost) <= budget)]
    least, best = min(((loss(each), i) for i, each in enumerate(starts)), key=lambda pair: pair)
    chosen = starts[best]
    for _ in range(sweeps):
        near = _neighbours(table, chosen, cost)
        changes = {
            name: [0.0 if o is chosen[name] else loss({**chosen, name: o}) - least for o in options]
            for name, options in near.items()
        }
        found = _solved(near, changes, budget, cost, solver)
        reached = loss(found)
        if reached >= least:
            break
        chosen, least = found, reached
    return chosen


def uniform(table: Table) -> list[dict[str, Widths]]:
    """Every choice with one width, one way of rounding and one width of inputs for all weights."""
    keys = {_key(option) for options in table.options.values() for option in options}
    found = []
    for key in keys:
        same = {
            name: next((o for o in options if _key(o) == key), None)
            for name, options in table.options.items()
        }
        if all(option is not None for option in same.values()):
            found.append({name: option for name, option in same.items() if option is not None})
    return found


def _neighbours(table: Table, chosen: Picks, cost: CostOf) -> dict[str, list[Widths]]:
    """The choice for every weight, and the next cheaper and next dearer ones worth having."""
    near = {}
    for name, options in table.options.items():
        costs = [cost(name, option) for option in options]
        ladder = [options[i] for i in lower_hull(table.loss[name], costs)]
        if chosen[name] not in ladder:
            ladder = sorted([*ladder, chosen[name]], key=lambda option: cost(name, option))
        at = ladder.index(chosen[name])
        near[name] = ladder[max(0, at - 1) : at + 2]
    return near


def _solved(
    near: Mapping[str, list[Widths]],
    changes: Mapping[str, list[float]],
    budget: float,
    cost: CostOf,
    solver: Solver,
) -> dict[str, Widths]:
    names = tuple(near)
    spent = tuple([cost(name, option) for option in near[name]] for name in names)
    picks = solve(Choices(names, tuple(changes[name] for name in names), spent), budget, solver)
    return {name: near[name][pick] for name, pick in zip(names, picks, strict=True)}


def _key(option: Widths) -> tuple[object, ...]:
    return option.bits, option.candidate.how, option.inputs
