"""Networks whose layers are bound to each other: shared weights, two names, torch's own attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plisse.compress.compress import compress
from plisse.compress.decompose import Decompose
from plisse.compress.finetune import FineTune
from plisse.compress.lowrank.factorize import Factorize
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rounding.gptq import GPTQ
from plisse.compress.step import Step, chain
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, with_origin
from plisse.errors import BudgetError, GraphError, InputError, WeightsError
from plisse.train.task import Task, classification


class Bound(nn.Module):
    """h twice under two names, and its weight in k too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h, self.k, self.o = (
            nn.Linear(16, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 4),
        )
        self.again, self.k.weight = self.h, self.h.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.h(self.a(x).relu()).relu()).relu()
        return self.o(self.k(x).relu())  # type: ignore[no-any-return]


class Attentive(nn.Module):
    """torch's attention and encoder layer, which read weights of their parts instead of calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(16, 32), nn.Linear(32, 4)
        self.m = nn.MultiheadAttention(32, 4, batch_first=True)
        self.e = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)[:, None].repeat(1, 3, 1)
        return self.o(self.e(self.m(x, x, x, need_weights=False)[0])[:, 0])  # type: ignore[no-any-return]


def made(kind: type[nn.Module]) -> tuple[nn.Module, tuple[str, ...]]:
    torch.manual_seed(0)
    name = f"{__name__}:{kind.__name__}"
    return with_origin(kind(), Origin("factory", name)).eval(), (name,)


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    batches = BatchList(tuple(Batch(torch.randn(64, 16), torch.randint(4, (64,))) for _ in range(4)))
    return classification("bound", batches[0].inputs, batches, batches, batches)


STEPS: dict[str, Step] = {
    "inputs": Quantize(bits=4, activations=Activations(4)),
    "gptq": Quantize(bits=3, rounding=GPTQ()),
    "tuned": chain(Quantize(bits=4), FineTune(3)),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_shared_weights_stay_shared_and_are_written_once(task: Task, step: Step) -> None:
    model, allow = made(Bound)
    found = compress(model, task, recipe=step, allow=allow)
    network = found.model
    assert isinstance(network, Bound)
    assert network.h is network.again
    assert torch.equal(network.h.weight, network.k.weight)
    sizes = {row.name: row.bytes for row in found.tensors}
    assert sizes["k.weight"] < 10 < sizes["h.weight"]


@pytest.mark.parametrize("kind", [Bound, Attentive])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_byte_budget_is_kept(task: Task, kind: type[nn.Module], steps: int) -> None:
    model, allow = made(kind)
    found = compress(model, task, budget="bytes=0.2x", finetune_steps=steps, allow=allow)
    assert len(found.data) <= 0.2 * found.before.bytes
    assert found.score_after.n == 256


def test_the_original_counts_a_shared_tensor_once(task: Task) -> None:
    model, allow = made(Bound)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    found = compress(model, task, recipe=Quantize(bits=8), allow=allow)
    assert 4 * numbers < found.before.bytes < 4 * numbers + 1000


def test_a_recipe_that_meets_the_budget_is_all_that_is_done(task: Task) -> None:
    model, allow = made(Bound)
    alone = compress(model, task, recipe=Quantize(bits=4), allow=allow)
    found = compress(model, task, recipe=Quantize(bits=4), budget="bytes=0.5x", strict=True, allow=allow)
    assert [row.name for row in found.steps] == [row.name for row in alone.steps]
    assert abs(len(found.data) - len(alone.data)) < 20


def test_layers_whose_parents_read_them_stay_whole(task: Task) -> None:
    model, allow = made(Attentive)
    found = compress(model, task, recipe=Decompose(ratio=0.05, finetune=0, steps=0), allow=allow)
    names = dict(found.model.named_modules())
    assert isinstance(names["e.linear1"], nn.Linear)
    assert isinstance(names["m.out_proj"], nn.Linear)
    assert modules.bound_layers(model).keys() == {
        "m.out_proj", "e.self_attn.out_proj", "e.linear1", "e.linear2"
    }  # fmt: skip
    with pytest.raises(InputError, match="MultiheadAttention reads its weight itself"):
        Factorize({"m.out_proj": 4})(model, task)


@pytest.mark.parametrize("dynamic", [None, "row"])
def test_attention_whose_inputs_stay_in_floating_point_is_named(task: Task, dynamic: str | None) -> None:
    model, allow = made(Attentive)
    step = Quantize(bits=4, activations=Activations(4, dynamic=dynamic))  # type: ignore[arg-type]
    found = compress(model, task, recipe=step, allow=allow)
    notes = " ".join(found.steps[-1].notes)
    assert "'m': inputs stay in floating point" in notes
    assert "'e.self_attn'" in notes
    assert "a.input_quantizer" in {name for name, _ in found.model.named_modules()}
    assert "m.out_proj.input_quantizer" not in {name for name, _ in found.model.named_modules()}


def test_weights_of_other_types_and_computed_ones_are_refused_with_the_way_out(task: Task) -> None:
    model, allow = made(Bound)
    with pytest.raises(WeightsError, match=r"in float16; expected float32; try: model.float\(\)"):
        compress(model.half(), task, recipe=Quantize(bits=8), allow=allow)
    model, allow = made(Bound)
    nn.utils.parametrizations.weight_norm(model.a)
    with pytest.raises(GraphError, match="remove_parametrizations"):
        compress(model, task, recipe=Quantize(bits=8), allow=allow)


def test_bounds_out_of_reach_say_what_is_within(task: Task) -> None:
    model, allow = made(Attentive)
    with pytest.raises(
        BudgetError, match="params=10, which not even the narrowest network keeps; expected at"
    ):
        compress(model, task, budget="params=10", allow=allow)
    with pytest.raises(InputError, match=r"less than one; expected a size, or a share; try: bytes=0.1x"):
        compress(model, task, budget="bytes=0.1", allow=allow)


def test_strict_asks_nothing_of_the_steps_that_finish_a_budget(task: Task) -> None:
    model, allow = made(Bound)
    found = compress(model, task, budget="bytes=0.2x", strict=True, allow=allow)
    assert any(row.name == "CompactSmall()" for row in found.steps)


def test_every_place_of_a_tensor_is_named_once() -> None:
    model, _ = made(Bound)
    assert modules.places(model, ["h.weight", "a.bias"]) == {
        "h.weight": ["h.weight", "k.weight"], "a.bias": ["a.bias"]
    }  # fmt: skip
