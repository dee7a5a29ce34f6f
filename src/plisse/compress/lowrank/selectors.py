"""Selectors of ranks that look at singular values only: what the beam search is measured against.

Each gives ranks {layer: rank} whose layers together hold at most (1 - ratio) of their numbers; a layer that
is not named stays whole. ratio: the share of numbers of the decomposable layers that goes, 0 to below 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from plisse.compress.lowrank.problem import Problem, Ranks, kept
from plisse.errors import BudgetError, InputError

BISECTIONS = 60


class Selector(Protocol):
    """Contract: tests/contracts/test_selectors.py."""

    def ranks(self, problem: Problem, ratio: float) -> Ranks: ...


@dataclass(frozen=True)
class Uniform:
    """The same share of the break-even rank in every layer."""

    def ranks(self, problem: Problem, ratio: float) -> Ranks:
        def at(share: float) -> Ranks:
            return {name: max(1, round(share * each.break_even)) for name, each in problem.spectra.items()}

        return _reached(at, problem, ratio)


@dataclass(frozen=True)
class Energy:
    """Every layer keeps the least rank that holds the same share of its energy (squared singular values)."""

    def ranks(self, problem: Problem, ratio: float) -> Ranks:
        falling = {name: each.values.square().cumsum(0) for name, each in problem.spectra.items()}

        def at(share: float) -> Ranks:
            return {
                name: min(int((sums < share * sums[-1]).sum()) + 1, len(sums))
                for name, sums in falling.items()
            }

        return _reached(at, problem, ratio)


@dataclass(frozen=True)
class EnergyPerParameter:
    """Singular values of all layers in one list by sigma^2 / (||W||^2 (a + b)), energy share per number that
    it costs; the least go first."""

    def ranks(self, problem: Problem, ratio: float) -> Ranks:
        worth = {
            name: each.values.square() / each.values.square().sum() / sum(each.sides)
            for name, each in problem.spectra.items()
        }
        return _reached(lambda least: _above(worth, 10**-least), problem, ratio, 0.0, 20.0)


@dataclass(frozen=True)
class Learning:
    """The C step of learning-compression: r minimises cost(r) + mu ||W - W_r||^2 in each layer (Idelbayev and
    Carreira-Perpinan 2020, equation 5), one mu for all, energies relative to each layer's own."""

    def ranks(self, problem: Problem, ratio: float) -> Ranks:
        tails = {}
        for name, each in problem.spectra.items():
            energy = each.values.square()
            tail = energy.flip(0).cumsum(0).flip(0)
            tails[name] = torch.cat([tail, tail.new_zeros(1)]) / energy.sum()

        def at(log_mu: float) -> Ranks:
            found = {}
            for name, each in problem.spectra.items():
                choices = range(1, len(each.values) + 1)
                loss = [kept(each, r) + 10**log_mu * float(tails[name][r]) for r in choices]
                found[name] = 1 + loss.index(min(loss))
            return found

        return _reached(at, problem, ratio, 0.0, 12.0)


@dataclass(frozen=True)
class MinMaxError:
    """The same relative spectral error sigma_(r+1) / sigma_1 in every layer, so that the largest is least
    (as ALDS, Liebenwein et al. 2021, without its splitting of layers into groups)."""

    def ranks(self, problem: Problem, ratio: float) -> Ranks:
        relative = {name: each.values / each.values[0] for name, each in problem.spectra.items()}
        return _reached(lambda least: _above(relative, 10**-least), problem, ratio, 0.0, 12.0)


def _above(worth: Mapping[str, torch.Tensor], least: float) -> Ranks:
    return {name: max(1, int((values > least).sum())) for name, values in worth.items()}


def _reached(
    at: Callable[[float], Ranks], problem: Problem, ratio: float, low: float = 0.0, high: float = 1.0
) -> Ranks:
    """The ranks at the largest knob (more knob, more rank) that still removes `ratio`, whole layers left out.

    Raises BudgetError where not even rank 1 everywhere removes as much.
    """
    check_ratio(problem, ratio)
    if problem.removed(at(high)) >= ratio:
        low = high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if problem.removed(at(middle)) >= ratio:
            low = middle
        else:
            high = middle
    found = at(low)
    if problem.removed(found) < ratio:
        found = dict.fromkeys(problem.spectra, 1)
    return {name: rank for name, rank in found.items() if rank <= problem.spectra[name].break_even}


def check_ratio(problem: Problem, ratio: float) -> None:
    """Raise InputError for a ratio out of range, BudgetError where not even rank 1 removes as much."""
    if not 0 <= ratio < 1:
        raise InputError(f"ratio {ratio}", expected="the share that goes, 0 to below 1", hint="ratio=0.5")
    most = problem.removed(dict.fromkeys(problem.spectra, 1))
    if most < ratio:
        raise BudgetError(
            f"{ratio:.0%} of the numbers to remove", expected=f"at most {most:.1%}, at rank 1", closest=most
        )
