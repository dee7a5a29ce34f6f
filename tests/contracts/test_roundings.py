"""The contract of every rounding: pure, seeded, within the format, near the original. Add to MEMBERS."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from plisse.compress.notes import notes_of
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.families import Nearest
from plisse.compress.quantize.grids import PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.compress.quantize.rounding import GPTQ, AdaQuant, AdaRound, BitSplit, Reconstruct, Stochastic
from plisse.core.batch import Batch, BatchList, call
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import Task, classification

STEPS = 25
BY_OUTPUT = [
    AdaRound(STEPS),
    AdaQuant(STEPS, lr=0.03),
    Reconstruct(steps=STEPS, lr=0.03),
    Reconstruct(block="layer", steps=STEPS, lr=0.03, fisher=True),
    Reconstruct(block="network", steps=STEPS, lr=0.03),
    Reconstruct(steps=STEPS, adaptive=True, lr=0.1, start=GPTQ()),
    GPTQ(),
    GPTQ(order=False, refit=False, block=5),
    GPTQ(follow=1.0),
    BitSplit(),
]
MEMBERS = [Nearest(), Stochastic(seed=3), *BY_OUTPUT]
QUICK = [replace(member, steps=5) if hasattr(member, "steps") else member for member in MEMBERS]
FEW = [BY_OUTPUT[0], BY_OUTPUT[2], BY_OUTPUT[6]]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=2)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Attentive(nn.Module):
    """Embeddings and one transformer layer; tokens [N, T] to logits [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([Layer()])
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.words(tokens)
        for layer in self.layers:
            x = layer(x, tokens != 0)
        return self.head(x.mean(1))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(3))
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x, mask):
        share = (x @ self.key(x).transpose(1, 2)).masked_fill(~mask[:, None], -1e4).softmax(-1)
        x = x + self.out(share @ self.value(x))
        return x + self.narrow(torch.relu(self.wide(x)))


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "tokens":
        return Attentive().eval()
    head = [nn.Flatten(), nn.Linear(6 * 25, 3)]
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), Residual(), *head).eval()


def task(kind: str, n: int = 2) -> Task:
    draw = torch.Generator().manual_seed(1)
    if kind == "tokens":
        items = [Batch(torch.randint(20, (16, 4 + i), generator=draw)) for i in range(n)]
    else:  # neighbours are alike, as in images
        shape = (16, 2, 5, 5)
        items = [Batch(torch.randn(shape, generator=draw).cumsum(2).cumsum(3) / 4) for _ in range(n)]
    batches = BatchList(tuple(items))
    return classification(kind, items[0].inputs, batches, batches, batches)


def error(model: nn.Module, reference: nn.Module, problem: Task) -> float:
    with torch.no_grad():
        pairs = [(call(model, b.inputs), call(reference, b.inputs)) for b in problem.calibration]
    return sum(float((a - b).square().sum()) for a, b in pairs)


@pytest.mark.parametrize("member", QUICK, ids=repr)
class TestContract:
    def test_is_pure_seeded_and_within_the_format(self, member):
        kind = "tokens" if QUICK.index(member) % 2 else "images"
        model, problem = network(kind), task(kind)
        model.train()
        before = copy.deepcopy(model.state_dict())
        step = Quantize(3, granularity=PerGroup(8), activations=Activations(6))
        quantized, original = step(model, problem), copy.deepcopy(model)
        state = copy.deepcopy(quantized.state_dict())
        first = member(quantized, original, problem)
        second = member(quantized, original, problem)
        for network_, kept in ((model, before), (quantized, state), (original, before)):
            assert all(torch.equal(kept[name], value) for name, value in network_.state_dict().items())
        assert original.training
        assert quantized.reparams.keys() == first.reparams.keys()
        for name, reparam in first.reparams.items():
            stored = reparam.stored()
            assert abs(stored.symbols).max() <= 3
            assert torch.equal(reparam(), torch.from_numpy(stored.values()))
            assert (stored.symbols == second.reparams[name].stored().symbols).all()
        states = first.state_dict(), second.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_pruned_weights_stay_zero(self, member):
        kind = "images" if QUICK.index(member) % 2 else "tokens"
        model, problem = network(kind), task(kind)
        pruned = Prune(sparsity=0.5)(model, problem)
        rounded = Quantize(3, symmetric=False, granularity=PerChannel(), rounding=member)(pruned, problem)
        result = baked(rounded).state_dict()
        zeros = {name: reparam() == 0 for name, reparam in pruned.reparams.items()}
        assert sum(int(each.sum()) for each in zeros.values()) > 100
        assert all(bool((result[name][each] == 0).all()) for name, each in zeros.items())


