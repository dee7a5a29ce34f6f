"""One canonical form of networks with rectifiers or steps: unit weights, thresholds in an interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plisse.compress.fold import FoldBatchNorm, check_same
from plisse.compress.notes import with_notes
from plisse.compress.sphere.domain import CalibrationBox, Domain, Observed, preactivations
from plisse.compress.sphere.moves import Change, carry_out, plan_unit, rescale
from plisse.compress.sphere.units import Unit, find_units, nothing_moves, running
from plisse.core import modules
from plisse.core.keptstatistics import forget_kept
from plisse.core.reparam import baked
from plisse.train.task import Task


@dataclass(frozen=True)
class Canonicalize:
    """The same function in the reduced parameter space (arXiv 1805.08340: ReLU and binary networks lose
    nothing when each neuron's weights lie on the unit sphere and its threshold in a bounded interval).

    For every unit (layer, activation f, next layer W'), neuron j with weights w and threshold b:
    w / |w|, b / |w|, and W'_j |w| where f(s x) = s f(x); a step function takes no scale on. With
    l <= w x + b <= h on the domain: h <= 0, ReLU gives 0 and the neuron goes; l >= 0, f is linear, so b
    becomes b - l and the next bias takes W'_j l; a constant c = f(b) of w = 0 (or of a step that never
    switches) goes into the next bias as W'_j c. Neurons that the next layer weighs by 0 go too. Bounds come
    from interval arithmetic, layer by layer.

    domain: where inputs lie: Box(low, high), CalibrationBox() (exact for all inputs within), Unbounded()
    (exact everywhere), or Observed() (ranges seen on calibration data: NOT exact elsewhere).

    Batch norm is folded first, computed weights are baked. Convolutions: the norm is that of a filter; behind
    zero padding a constant is no constant, so thresholds stay and constant neurons are merged into one.
    Shortcuts: only scales inside a block move. Layers before sine, GELU, sigmoid and the like stay; the notes
    say what was done, what was left and why, and which layer got a bias. Quantized inputs must come later.

    Raises InputError for an unbounded domain without calibration data, WeightsError for weights that are not
    finite, GraphError where no layer can be brought into the form or the outputs on the example change.

    >>> from plisse.compress.sphere.domain import Box
    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import classification
    >>> task = classification("none", torch.ones(2, 3), *[BatchList(())] * 3)
    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> _ = nn.init.constant_(network[0].bias[:2], -9.0)
    >>> small = Canonicalize(Box(-1.0, 1.0))(network, task)
    >>> small[0].out_features, torch.allclose(small[0].weight.norm(dim=1), torch.ones(3))
    (3, True)
    """

    domain: Domain = field(default_factory=CalibrationBox)

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        result, changes, left, remark = canonical(model, task, self.domain)
        notes = [remark, *map(str, changes)]
        notes += [f"{name!r} keeps its scale: {reason}" for name, reason in left.items()]
        return with_notes(result, notes)


def canonical(
    model: nn.Module, task: Task, domain: Domain
) -> tuple[nn.Module, tuple[Change, ...], dict[str, str], str]:
    """What `Canonicalize` does: the network, the change of every unit, why other layers keep their scale, and
    where the result is exact."""
    modules.check_finite(model)
    with running(model):
        folded = modules.clone(FoldBatchNorm()(model, task))
    forget_kept(folded)  # scales and thresholds move
    units, left = find_units(folded, task.example)
    if not units:
        raise nothing_moves(folded, left)
    kinds = {name: value.dtype for name, value in _tensors(folded)}
    precise = folded.double()
    bounds, remark = preactivations(precise, [unit.first for unit in units], domain, task)
    changes: list[Change] = []
    for unit in reversed(units):  # from the end, so that what only removed neurons hear goes too
        first, second = _layers(precise, unit)
        plan = plan_unit(first, second, unit, bounds[unit.first], kinds[f"{unit.first}.weight".lstrip(".")])
        changes.insert(0, carry_out(first, second, unit, plan))
    for unit in units:
        rescale(*_layers(precise, unit), unit.activation)
    result = _in_kinds(precise, kinds)
    if not isinstance(domain, Observed):
        check_same(
            baked(model), result, task.example, "weights are put on the sphere", "leave Canonicalize out"
        )
    return result, tuple(changes), left, remark


def _layers(model: nn.Module, unit: Unit) -> tuple[Any, Any]:
    return model.get_submodule(unit.first), model.get_submodule(unit.second)


def _in_kinds(model: nn.Module, kinds: dict[str, torch.dtype]) -> nn.Module:
    """In place: every tensor in the type that it had; new ones in that of their layer's weight."""
    for name, value in _tensors(model):
        if value.is_floating_point():
            value.data = value.data.to(kinds.get(name, kinds.get(name.rpartition(".")[0] + ".weight")))
    return model


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Those that are no part of its state too."""
    return [*model.named_parameters(), *model.named_buffers()]
