"""Spend a bound in bytes by a table: a share for the weights, corrected until the written file just fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from plisse.compress.correct import BiasCorrection
from plisse.compress.fold import AbsorbStatistics
from plisse.compress.lowrank.factorize import Factorize
from plisse.compress.options import Option
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.compensate import LAYERS
from plisse.compress.quantize.rated import RateQuantize, rescale
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.sensitivity import RateTable
from plisse.compress.step import Step, chain
from plisse.core.modules import clone
from plisse.core.reparam import plain
from plisse.errors import BudgetError
from plisse.train.task import Task

TRIES = 8
COMPENSATIONS = 4
COMPENSATED = 0.95
"""Bytes before compensation over those after it, for a start."""

Written = Callable[[nn.Module], int]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Steps, the bytes of the file, and the network that they make, with biases corrected."""

    steps: tuple[Step, ...]
    bytes: float
    network: nn.Module


@dataclass
class Fitting:
    """Spends a budget: corrects the share of the weights until the written file just fits.

    rounding, others: of what multiplies, and of other tensors, such as embeddings, for which nothing can
    compensate. after: steps that move the bytes by a few percent and take long. planned: what the table said
    that the last choice takes, in bytes. last: the steps that finish the file, by default those of
    `finishing`.
    """

    model: nn.Module
    task: Task
    table: RateTable
    rounding: RateQuantize
    after: tuple[Step, ...]
    others: RateQuantize
    written: Written
    planned: float = 0.0
    last: Step | None = None

    def guess(self, bound: float) -> tuple[Step, ...]:
        """Steps for `bound` by the table alone."""
        return self._choice(max(bound * 0.97, self.table.floor * (1 + 1e-9)))[0]

    def nearest(self, target: float, bound: float) -> tuple[tuple[Step, ...], float]:
        """The choice whose file, rounded to nearest, takes at most `target` bytes, and its length."""
        floor = self.table.floor * (1 + 1e-9)
        low, high, share = floor, float("inf"), max(target * 0.97, floor)
        best: tuple[tuple[Step, ...], float] | None = None
        for _ in range(TRIES):
            steps, planned = self._choice(share)
            total = self._length(steps)
            if total <= target and (best is None or total > best[1]):
                best, self.planned = (steps, total), planned
            if 0.995 * target <= total <= target or share == floor:
                break
            low, high = (share, high) if total <= target else (low, share)
            share += target - total - 0.002 * target
            if not low < share < high:
                share = (low + high) / 2
        return best or self._smallest(target, bound)

    def _smallest(self, target: float, bound: float) -> tuple[tuple[Step, ...], float]:
        """The coarsest choice, if that fits."""
        steps, self.planned = self._choice(self.table.floor * (1 + 1e-9))
        total = self._length(steps)
        if total > target:
            raise BudgetError(
                f"a budget of {bound:.0f} bytes",
                expected=f"at least {total:.0f} bytes, the smallest file of this structure",
                hint=f"--budget bytes={total * 1.1:.0f}, or add macs=0.5x to cut channels as well",
                closest=total,
            )
        return steps, total

    def within(self, bound: float) -> Fitted:
        """Steps, those after rounding included, whose file takes at most `bound` bytes."""
        if not self.after:
            steps, total = self.nearest(bound, bound)
            return Fitted(steps, total, self._network(steps))
        target, best = COMPENSATED * bound, None
        for _ in range(COMPENSATIONS):
            steps, before = self.nearest(target, bound)
            network = self._network((*steps, *self.after))
            total = self.written(self._finish(network))
            if total <= bound and (best is None or total > best.bytes):
                best = Fitted((*steps, *self.after), total, network)
            if 0.985 * bound <= total <= bound or (best and total > bound):
                break
            target = before * bound / total * (0.997 if total > bound else 0.999)
        if best is None:
            raise BudgetError(f"a budget of {bound:.0f} bytes", expected=f"at least about {total:.0f}")
        return best

    def _choice(self, share: float) -> tuple[tuple[Step, ...], float]:
        """Steps for the table's choice within `share` bytes, and what it takes by the table."""
        choice = self.table.choose(share)
        planned = sum(self.table.bytes_of(name, option) for name, option in choice.items())
        return structured(plain(self.model), choice, self.rounding, self.others), planned

    def _network(self, steps: Iterable[Step]) -> nn.Module:
        return chain(*steps, BiasCorrection())(self.model, self.task)

    def _length(self, steps: Iterable[Step]) -> int:
        return self.written(self._finish(chain(*steps)(self.model, self.task)))

    def _finish(self, network: nn.Module) -> nn.Module:
        return (self.last or finishing(self.model))(network, self.task)


def structured(
    model: nn.Module, choice: Mapping[str, Option], rounding: RateQuantize, others: RateQuantize
) -> tuple[Step, ...]:
    """Factors and zeros first, then the grid of each tensor that is left: what a choice means."""
    ranks = {_layer(name): option.rank for name, option in choice.items() if option.rank is not None}
    steps: list[Step] = [Factorize(ranks, whitened=True)] if ranks else []
    for sparsity in sorted({option.sparsity for option in choice.values()} - {0.0}):
        kept = [_tensors(name, each) for name, each in choice.items() if each.sparsity != sparsity]
        steps.append(Prune(sparsity, scope="layer", ignore=tuple(itertools.chain(*kept))))
    multiplied: dict[str, float] = {}
    looked_up: dict[str, float] = {}
    for name, option in choice.items():
        grids = zip(_tensors(name, option), option.steps, strict=True)
        inside = isinstance(model.get_submodule(_layer(name)), LAYERS)
        (multiplied if inside else looked_up).update(grids)
    pairs = ((rounding, multiplied), (others, looked_up))
    return (*steps, *(replace(kind, steps=grids) for kind, grids in pairs if grids))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _tensors(name: str, option: Option) -> tuple[str, ...]:
    """The weights that stand for `name`."""
    factors = (f"{_layer(name)}.0.weight", f"{_layer(name)}.1.weight")
    return (name,) if option.rank is None else factors


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
            least = written(rescaled(network, low))
            raise BudgetError(
                f"a budget of {bound:.0f} bytes",
                expected=f"at least {least}, which steps 4 times as coarse take",
                closest=least,
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


def finishing(model: nn.Module, keep_statistics: bool = False) -> Step:
    """The steps that bring what is not a weight matrix to few bytes, as far as `model` has it.

    keep_statistics: of training data behind batch norms, so that the file can be compressed without data.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return chain(AbsorbStatistics(keep_statistics), CompactSmall())
    return CompactSmall()
