from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plisse.compress.notes import notes_of
from plisse.compress.prune.channels import channels_for, choose_channels, prune_channels
from plisse.compress.prune.groups import channel_graph
from plisse.compress.prune.mask import Masked, masked_stored, sparsity_of
from plisse.compress.prune.patterns import NM, Channels, Gradual, OneShot, Unstructured
from plisse.compress.prune.prune import Prune, prunable
from plisse.core import edits
from plisse.core.batch import Batch, BatchList
from plisse.core.config import from_data, to_data
from plisse.core.reparam import Plain, Reparametrized, baked, stored_state
from plisse.core.stored import Stored, Trellis, Uniform
from plisse.cost.budget import Cost
from plisse.cost.macs import count_macs
from plisse.errors import BudgetError, GraphError, InputError
from plisse.networks.resnet import resnet18, resnet20
from plisse.train.optimizers import SGD, AdamW
from plisse.train.schedules import Cubic
from plisse.train.task import Task, classification

TYPES = {
    kind.__name__: kind for kind in (Prune, Unstructured, NM, Channels, OneShot, Gradual, Cubic, SGD, AdamW)
}


def blobs(n: int = 64) -> Task:
    """Two classes of points around two centres in 12 dimensions."""
    generator = torch.Generator().manual_seed(3)
    target = torch.arange(n) % 2
    points = torch.randn(n, 12, generator=generator) + 3.0 * target[:, None]
    batches = BatchList((Batch(points, target),))
    return classification("blobs", points[:4], batches, batches, batches)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


