"""The table that a budget is spent by: for every weight, what each pair of widths loses and costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plisse.compress.quantize.mixed.candidates import Candidate, Candidates
from plisse.cost.allocate import Choices, Solver, solve

InputLosses = Mapping[str, Mapping[int, float]]
"""Layer name and width of its input to loss."""


@dataclass(frozen=True)
class Widths:
    """What is chosen for one weight: the candidate that it becomes, and the width of its layer's input (None
    where inputs are not quantized)."""

    candidate: Candidate
    inputs: int | None

    @property
    def bits(self) -> int:
        return self.candidate.bits


Picks = Mapping[str, Widths]
CostOf = Callable[[str, Widths], float]


@dataclass(frozen=True, eq=False)
class Table:
    """options: the pairs of widths of every weight. loss: of every option, in the task's divergence.
    input_loss: the part of it that the layer's input has."""

    options: Mapping[str, tuple[Widths, ...]]
    loss: Mapping[str, tuple[float, ...]]
    input_loss: Mapping[str, tuple[float, ...]]

    def choose(self, budget: float, cost: CostOf, solver: Solver = "dynamic") -> dict[str, Widths]:
        """The option of every weight with the least summed loss whose summed cost is within `budget`.

        Raises BudgetError where the cheapest options do not fit.
        """
        names = tuple(self.options)
        choices = Choices(
            names,
            tuple(self.loss[name] for name in names),
            tuple([cost(name, option) for option in self.options[name]] for name in names),
        )
        return {
            name: self.options[name][pick]
            for name, pick in zip(names, solve(choices, budget, solver), strict=True)
        }

    def cheapest(self, cost: CostOf) -> dict[str, Widths]:
        """The cheapest option of every weight."""
        return {name: min(row, key=lambda o, n=name: cost(n, o)) for name, row in self.options.items()}  # type: ignore[misc]

    def predicted(self, picks: Picks) -> float:
        """The summed loss of a choice."""
        return sum(self.loss[name][self.options[name].index(pick)] for name, pick in picks.items())

    def predicted_inputs(self, picks: Picks) -> float:
        """The part of it that inputs have."""
        return sum(self.input_loss[name][self.options[name].index(pick)] for name, pick in picks.items())


def make_table(
    candidates: Candidates,
    losses: Mapping[str, list[float]],
    inputs: Callable[[str], tuple[int | None, ...]],
    input_losses: InputLosses,
) -> Table:
    """Every width of a weight with every width of its layer's input; their losses are added.

    inputs: weight name to the widths that its layer's input may have.
    """
    options, loss, input_loss = {}, {}, {}
    for name, choices in candidates.items():
        lost = input_losses.get(name.rpartition(".")[0], {})
        pairs = [
            (i, a, 0.0 if a is None else lost.get(a, 0.0)) for i in range(len(choices)) for a in inputs(name)
        ]
        options[name] = tuple(Widths(choices[i], a) for i, a, _ in pairs)
        loss[name] = tuple(losses[name][i] + of_input for i, _, of_input in pairs)
        input_loss[name] = tuple(of_input for _, _, of_input in pairs)
    return Table(options, loss, input_loss)


def bytes_of(name: str, widths: Widths) -> float:
    """A `CostOf`: the record as written."""
    return float(widths.candidate.bytes)


def total(picks: Picks, cost: CostOf) -> float:
    """The summed cost of a choice."""
    return sum(cost(name, pick) for name, pick in picks.items())
