"""Bounds on time, MACs and parameters: cut channels, or make layers of low rank, whichever diverges less.

Nothing is trained here. Channels are cut by bisection over the share that stays. Ranks are chosen per layer
by `Allocation`: the loss of an option is the share of the layer's output energy that it drops (of the inputs
that calibration shows), its cost the seconds that the layer takes in that form, measured in turns, or its
numbers where time is not bounded; the whole network is then measured, and what layers get is bisected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.lowrank.factorize import factorized
from plisse.compress.lowrank.problem import Problem, Ranks, kept, pose
from plisse.compress.lowrank.schemes import Spatial
from plisse.compress.prune.channels import channels_for
from plisse.compress.sensitivity import divergence, held_apart
from plisse.core import modules
from plisse.core.batch import Inputs, call
from plisse.core.hooks import before_calls
from plisse.cost.allocate import Choices, solve
from plisse.cost.budget import Budget, Cost
from plisse.cost.measure import interleaved
from plisse.errors import BudgetError, GraphError, PlisseError
from plisse.train.task import Task

LATENCY_MARGIN = 0.88
"""An eighth of the time is kept in reserve, since it is measured again in the end."""

ROUND_TO = 4
RANK_SHARES = (0.15, 0.25, 0.35, 0.5, 0.7)
"""Candidate ranks, in shares of the largest one at which factors hold fewer numbers than the weight."""

PROBES, REPEATS = 7, 9
CostOf = Callable[[nn.Module], Cost]
Admits = Callable[[nn.Module], bool]


def structure_within(
    model: nn.Module, task: Task, budget: Budget, reference: Cost, cost_of: CostOf
) -> tuple[str, nn.Module] | None:
    """What was done, and the network within the bounds on params, MACs and latency; None without any bound.

    Raises BudgetError where neither fewer channels nor lower ranks are admitted.
    """
    limits = replace(budget, bytes=None).absolute(reference)
    if not limits:
        return None
    if "latency" in limits:
        limits["latency"] *= LATENCY_MARGIN

    def admits(network: nn.Module) -> bool:
        cost = cost_of(network)
        return all((getattr(cost, name) or 0.0) <= limit for name, limit in limits.items())

    found: list[tuple[str, nn.Module]] = []
    failed: PlisseError | None = None
    try:
        cut = channels_for(model, task.example, admits, cost=cost_of, round_to=ROUND_TO)
        found.append(("Prune(pattern=Channels())", cut))
    except (BudgetError, GraphError) as error:
        failed = error
    thin = ranks_within(model, task, admits, timed="latency" in limits)
    if thin is not None:
        found.append(thin)
    if not found:
        assert failed is not None
        raise failed if isinstance(failed, GraphError) else _out_of_reach(limits, failed)
    judges = held_apart(task)
    if len(found) == 1 or not judges:
        return found[0]
    return min(found, key=lambda each: divergence(each[1], model, task, judges))


def _out_of_reach(limits: Mapping[str, float], failed: PlisseError) -> BudgetError:
    """The bounds, and what the narrowest network takes."""
    closest = getattr(failed, "closest", None)
    bounds = ", ".join(f"{name}={limit:.4g}" for name, limit in limits.items())
    takes = ", ".join(f"{name}={getattr(closest, name) or 0:.4g}" for name in limits)
    return BudgetError(
        f"{bounds}, which not even the narrowest network keeps",
        expected=f"at least {takes}",
        hint="a wider bound; macs and latency are of one pass of the task's example batch",
        closest=closest,
    )


def ranks_within(
    model: nn.Module, task: Task, admits: Admits, timed: bool = False
) -> tuple[str, nn.Module] | None:
    """What was done, and the factorized network that drops least of what `admits`; None where there is none.

    timed: layers cost their seconds, else their numbers.
    """
    try:
        problem = pose(model, task, scheme=Spatial(), whitened=len(task.calibration) > 0)
    except GraphError:
        return None
    ranks, choices = rank_choices(problem, task.example, timed)
    low, high = choices.cheapest, float(sum(max(cost) for cost in choices.cost))
    best: tuple[str, nn.Module] | None = None
    for probe in range(PROBES):
        given = low if probe == 0 else (low + high) / 2
        picks = solve(choices, given * (1 + 1e-9))
        chosen: Ranks = {}
        for name, options, pick in zip(choices.units, ranks, picks, strict=True):
            rank = options[pick]
            if rank is not None:
                chosen[name] = rank
        network = factorized(problem.model, chosen, problem.spectra, problem.scheme)
        if admits(network):
            best, low = (f"Factorize({len(chosen)} ranks, scheme=Spatial())", network), given
        elif probe == 0:
            return None
        else:
            high = given
    return best


def rank_choices(problem: Problem, example: Inputs, timed: bool) -> tuple[list[list[int | None]], Choices]:
    """The options of every layer (None is the whole one), and the energy dropped and the cost of each."""
    inputs = _inputs(problem.model, list(problem.spectra), example) if timed else {}
    ranks: list[list[int | None]] = []
    losses, costs = [], []
    for name, found in problem.spectra.items():
        options: list[int | None] = [None]
        options += sorted({max(1, round(share * found.break_even)) for share in RANK_SHARES})
        ranks.append(options)
        losses.append([0.0 if rank is None else found.dropped(rank) for rank in options])
        numbers = [float(kept(found, rank)) for rank in options]
        costs.append(_seconds(problem, name, options, inputs[name]) if timed else numbers)
    return ranks, Choices(tuple(problem.spectra), tuple(losses), tuple(costs))


def _seconds(problem: Problem, name: str, ranks: list[int | None], value: Tensor) -> list[float]:
    """Medians of one layer in each of its forms, measured in turns."""
    layer = problem.model.get_submodule(name)
    forms: dict[str, Any] = {}
    for rank in ranks:
        found = problem.spectra[name].factors(rank) if rank is not None else None
        forms[str(rank)] = problem.scheme.pair(layer, *(p.float() for p in found)) if found else layer
    times = interleaved(forms, value, repeats=REPEATS, warmup=1)
    return [times[str(rank)].median for rank in ranks]


def _inputs(model: nn.Module, names: list[str], example: Inputs) -> dict[str, Tensor]:
    """What enters each layer on the example batch."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, _: Any, inputs: tuple[Any, ...]) -> None:
        seen[name] = inputs[0].detach()

    layers = {name: model.get_submodule(name) for name in names}
    with before_calls(layers, keep), modules.evaluating(model), torch.no_grad():
        call(model, example)
    return seen
