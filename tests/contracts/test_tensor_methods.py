"""The contract of every tensor method, and of the step that uses them. Add yours to METHODS."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.lowrank.balance import is_chain
from plisse.compress.lowrank.canonical import CP
from plisse.compress.lowrank.tensors import (
    Method,
    TensorDecompose,
    merged_weight,
    ranks_within,
    size,
)
from plisse.compress.lowrank.trains import TensorTrain
from plisse.compress.lowrank.tucker import BlockTerm, Tucker2
from plisse.compress.notes import notes_of
from plisse.compress.quantize.quantize import Quantize
from plisse.core.batch import Batch, BatchList
from plisse.core.config import from_data, to_data
from plisse.core.origin import origin_of
from plisse.core.reparam import baked
from plisse.errors import BudgetError, GraphError, InputError, WeightsError
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.task import Task, classification

pytest.importorskip("tensorly")

METHODS: list[Method] = [Tucker2(), BlockTerm(groups=1), BlockTerm(groups=2, sweeps=2), CP(), TensorTrain()]
KINDS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "bias": False},
    {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
]


def layer(kind: dict[str, Any]) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 8, **kind)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.Conv2d(16, 16, 1), nn.Flatten(), nn.Linear(256, 8), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def task() -> Task:
    torch.manual_seed(1)
    batches = BatchList((Batch(torch.randn(8, 3, 4, 4), torch.randint(5, (8,))),))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def error(method: Method, single: Any, ranks: tuple[int, ...]) -> float:
    weight: Tensor = single.weight.detach()
    found = merged_weight(method.chain(single, ranks), single)
    return float((found - weight).square().sum() / weight.square().sum())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_chain_computes_what_its_merged_weight_would(method: Method, kind: dict[str, Any]) -> None:
    single, x = layer(kind), torch.randn(2, 6, 9, 11)
    ranks = ranks_within(method, single, 0.5 * single.weight.numel())
    chain = method.chain(single, ranks)
    assert is_chain(chain)
    assert size(chain) <= method.params(single, ranks) <= 0.5 * single.weight.numel()
    whole = copy.deepcopy(single)
    whole.weight.data.copy_(merged_weight(chain, single))
    with torch.no_grad():
        assert torch.allclose(chain(x), whole(x), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("method", [m for m in METHODS if not isinstance(m, CP)], ids=str)
def test_full_rank_is_exact(method: Method, kind: dict[str, Any]) -> None:
    single = layer(kind)
    assert error(method, single, method.full(single)) < 1e-10


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_more_numbers_make_less_error(method: Method) -> None:
    single = layer(KINDS[0])
    errors = [
        error(method, single, ranks_within(method, single, share * single.weight.numel()))
        for share in (0.2, 0.5, 0.9)
    ]
    assert 1 > errors[0] > errors[1] > errors[2]


def test_a_sum_of_outer_products_comes_back_at_its_rank() -> None:
    single = layer(KINDS[0])
    parts = [torch.randn(side, 2) for side in (8, 6, 3, 3)]
    single.weight.data.copy_(torch.einsum("or,ir,hr,wr->oihw", *parts))
    for method, ranks in ((CP(sweeps=200), (2,)), (TensorTrain(), (2, 2, 2)), (Tucker2(), (2, 2))):
        assert error(method, single, ranks) < 1e-4
        assert error(method, single, tuple(1 for _ in ranks)) > 0.01


def test_block_terms_come_back_where_the_weight_is_a_sum_of_them() -> None:
    single = layer(KINDS[0])
    cores, outs, ins = torch.randn(2, 2, 2, 3, 3), torch.randn(2, 8, 2), torch.randn(2, 6, 2)
    single.weight.data.copy_(torch.einsum("gabhw,goa,gib->oihw", cores, outs, ins))
    found = error(BlockTerm(groups=2, sweeps=60), single, (2, 2))
    assert found < 0.2 * error(BlockTerm(groups=2, sweeps=1), single, (2, 2))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_layers_that_a_method_cannot_take_have_a_reason(method: Method) -> None:
    for other, word in (
        (nn.Linear(4, 4), "matrix"),
        (nn.Conv2d(4, 4, 1), "matrix"),
        (nn.Conv2d(4, 4, 3, groups=4), "groups"),
        (nn.Conv1d(4, 4, 3), "Conv1d"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
    ):
        assert word in str(method.reason(other))
    assert method.reason(layer(KINDS[0])) is None


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_step_removes_what_was_asked_and_leaves_the_rest(method: Method) -> None:
    model, step = net(), TensorDecompose(method, ratio=0.4, shares=4)
    state = copy.deepcopy(model.state_dict())
    small = step(model, task())
    taken = [2, 4]
    before = sum(model[place].weight.numel() for place in taken)
    after = sum(size(small[place]) for place in taken)
    assert after <= 0.6 * before
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert [type(small[place]) for place in (0, 6, 7, 9, 10)] == [type(model[p]) for p in (0, 6, 7, 9, 10)]
    assert len(notes_of(small)) == 5
    assert small(task().example).shape == (8, 5)
    assert from_data(to_data(step), {type(each).__name__: type(each) for each in (step, *METHODS)}) == step


def test_what_costs_least_error_is_what_goes() -> None:
    model = net()
    simple = torch.einsum("oi,h,w->oihw", torch.randn(16, 2) @ torch.randn(2, 16), *torch.randn(2, 3))
    model[4].weight.data.copy_(simple)
    small = TensorDecompose(Tucker2(), ratio=0.5)(model, task())
    assert isinstance(small[2], nn.Conv2d)
    assert isinstance(small[4], nn.Sequential)


@pytest.mark.parametrize("method", METHODS[2:], ids=str)
def test_chains_come_back_from_a_file_with_or_without_quantization(method: Method) -> None:
    model = open_model("resnet20", seed=1)
    for name in ("layer1.0.conv2", "layer2.0.conv1"):
        single: Any = model.get_submodule(name)
        parent, _, child = name.rpartition(".")
        ranks = ranks_within(method, single, 0.4 * single.weight.numel())
        setattr(model.get_submodule(parent), child, method.chain(single, ranks))
    x = torch.randn(2, 3, 32, 32)
    data = BatchList((Batch(x, torch.tensor([1, 2])),))
    skeleton = build(origin_of(open_model("resnet20", seed=1)))
    for network in (model, Quantize(bits=4)(model, classification("made", x, data, data, data))):
        with torch.no_grad():
            read = modelfile.loads(modelfile.dumps(network, skeleton), build).eval()
            assert torch.equal(read(x), baked(network).eval()(x))


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"ratio": 1.0}, {"ratio": float("nan")}, {"shares": 1}):
        with pytest.raises(InputError):
            TensorDecompose(**wrong)
    for make in (lambda: BlockTerm(groups=0), lambda: CP(sweeps=0)):
        with pytest.raises(InputError):
            make()
    with pytest.raises(BudgetError):
        TensorDecompose(ratio=0.99, shares=3)(net(), task())
    with pytest.raises(GraphError, match="matrix"):
        TensorDecompose()(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), task())
    broken = net()
    broken[2].weight.data[0] = torch.inf
    with pytest.raises(WeightsError):
        TensorDecompose()(broken, task())
    monkeypatch.setitem(sys.modules, "tensorly", None)
    with pytest.raises(InputError, match="plisse\\[tensor\\]"):
        TensorDecompose()(net(), task())
