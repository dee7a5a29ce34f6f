"""TensorDecompose: convolutions as chains of thin layers, from tensor decompositions of their weights.

These methods have several ranks per layer and no single list of singular values, so neither `Factorize` nor
the selectors of ranks nor the stable rank applies to them; they have a step of their own. What cannot be
written as a sequence of ordinary layers is left out, since a file stores no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plisse.compress.lowrank.balance import balance
from plisse.compress.lowrank.tucker import Tucker2
from plisse.compress.names import without
from plisse.compress.notes import with_notes
from plisse.core import modules
from plisse.core.reparam import baked
from plisse.cost.allocate import Choices, solve
from plisse.errors import GraphError, InputError
from plisse.train.task import Task

STEPS = 256
TensorRanks = tuple[int, ...]


class Method(Protocol):
    """Contract: tests/contracts/test_tensor_methods.py."""

    def reason(self, layer: nn.Module) -> str | None:
        """Why the method cannot take the layer; None where it can."""
        ...

    def full(self, layer: Any) -> TensorRanks:
        """The largest ranks that are of use."""
        ...

    def params(self, layer: Any, ranks: TensorRanks) -> int:
        """Numbers in the weights of the chain."""
        ...

    def chain(self, layer: Any, ranks: TensorRanks) -> nn.Sequential:
        """The layers that stand for `layer` at these ranks. The bias goes to the last."""
        ...


@dataclass(frozen=True)
class TensorDecompose:
    """Replace convolutions by chains of thin layers until a share of their numbers is gone.

    method: Tucker2(), CP(), TensorTrain() or BlockTerm(). ratio: share of the numbers of all layers that the
    method takes which goes, 0 to below 1. shares: each layer may keep k / shares of its numbers, k below
    `shares`, or stay whole; of all combinations within the budget the one with the least sum of relative
    squared errors of weights is taken (`cost.allocate`). Every option is decomposed, so time grows with
    `shares`. ignore: layers, or parts of the network, that stay whole, beside the first and the last layer.
    The network is baked first; what stays whole, and why, is in the notes. Fine-tune afterwards.

    Needs TensorLy: `pip install "plisse[tensor]"`.
    Raises InputError for values out of range and without TensorLy, GraphError where the method takes no
    layer, BudgetError where the smallest chains together are too large.
    """

    method: Method = field(default_factory=Tucker2)
    ratio: float = 0.5
    shares: int = 8
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise InputError(f"ratio {self.ratio}", expected="the share that goes, 0 to below 1", hint="0.5")
        if self.shares < 2:
            raise InputError(f"shares={self.shares}", expected="at least 2")

    def __call__(self, model: nn.Module, task: Task) -> nn.Module:
        network = modules.clone(baked(model))
        modules.check_finite(network)
        layers, notes = self._taken(network)
        options = {name: self._options(layer) for name, layer in layers.items()}
        numbers = {name: layer.weight.numel() for name, layer in layers.items()}
        choices = Choices(
            tuple(layers),
            tuple([0.0, *(_error(chain, layers[name]) for chain in options[name])] for name in layers),
            tuple([numbers[name], *(float(size(chain)) for chain in options[name])] for name in layers),
        )
        for name, pick in zip(layers, solve(choices, (1 - self.ratio) * sum(numbers.values())), strict=True):
            if pick:
                modules.replace(network, name, options[name][pick - 1])
        return with_notes(network, notes)

    def _options(self, layer: Any) -> list[nn.Sequential]:
        """Chains of ever fewer numbers, balanced."""
        whole = layer.weight.numel()
        ranks = {ranks_within(self.method, layer, k / self.shares * whole) for k in range(1, self.shares)}
        sized = {self.method.params(layer, each): each for each in ranks}
        return [
            balanced(self.method.chain(layer, sized[n]), layer)
            for n in sorted(sized, reverse=True)
            if n < whole
        ]

    def _taken(self, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
        every = dict(modules.weighted_layers(model))
        taken, notes = {}, []
        bound = modules.bound_layers(model)
        for name, reason in reasons(every, self.method, self.ignore).items():
            reason = reason or bound.get(name)
            if reason is None:
                taken[name] = every[name]
            else:
                notes.append(f"{name!r} left whole: {reason}")
        if not taken:
            raise GraphError(f"no layer that {self.method} takes", expected=f"one; {'; '.join(notes)}")
        return taken, notes


def reasons(
    layers: Mapping[str, nn.Module], method: Method, ignore: Iterable[str] = ()
) -> dict[str, str | None]:
    """Why each layer stays whole; None where it need not."""
    names = list(layers)
    kept, edges = set(without(names, ignore)), {names[0], names[-1]} if len(names) > 2 else set()
    return {
        name: "first or last layer"
        if name in edges
        else "ignored"
        if name not in kept
        else method.reason(each)
        for name, each in layers.items()
        if not isinstance(each, nn.Embedding)
    }


def ranks_within(method: Method, layer: Any, numbers: float) -> TensorRanks:
    """The largest ranks, all the same share of the full ones, whose chain has at most `numbers` numbers;
    rank 1 each where none has."""
    best = tuple(1 for _ in method.full(layer))
    for step in range(1, STEPS + 1):
        ranks = tuple(max(1, round(full * step / STEPS)) for full in method.full(layer))
        if method.params(layer, ranks) <= numbers:
            best = ranks
    return best


def size(chain: nn.Module) -> int:
    """Numbers in the weights of a chain, without the bias."""
    return sum(value.numel() for value in chain.parameters() if value.dim() > 1)


def merged_weight(chain: nn.Sequential, layer: Any) -> Tensor:
    """The weight, in the shape of that of the convolution `layer`, that a chain of convolutions stands for:
    what it answers to each single input value, without stride, padding or dilation."""
    shape = layer.weight.shape[1:]
    values = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)  # [C K K, C, K, K]
    for each in chain:
        part: Any = each
        values = nn.functional.conv2d(values, part.weight.detach().double().cpu(), groups=part.groups)
    return values.reshape(*shape, -1).movedim(-1, 0).to(layer.weight)


def balanced(chain: nn.Sequential, layer: Any) -> nn.Sequential:
    """The chain with even scales, on the device of `layer`, in its type and with its training flag."""
    balance(chain)
    return chain.to(layer.weight.device, layer.weight.dtype).train(layer.training)


def _error(chain: nn.Sequential, layer: Any) -> float:
    """||W - W'||^2 / ||W||^2."""
    weight = layer.weight.detach().double()
    error = (merged_weight(chain, layer).double() - weight).square().sum()
    return float(error / weight.square().sum().clamp_min(1e-300))
