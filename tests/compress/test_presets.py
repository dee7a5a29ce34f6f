"""Every preset on a tiny network of its kind: it runs, computes nearly the same, and the file is smaller.
And what presets rest on: recurrent weights and rows of embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.compress import compress
from plisse.compress.quantize import presets
from plisse.compress.quantize.grids import PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.mixed.costs import float_bytes, matrix_macs, written_bytes
from plisse.compress.quantize.mixed.curvature import HessianTrace
from plisse.compress.quantize.mixed.mixed import MixedPrecision, widths_of
from plisse.compress.quantize.mixed.sensitivity import Perturbation
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.compress.recipe import dump_recipe
from plisse.compress.step import Chain
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.fakequant import InputQuantizer
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Reparametrized, baked, effective_weight, plain
from plisse.core.stored import Uniform
from plisse.errors import InputError
from plisse.networks.build import build
from plisse.train.evaluate import evaluate
from plisse.train.loop import fit
from plisse.train.optimizers import AdamW
from plisse.train.task import Task, classification, outputs_on

WORDS, LONG, CLASSES = 40, 12, 4


class Sentence(nn.Module):
    """Classes of token rows [N, T] by a recurrent layer ("lstm", "gru", "rnn") or attention ("attention")."""

    def __init__(self, kind: str = "lstm") -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16)
        self.body: Any
        if kind == "attention":
            self.body = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        else:
            body = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
            self.body = body(16, 24, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16 if kind == "attention" else 48, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.body(self.embed(tokens))
        return self.head((found if isinstance(found, Tensor) else found[0]).mean(1))


def recurrent_net() -> nn.Module:
    torch.manual_seed(0)
    return with_origin(Sentence("lstm"), Origin("factory", f"{__name__}:recurrent_net"))


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2),
    )
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(24 * 9, CLASSES)).eval()


def sentences(count: int, seed: int) -> BatchList:
    """The class is the ten that the first of 12 words is in: the order of words matters."""
    draw = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        tokens = torch.randint(WORDS, (64, LONG), generator=draw)
        items.append(Batch(tokens, tokens[:, 0] // 10))
    return BatchList(tuple(items))


@pytest.fixture(scope="module")
def words() -> Task:
    train = sentences(12, 0)
    return classification("made", train[0].inputs, train, BatchList(train.items[:2]), sentences(4, 1))


@pytest.fixture(scope="module")
def pictures() -> Task:
    draw = torch.Generator().manual_seed(0)
    items = tuple(
        Batch(torch.randn(32, 1, 8, 8, generator=draw), torch.randint(CLASSES, (32,), generator=draw))
        for _ in range(2)
    )
    batches = BatchList(items)
    return classification("made", items[0].inputs, batches, batches, batches)


@pytest.fixture(scope="module")
def trained(words: Task) -> nn.Module:
    model = recurrent_net()
    optimizer = AdamW(lr=0.02)
    fit(model, words.objective, words.train, steps=150, optimizer=optimizer, precision="32-true")
    return model.eval()


CONVNETS = [presets.convnet(), presets.convnet(4, 8), presets.convnet(8, 8, PerTensor())]
TRANSFORMERS = [
    presets.q8bert(),
    presets.q8bert(steps=2),
    presets.qbert(4, group=16),
    presets.qbert(4, group=16, sensitivity=Perturbation(1)),
    presets.ibert(),
    presets.zeroquant(),
    presets.zeroquant(4, group=16),
]


@pytest.mark.parametrize("preset", CONVNETS, ids=repr)
def test_convnets_shrink_and_compute_nearly_the_same(preset: Chain, pictures: Task) -> None:
    net = conv_net()
    made = preset(net, pictures)
    assert _far(net, made, pictures) < 0.15
    assert written_bytes(made, net, "made") < 0.4 * float_bytes(net)
    assert any(isinstance(module, InputQuantizer) for module in plain(made).modules())


@pytest.mark.parametrize("preset", TRANSFORMERS, ids=repr)
def test_transformers_shrink_and_compute_nearly_the_same(preset: Chain, words: Task) -> None:
    torch.manual_seed(0)
    net = Sentence("attention").eval()
    made = preset(net, words).eval()
    assert set(widths_of(made)) == set(modules.weight_names(net))
    assert "body.self_attn.in_proj_weight" in widths_of(made)
    assert _far(net, made, words) < 0.3
    assert written_bytes(made, net, "made") < 0.5 * float_bytes(net)
    kinds = (InputQuantizer, DynamicQuantizer)
    assert any(isinstance(module, kinds) for module in plain(made).modules())


def test_ternary_transformers_have_three_values_and_learn(words: Task) -> None:
    torch.manual_seed(0)
    net = Sentence("attention").eval()
    made, taught = (presets.ternarybert(steps, lr=0.05)(net, words) for steps in (0, 30))
    for model in (made, taught):
        reparams = model.reparams  # type: ignore[union-attr]
        weights = [reparams[name].stored().symbols for name in modules.weight_names(net)]  # type: ignore[index, operator, union-attr]
        assert all(set(symbols.flatten().tolist()) <= {0, 1, 2} for symbols in weights)
        assert written_bytes(model, net, "made") < 0.4 * float_bytes(net)
    losses = [
        sum(float(words.objective(model.eval(), batch).total.detach()) for batch in words.train)
        for model in (made, taught)
    ]
    assert losses[1] < losses[0]


def test_presets_are_values() -> None:
    assert presets.convnet(4, 4) == presets.convnet(4, 4) != presets.convnet(8, 8)
    assert "PerTensor" in dump_recipe(presets.q8bert())
    assert [type(step).__name__ for step in presets.convnet(8, 8, PerTensor()).steps][1] == "Equalize"


@pytest.mark.parametrize("bits", [8, 4])
def test_a_recurrent_network_keeps_its_accuracy(bits: int, trained: nn.Module, words: Task) -> None:
    before = evaluate(trained, words).score
    assert before > 0.9
    made = presets.recurrent(bits)(trained, words)
    assert evaluate(baked(made), words).score >= before - (0.01 if bits == 8 else 0.04)
    assert written_bytes(made, trained, "made") < (0.31 if bits == 8 else 0.19) * float_bytes(trained)
    assert {"body.weight_ih_l0", "body.weight_hh_l0_reverse"} <= set(widths_of(made))


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "attention"])
def test_computed_weights_reach_layers_that_hold_several(kind: str, words: Task) -> None:
    torch.manual_seed(0)
    net = Sentence(kind).eval()
    made = Quantize(bits=3)(net, words).eval()
    assert isinstance(made, Reparametrized)
    tokens = words.example
    with torch.no_grad():
        assert torch.equal(made(tokens), baked(made)(tokens))
        assert not torch.allclose(made(tokens), net(tokens), atol=1e-4)
    loss = made.train()(tokens).square().sum()
    loss.backward()
    wanted = {name for name in modules.weight_names(net) if "weight_hh" in name or "in_proj" in name}
    assert wanted
    for name in wanted:
        assert made.reparams[name].source.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_a_cell_and_a_projected_layer_are_found() -> None:
    assert modules.weight_names(nn.LSTMCell(2, 3)) == ["weight_ih", "weight_hh"]
    assert modules.weight_names(nn.LSTM(2, 4, proj_size=3))[:3] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "weight_hr_l0",
    ]
    assert "q_proj_weight" in modules.weight_names(nn.MultiheadAttention(4, 2, kdim=3, vdim=3))


def test_a_recurrent_network_through_its_file(trained: nn.Module, words: Task) -> None:
    name = f"{__name__}:recurrent_net"
    result = compress(trained, words, recipe=presets.recurrent(4), allow=(name,))
    assert result.after.bytes < 0.21 * result.before.bytes
    decoded = modelfile.loads(result.data, lambda origin: build(origin, allow=(name,))).eval()
    made = presets.recurrent(4)(trained, words)
    with torch.no_grad():
        assert torch.equal(decoded(words.example), baked(made)(words.example))


def test_mixed_widths_and_macs_of_a_recurrent_network(trained: nn.Module, words: Task) -> None:
    how = MixedPrecision("bytes=0.2x", bits=(2, 4, 8), sensitivity=HessianTrace(samples=1), sweeps=0)
    made = how(trained, words)
    assert written_bytes(made, trained, "made") <= 0.2 * float_bytes(trained)
    assert len(set(widths_of(made).values())) > 1
    macs = matrix_macs(trained, words.example)
    assert macs["body.weight_ih_l0"] == 64 * LONG * 4 * 24 * 16
    assert macs["body.weight_hh_l0"] == 64 * LONG * 4 * 24 * 24
    assert macs["embed.weight"] == 0


@pytest.mark.parametrize("group", [0, 4])
def test_embeddings_have_a_scale_per_row_or_group(group: int, trained: nn.Module, words: Task) -> None:
    made = presets.embeddings(trained, bits=4, group=group)(trained, words)
    assert set(widths_of(made)) == {"embed.weight"}
    grid = made.reparams["embed.weight"].stored().grid  # type: ignore[union-attr]
    assert isinstance(grid, Uniform)
    assert grid.scale.shape == ((WORDS, 4) if group else (WORDS,))
    assert written_bytes(made, trained, "made") < written_bytes(trained, trained, "made")


def test_more_scales_are_nearer(trained: nn.Module, words: Task) -> None:
    weight = modules.tensor(trained, "embed.weight").detach()
    errors = []
    for granularity in (PerTensor(), PerChannel(), PerGroup(4)):
        made = Quantize(bits=4, granularity=granularity, range=MSE())(trained, words)
        errors.append(float((effective_weight(made, "embed.weight") - weight).square().sum()))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: presets.convnet(1, 8),
        lambda: presets.convnet(8, 9),
        lambda: presets.qbert(1.5),
        lambda: presets.zeroquant(9),
        lambda: presets.recurrent(0),
        lambda: presets.embeddings(nn.Linear(2, 2)),
        lambda: presets.embeddings(nn.Embedding(4, 2), bits=1),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()


def test_a_range_per_weight_makes_smaller_files(trained: nn.Module, words: Task) -> None:
    sizes = [
        written_bytes(Quantize(bits=3, range=range)(trained, words), trained, "made")
        for range in (MSE(), MinMax())
    ]
    assert sizes[1] < sizes[0]


def _far(model: nn.Module, other: nn.Module, task: Task) -> float:
    """Root mean squared difference of outputs as a share of their deviation."""
    first = torch.cat(outputs_on(model, task.holdout))
    second = torch.cat(outputs_on(baked(other), task.holdout))
    return float((first - second).square().mean().sqrt() / first.std(0).mean())
