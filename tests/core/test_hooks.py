"""Hooks that look on for a while, and children through which values pass."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plisse.core.hooks import after_calls, before_calls, hang_after, hang_before, removed_after


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, value: Tensor) -> Tensor:
        return value * self.factor


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_calls_are_seen_in_order_with_what_enters_and_leaves() -> None:
    model, seen = net(), []
    layers = dict(model.named_children())
    with (
        before_calls(layers, lambda name, layer, inputs: seen.append((name, inputs[0].shape[1]))),
        after_calls(layers, lambda name, layer, inputs, output: seen.append((name, output.shape[1]))),
    ):
        model(torch.ones(5, 2))
    assert seen == [("0", 2), ("0", 3), ("1", 3), ("1", 3), ("2", 3), ("2", 1)]
    assert hooks_of(model) == 0


@pytest.mark.parametrize("where", ["inside", "in the hook", "on the way"])
def test_hooks_go_whatever_happens(where: str) -> None:
    model = net()

    def see(*_: Any) -> None:
        if where == "in the hook":
            raise ValueError(where)

    def handles() -> Any:
        yield model[0].register_forward_hook(see)
        raise ValueError(where)

    def watched() -> None:
        with removed_after(handles()) if where == "on the way" else before_calls({"0": model[0]}, see):
            model(torch.ones(1, 2))
            raise ValueError(where)

    with pytest.raises(ValueError, match=where):
        watched()
    assert hooks_of(model) == 0


def test_values_pass_through_a_child_and_a_second_one_takes_its_place() -> None:
    model, x = net(), torch.rand(4, 2)
    plain, bias = model(x), model[2].bias
    for factor in (2.0, 3.0):
        hang_before(model[2], "before", Times(factor))
        hang_after(model[2], "after", Times(1 / factor))
        torch.testing.assert_close(model(x), plain - bias + bias / factor)
    assert hooks_of(model) == 2


def test_the_first_of_several_children_can_be_said() -> None:
    layer = nn.Identity()
    hang_before(layer, "squared", torch.nn.Softsign())
    hang_before(layer, "scaled", Times(4.0), first=True)
    assert float(layer(torch.ones(1))) == pytest.approx(0.8)  # 4 / (1 + 4)


def test_copies_keep_children_of_their_own() -> None:
    layer = nn.Linear(2, 2)
    hang_before(layer, "before", Times(2.0))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.before.factor = 0.0
        assert torch.equal(other(torch.ones(1, 2))[0], other.bias)
    assert not torch.equal(layer(torch.ones(1, 2))[0], layer.bias)