class Small(nn.Module):
    """A convolution, a depthwise one, a concatenation and a flattened head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.c = nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        x = self.norm(self.deep(torch.cat([a, self.b(a)], 1))).sigmoid()
        return self.head(self.c(x).relu().flatten(1))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_unstructured_is_a_pure_step_that_stores_exact_zeros(scope: str) -> None:
    model, task = mlp().train(), blobs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = Prune(0.75, scope=scope)(model, task)  # type: ignore[arg-type]
    assert isinstance(pruned, Reparametrized)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert sparsity_of(baked(pruned)) == pytest.approx(0.75, abs=1e-3)
    for name, reparam in pruned.reparams.items():
        values = stored_state(pruned)[name].values()
        assert np.array_equal(values, reparam().detach().numpy())
        assert (values[~reparam.mask.numpy()] == 0).all()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(baked(pruned)(task.example), pruned(task.example))


def test_steps_survive_a_recipe() -> None:
    for step in (
        Prune(),
        Prune(0.9, scope="layer", importance="taylor", ignore=("fc",)),
        Prune(pattern=NM(1, 4)),
        Prune(pattern=Channels(round_to=8)),
        Prune(0.8, schedule=Gradual(steps=50, ramp=Cubic(end=0.9), optimizer=AdamW(lr=1e-4))),
    ):
        assert from_data(to_data(step), TYPES) == step


def test_bad_arguments_are_refused() -> None:
    for build in (
        lambda: Prune(1.0),
        lambda: Prune(scope="network"),  # type: ignore[arg-type]
        lambda: NM(4, 4),
        lambda: Channels(0),
        lambda: Gradual(steps=0),
        lambda: Prune(pattern=Channels(), schedule=Gradual()),
        lambda: Prune(importance="charm")(mlp(), blobs()),  # type: ignore[arg-type]
        lambda: Prune(ignore=("*",))(mlp(), blobs()),
        lambda: choose_channels({}, 0.0),
    ):
        with pytest.raises(InputError):
            build()


def test_ignored_layers_stay_dense() -> None:
    assert prunable(mlp(), ("0", "4.weight")) == ["2.weight"]
    pruned = baked(Prune(0.5, ignore=("0", "4"))(mlp(), blobs()))
    assert sparsity_of(pruned, ["0.weight", "4.weight"]) == 0.0
    assert sparsity_of(pruned, ["2.weight"]) == 0.5


def test_n_of_m_leaves_what_it_cannot_group_dense_and_says_so() -> None:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6), nn.Linear(6, 2))
    ids = torch.zeros(2, 3, dtype=torch.long)
    batches = BatchList((Batch(ids, torch.zeros(2, dtype=torch.long)),))
    task = classification("ids", ids, batches, batches, batches)
    pruned = Prune(pattern=NM(2, 4))(model, task)
    assert list(pruned.reparams) == ["1.weight"]  # type: ignore[union-attr, arg-type]
    assert notes_of(pruned) == (
        "'0.weight' left dense: an embedding",
        "'2.weight' left dense: rows of 6 are no groups of 4",
    )


def test_a_second_prune_keeps_the_first_mask() -> None:
    model, task = mlp(), blobs()
    first = Prune(0.5, scope="layer")(model, task)
    second = Prune(0.25, scope="layer")(first, task)
    assert torch.equal(baked(first)[0].weight, baked(second)[0].weight)  # type: ignore[index]
    assert not isinstance(second.reparams["0.weight"].source, Masked)  # type: ignore[union-attr, index]


def test_a_mask_over_quantized_symbols_is_zero_there() -> None:
    grid = Uniform(np.array([0.5, 0.25], np.float32), np.array([3, -1], np.int32))
    stored = Stored(np.arange(6, dtype=np.int8), (2, 3), grid)
    mask = np.array([[True, False, True], [False, True, True]])
    values = masked_stored(stored, mask).values()
    assert np.array_equal(values == 0, ~mask | (stored.values() == 0))
    assert np.array_equal(values[mask], stored.values()[mask])
    with pytest.raises(InputError, match="trellis"):
        masked_stored(Stored(stored.symbols, (2, 3), Trellis(1.0)), mask)


def test_masked_weights_get_no_gradient() -> None:
    masked = Masked(Plain(torch.ones(2, 2)), torch.tensor([[True, False], [False, True]]))
    masked().sum().backward()
    assert torch.equal(masked.source.weight.grad, torch.eye(2))


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_gradual_prunes_while_training(importance: str) -> None:
    task, model = blobs(), mlp()
    schedule = Gradual(steps=60, every=5, ramp=Cubic(end=0.5), optimizer=SGD(lr=0.05))
    step = Prune(0.8, importance=importance, schedule=schedule)  # type: ignore[arg-type]
    pruned = baked(step(model, task))
    assert sparsity_of(pruned) == pytest.approx(0.8, abs=2e-3)
    target = task.train[0].target
    assert target is not None
    right = (pruned(task.train[0].inputs).argmax(-1) == target).float().mean()
    assert right > 0.95
    dense = baked(Prune(0.8)(model, task))
    assert task.objective(pruned, task.train[0]).total < task.objective(dense, task.train[0]).total


def test_gradual_reaches_n_of_m() -> None:
    step = Prune(pattern=NM(1, 4), schedule=Gradual(steps=12, every=2))
    weight = baked(step(mlp(), blobs()))[0].weight  # type: ignore[index]
    assert ((weight.reshape(-1, 4) != 0).sum(1) == 1).all()


@pytest.mark.parametrize("build", [resnet20, resnet18])
def test_pruned_resnets_are_a_skeleton_with_edits(build) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model, example = build().eval(), torch.randn(2, 3, 32, 32)
    pruned = prune_channels(model, example, keep=0.5, round_to=4)
    again = edits.apply(build(), edits.difference(build(), pruned))
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(again.eval()(example), pruned(example))
    assert count_macs(pruned, example) < 0.55 * count_macs(model, example)
    assert {type(m) for m in pruned.modules()} == {type(m) for m in model.modules()}


def test_padded_shortcuts_keep_the_residual_stream_and_are_named() -> None:
    model, example = resnet20(), torch.randn(1, 3, 32, 32)
    graph = channel_graph(model, example)
    assert {group.root for group in graph.groups} == {
        f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)
    }
    assert any("conv2' left alone" in note for note in graph.notes)
    assert any("'linear' left alone" in note for note in graph.notes)


def test_counts_are_rounded_and_ignored_layers_stay() -> None:
    model, example = Small(), torch.randn(2, 3, 4, 4)
    pruned = prune_channels(model, example, keep=0.6, round_to=4, ignore=["deep"])
    assert (pruned.c.out_channels, pruned.deep.out_channels) == (8, 16)
    assert any("'deep' is to be ignored" in note for note in notes_of(pruned))


def test_channels_by_taylor_need_a_task_and_use_its_labels() -> None:
    model, task = mlp(), blobs()
    with torch.no_grad():
        model[2].weight[:, :8] = 0.0  # nobody listens to the first eight, whatever their own norm
        model[0].weight[:8] *= 10.0
    pruned = Prune(0.5, pattern=Channels(), scope="layer", importance="taylor", ignore=("2",))(model, task)
    assert torch.equal(pruned[0].weight, model[0].weight[8:])  # type: ignore[index]
    with pytest.raises(InputError, match="task"):
        prune_channels(model, task.example, keep=0.5, importance="taylor")


def test_no_layer_of_a_concatenation_is_emptied() -> None:
    model = Small()
    with torch.no_grad():
        for name in ("a", "b"):
            getattr(model, name).weight[:] *= 1.0 if name == "b" else 1e-3
    pruned = prune_channels(model.eval(), torch.randn(2, 3, 4, 4), keep=0.3, scope="global")
    assert pruned.a.out_channels >= 1
    assert pruned.deep.groups == pruned.a.out_channels + pruned.b.out_channels


def test_the_search_finds_the_largest_that_is_admitted() -> None:
    model, example = resnet20(), torch.randn(1, 3, 32, 32)
    bound = 0.6 * count_macs(model, example)
    found = channels_for(model, example, lambda net: count_macs(net, example) <= bound)
    assert 0.57 * count_macs(model, example) < count_macs(found, example) <= bound
    assert torch.equal(channels_for(model, example, lambda net: True)(example), model(example))


def test_the_search_refuses_what_nothing_meets() -> None:
    cost = Cost(1, 2, 3)
    with pytest.raises(BudgetError) as caught:
        channels_for(mlp(), torch.zeros(2, 12), lambda net: False, cost=lambda net: cost)
    assert caught.value.closest is cost


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).detach()


def test_untraceable_networks_are_refused_with_module_and_operator() -> None:
    broken = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(GraphError, match=r"module '1.1' at operator 'linear'.*a task that fits it"):
        prune_channels(broken, torch.zeros(2, 4), keep=0.5)
    with pytest.raises(GraphError, match="no gradient"):
        prune_channels(Detached(), torch.zeros(2, 4), keep=0.5)
    with pytest.raises(GraphError, match="no channel can be cut"):
        prune_channels(nn.Linear(4, 2), torch.zeros(2, 4), keep=0.5)


def test_transformers_lose_only_the_channels_of_their_feed_forward_layers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    torch.manual_seed(0)
    ids = {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    pruned = prune_channels(transformers.BertModel(config), ids, keep=0.5)
    assert pruned.encoder.layer[0].intermediate.dense.out_features == 32
    assert pruned.encoder.layer[1].output.dense.in_features == 32
    assert pruned.encoder.layer[0].attention.self.query.out_features == 32
    assert any("attention.self.value' left alone" in note for note in notes_of(pruned))
