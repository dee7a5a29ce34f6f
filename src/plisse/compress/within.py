"""Meet a budget: the structure first (channels), then bytes (one step size per tensor), then training.

Sizing never trains. Channels are cut by bisection on measured time or counted MACs; step sizes come from one
table of bytes and divergence per tensor (compress/sensitivity). With training, the network is fine-tuned once
at the chosen point, and the step sizes are scaled afterwards where the trained weights write more bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from plisse.compress.correct import BiasCorrection
from plisse.compress.finetune import FineTune
from plisse.compress.fold import AbsorbStatistics
from plisse.compress.prune.channels import channels_for
from plisse.compress.quantize.rated import RateQuantize, coded_bytes, rescale
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.result import FrontierPoint
from plisse.compress.sensitivity import Progress, RateTable, rate_table
from plisse.compress.step import Step, chain
from plisse.core.modules import clone
from plisse.cost.budget import Budget, Cost
from plisse.errors import BudgetError
from plisse.train.task import Task

DEAD_ZONE = 0.1
TRAINED_MARGIN = 0.985
LATENCY_MARGIN = 0.88
ROUND_TO = 4
TRIES = 8

Written = Callable[[nn.Module], int]
CostOf = Callable[[nn.Module], Cost]


@dataclass(frozen=True)
class Plan:
    """Steps to run in order, and the curve that the choice was made from."""

    steps: tuple[Step, ...]
    frontier: tuple[FrontierPoint, ...]


def structure_within(
    model: nn.Module, task: Task, budget: Budget, reference: Cost, cost_of: CostOf
) -> nn.Module | None:
    """The largest channel-pruned network within the bounds on params, MACs and latency; None without any.

    An eighth of the time is kept in reserve, since it is measured again in the end.
    Raises BudgetError where not even the narrowest network is admitted.
    """
    limits = replace(budget, bytes=None).absolute(reference)
    if not limits:
        return None
    if "latency" in limits:
        limits["latency"] *= LATENCY_MARGIN

    def admits(network: nn.Module) -> bool:
        cost = cost_of(network)
        return all((getattr(cost, name) or 0.0) <= limit for name, limit in limits.items())

    return channels_for(model, task.example, admits, cost=cost_of, round_to=ROUND_TO)


def plan_bytes(
    model: nn.Module,
    task: Task,
    bound: float,
    *,
    written: Written,
    training: FineTune | None = None,
    progress: Progress = lambda names: names,
) -> Plan:
    """The steps that bring the file of `model` to at most `bound` bytes at the least predicted divergence.

    Post-training, weights are trellis coded and biases corrected; with `training`, they get a scalar grid
    with a dead zone, which is what the straight-through gradient sees, and a little is kept in reserve.
    Raises BudgetError with the smallest file that the coarsest steps give.
    """
    table = rate_table(
        model,
        task,
        dead_zone=DEAD_ZONE if training else 0.0,
        progress=progress,
    )
    target = bound * TRAINED_MARGIN if training else bound
    quantize = _fill(model, task, table, target, bound, written, trained=training is not None)
    quantized = quantize(model, task)
    coded = coded_bytes(quantized)
    overhead = written(finishing(model)(quantized, task)) - coded
    repair = replace(training, hold=coded) if training else BiasCorrection()
    plan = chain(quantize, repair, finishing(model))
    return Plan(plan.steps, _frontier(table, overhead, bound))


def shrink_within(network: nn.Module, bound: float, written: Written) -> nn.Module:
    """Scale all step sizes of a quantized network up, as little as needed, until its file fits.

    Training moves weights, so that the same steps may write a few percent more bytes than planned.
    """
    if written(network) <= bound:
        return network
    low, high = 1.0, 1.0
    while written(rescaled(network, high)) > bound:
        low, high = high, high * 1.1
        if high > 4.0:
            raise BudgetError(
                f"a budget of {bound:.0f} bytes", expected="one that steps 4 times as coarse meet"
            )
    for _ in range(TRIES):
        middle = (low + high) / 2
        low, high = (low, middle) if written(rescaled(network, middle)) <= bound else (middle, high)
    return rescaled(network, high)


def rescaled(network: nn.Module, factor: float) -> nn.Module:
    """A copy of a quantized network with every entropy-coded step times `factor`."""
    copy = clone(network)
    rescale(copy, factor)
    return copy


def _fill(
    model: nn.Module,
    task: Task,
    table: RateTable,
    target: float,
    bound: float,
    written: Written,
    trained: bool,
) -> RateQuantize:
    """Spend the budget: correct the share of the weights until the written file just fits the target."""
    share, best, least = target * 0.97, None, float("inf")
    floor = float(table.bytes.min(axis=1).sum())
    for _ in range(TRIES):
        quantize = _quantize(table.choose(max(share, floor)), trained)
        total = written(finishing(model)(quantize(model, task), task))
        least = min(least, total)
        if total <= target and (best is None or total > best[0]):
            best = (total, quantize)
        if 0.995 * target <= total <= target or (share <= floor and total > target):
            break
        share += target - total - 0.002 * target
    if best is None:
        raise BudgetError(
            f"a budget of {bound:.0f} bytes",
            expected=f"at least {least:.0f} bytes, the smallest file of this structure",
            hint=f"--budget bytes={least * 1.1:.0f}, or add macs=0.5x to cut channels as well",
            closest=least,
        )
    return best[1]


def _quantize(steps: dict[str, float], trained: bool) -> RateQuantize:
    if trained:
        return RateQuantize(steps, rounding="nearest", dead_zone=DEAD_ZONE)
    return RateQuantize(steps, rounding="trellis")


def finishing(model: nn.Module) -> Step:
    """The steps that bring what is not a weight matrix to few bytes, as far as `model` has it."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return chain(AbsorbStatistics(), CompactSmall())
    return CompactSmall()


def _frontier(table: RateTable, overhead: float, bound: float) -> tuple[FrontierPoint, ...]:
    points = [FrontierPoint(size + overhead, loss) for size, loss in table.curve()]
    fitting = [i for i, point in enumerate(points) if point.bytes <= bound * 1.001]
    chosen = max(fitting, key=lambda i: points[i].bytes) if fitting else -1
    return tuple(replace(point, chosen=i == chosen) for i, point in enumerate(points))
