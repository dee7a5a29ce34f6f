"""The order of magnitudes after random rescaling, with and without the canonical form."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.equalize import scale_pair
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.sphere.canonicalize import Canonicalize
from plisse.compress.sphere.domain import Box
from plisse.compress.sphere.units import find_units
from plisse.core import modules
from plisse.core.batch import BatchList
from plisse.train.task import Task, classification

KINDS = (
    # type of the rescaled weights, whether factors are powers of two, type in which the form is computed
    (torch.float64, False, torch.float64),
    (torch.float32, False, torch.float32),
    (torch.float32, False, torch.float64),
    (torch.float32, True, torch.float32),
)


def pruning_order(
    model: nn.Module, task: Task, kind: torch.dtype, powers: bool, form: torch.dtype
) -> dict[str, Any]:
    """What `compared` finds after every hidden channel was rescaled at random by exp(N(0, 1)), with and
    without the canonical form. powers: of two, which rescale without rounding. form: its type."""
    assert isinstance(task.example, Tensor)
    torch.manual_seed(0)
    folded = modules.clone(FoldBatchNorm()(model, task)).to(kind)
    scaled = copy.deepcopy(folded)
    for unit in find_units(folded, task.example.to(kind))[0]:
        first: Any = scaled.get_submodule(unit.first)
        log = torch.randn(len(first.weight))
        factor = 2 ** log.round() if powers else log.exp()
        scale_pair(first, scaled.get_submodule(unit.second), factor.to(kind))
    known = classification("rescaled", task.example.to(form), *[BatchList(())] * 3)
    step = Canonicalize(Box(0.0, 1.0))
    forms = [step(copy.deepcopy(network).to(form), known) for network in (folded, scaled)]
    return {
        "type": _name(kind),
        "powers_of_two": powers,
        "form_in": _name(form),
        "plain": compared(*map(magnitudes, (folded, scaled))),
        "canonical": compared(*map(magnitudes, forms)),
    }


def compared(one: Tensor, other: Tensor) -> dict[str, float]:
    """Of two lists of N magnitudes: the share of places in the order that are the same, of equal decisions
    when half of the weights go, of cuts (1 to N - 1 weights go) that take the same weights, and the widest
    gap |a - b| / a in `one` between two weights whose order is another in `other` at neighbouring places.

    >>> found = compared(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 1.5, 4.0]))
    >>> [round(found[key], 2) for key in ("same_place", "same_cut", "widest_swap")]
    [0.33, 0.5, 0.5]
    """
    orders = [values.argsort(stable=True) for values in (one, other)]
    cut = len(one) // 2
    halves = [torch.zeros(len(one)).index_fill(0, order[:cut], 1.0) for order in orders]
    place = torch.empty_like(orders[1])
    place[orders[1]] = torch.arange(len(one))
    reached = place[orders[0]].cummax(0).values[:-1]  # a cut after i takes the same weights where this is i
    sorted_one = one.double()[orders[0]]
    later = place[orders[0]]
    swapped = later[1:] < later[:-1]
    gaps = (sorted_one[1:] - sorted_one[:-1]) / sorted_one[1:].clamp_min(1e-300)
    return {
        "same_place": float((orders[0] == orders[1]).double().mean()),
        "same_half": float((halves[0] == halves[1]).double().mean()),
        "same_cut": float((reached == torch.arange(len(one) - 1)).double().mean()),
        "widest_swap": float(gaps[swapped].max()) if bool(swapped.any()) else 0.0,
    }


def magnitudes(model: nn.Module) -> Tensor:
    """Of all weights [N]."""
    names = modules.weight_names(model)
    return torch.cat([modules.tensor(model, name).detach().abs().flatten() for name in names])


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
