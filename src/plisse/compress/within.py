"""Meet a budget in bytes: an option for every weight (compress/options), then training.

Sizing never trains. Options come from one table of bytes and divergence per tensor (compress/sensitivity).
With training, the network is fine-tuned once at the chosen point, and the step sizes are scaled afterwards
where the trained weights write more bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from plisse.compress.correct import BiasCorrection
from plisse.compress.finetune import FineTune
from plisse.compress.fitting import Fitting, Written, finishing
from plisse.compress.quantize.compensate import Compensate
from plisse.compress.quantize.rated import RateQuantize, coded_bytes
from plisse.compress.result import FrontierPoint
from plisse.compress.sensitivity import RateTable, divergence, held_apart
from plisse.compress.step import Step, chain
from plisse.errors import BudgetError
from plisse.train.task import Task

TRAINED_MARGIN = 0.985
DEAD_ZONE = 0.1
PROMISE = 0.95
"""Share of the predicted divergence below which factors and zeros are tried."""


@dataclass(frozen=True)
class Plan:
    """Steps to run in order, and the curve that the choice was made from."""

    steps: tuple[Step, ...]
    frontier: tuple[FrontierPoint, ...]


def plan_bytes(
    model: nn.Module,
    task: Task,
    bound: float,
    *,
    table: RateTable,
    written: Written,
    training: FineTune | None = None,
    keep_statistics: bool = False,
) -> Plan:
    """The steps that bring the file of `model` to at most `bound` bytes at the least predicted divergence.

    Each weight is whole, factorized or sparse, as the table says; columns are rounded one by one and
    compensate for each other. Then biases are corrected or, with `training`, the network is trained through
    its rounding; a little is kept in reserve for that. table: of `model`. keep_statistics: see `finishing`.
    Raises BudgetError with the smallest file that the coarsest steps give.
    """
    target = bound * TRAINED_MARGIN if training else bound
    last = finishing(model, keep_statistics)
    ways = _fittings(model, task, table, written, training, target, last)
    found, frontier = _least(model, task, target, ways)
    repair: Step = BiasCorrection()
    if training:
        repair = replace(training, hold=coded_bytes(chain(*found)(model, task)))
    return Plan(chain(*found, repair, last).steps, frontier)


def _fittings(
    model: nn.Module,
    task: Task,
    table: RateTable,
    written: Written,
    training: FineTune | None,
    bound: float,
    last: Step,
) -> list[Fitting]:
    """Ways to spend a budget: whole weights without compensation and with it; factors too, zeros too, where
    the table promises a gain."""
    whole = table.only(lambda option: option.rank is None and not option.sparsity)
    dense = table.only(lambda option: not option.sparsity)
    scalar, alone = RateQuantize({}), RateQuantize({}, rounding="trellis")
    if training:
        alone = RateQuantize({}, dead_zone=DEAD_ZONE)
    promising = [each for each in (dense, table) if each.least(bound) < PROMISE * whole.least(bound)]
    ways = [(each, scalar, (Compensate(),)) for each in (whole, *promising)]
    every = (*ways, (whole, alone, ()))
    return [Fitting(model, task, *way, alone, written, last=last) for way in every]


def _least(
    model: nn.Module, task: Task, bound: float, fittings: Iterable[Fitting]
) -> tuple[tuple[Step, ...], tuple[FrontierPoint, ...]]:
    """The steps of the fitting whose rounded network diverges least: what compensation repairs differs
    between whole, factorized and sparse weights, which a table does not know.

    Raises BudgetError where none fits.
    """
    found: dict[float, tuple[tuple[Step, ...], tuple[FrontierPoint, ...]]] = {}
    tried: set[tuple[object, ...]] = set()
    judges, failed = held_apart(task), BudgetError(f"a budget of {bound:.0f} bytes")
    for fitting in fittings:
        try:
            kinds = (*map(type, fitting.guess(bound)), *fitting.after)
            if kinds in tried:
                continue
            tried.add(kinds)
            fitted = fitting.within(bound)
        except BudgetError as error:
            failed = error
            continue
        loss = divergence(fitted.network, model, task, judges)
        found[loss] = fitted.steps, _frontier(fitting.table, fitted.bytes - fitting.planned, bound)
    if not found:
        raise failed
    return found[min(found)]


def _frontier(table: RateTable, overhead: float, bound: float) -> tuple[FrontierPoint, ...]:
    points = [FrontierPoint(size + overhead, loss) for size, loss in table.curve()]
    fitting = [i for i, point in enumerate(points) if point.bytes <= bound * 1.001]
    chosen = max(fitting, key=lambda i: points[i].bytes) if fitting else -1
    return tuple(replace(point, chosen=i == chosen) for i, point in enumerate(points))