@pytest.mark.parametrize(
    ("member", "kind"), [*((m, "images") for m in BY_OUTPUT), *((m, "tokens") for m in FEW)], ids=repr
)
def test_outputs_are_nearer_than_with_nearest(member, kind):
    model, problem = network(kind), task(kind, n=4)
    nearest, chosen = (
        Quantize(3, range=MinMax(), rounding=rounding)(model, problem) for rounding in (Nearest(), member)
    )
    assert error(baked(chosen), model, problem) < error(baked(nearest), model, problem)


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerGroup(8)], ids=str)
@pytest.mark.parametrize("member", [QUICK[2], QUICK[4], QUICK[8]], ids=repr)
def test_every_granularity_is_honoured(member, granularity):
    model, problem = network("images"), task("images")
    plain, chosen = (
        Quantize(4, granularity=granularity, rounding=rounding)(model, problem).reparams
        for rounding in (Nearest(), member)
    )
    for name, reparam in chosen.items():
        assert reparam.stored().grid.scale.shape == plain[name].stored().grid.scale.shape


def test_adaround_stays_next_to_the_weight():
    model, problem = network("images"), task("images")
    plain, chosen = (
        Quantize(4, range=MinMax(), rounding=rounding)(model, problem).reparams
        for rounding in (Nearest(), AdaRound(STEPS))
    )
    for name, reparam in chosen.items():
        weight = model.state_dict()[name]
        step = plain[name].scale.reshape(-1, *[1] * (weight.dim() - 1))
        assert bool(((reparam() - weight).abs() < step * 1.001).all())
    moved = sum(int((chosen[n].stored().symbols != plain[n].stored().symbols).sum()) for n in chosen)
    assert moved > 10


@pytest.mark.parametrize("member", [QUICK[2], QUICK[4], QUICK[8]], ids=repr)
def test_what_cannot_be_reached_is_left_with_a_note(member):
    model = network("tokens")
    model.unused = nn.Linear(4, 4)
    step = Quantize(3, rounding=member)
    nearest, chosen = (Quantize(3)(model, task("tokens")), step(model, task("tokens")))
    for name in ("unused.weight", "words.weight"):
        assert torch.equal(chosen.reparams[name](), nearest.reparams[name]())
        assert any(repr(name) in note for note in notes_of(chosen))


@pytest.mark.parametrize("member", BY_OUTPUT, ids=repr)
def test_bad_calibration_is_refused(member):
    model, problem = network("images"), task("images")
    for bad in (BatchList(()), BatchList((Batch(torch.full((4, 2, 5, 5), torch.nan)),))):
        broken = classification("broken", problem.example, bad, bad, bad)
        with pytest.raises(InputError, match="calibration"):
            Quantize(3, rounding=member)(model, broken)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GPTQ(damping=0.0),
        lambda: GPTQ(block=0),
        lambda: GPTQ(follow=2.0),
        lambda: BitSplit(rounds=0),
        lambda: BitSplit(damping=0.0),
        lambda: AdaRound(steps=0),
        lambda: AdaQuant(lr=0.0),
        lambda: Reconstruct(block="stage"),
        lambda: Reconstruct(drop=1.5),
        lambda: Reconstruct(samples=0),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_learned_scales_of_activations_are_kept():
    model, problem = network("images"), task("images")
    step = Quantize(4, activations=Activations(3), rounding=Reconstruct(steps=STEPS, lr=0.03))
    before = Quantize(4, activations=Activations(3))(model, problem).model[2].first.input_quantizer.scale
    chosen = step(model, problem)
    after = chosen.model[2].first.input_quantizer.scale
    assert after != before
    assert after == after.to(torch.bfloat16)
    assert isinstance(chosen.reparams["2.first.weight"], FakeQuantized)
