"""The quantization steps on small networks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from plisse.compress.fold import FoldBatchNorm
from plisse.compress.prune.mask import Masked
from plisse.compress.quantize.activations import Activations, fitted_quantizer
from plisse.compress.quantize.aware import Aware, LearnedScale
from plisse.compress.quantize.aware.dorefa import DoReFa
from plisse.compress.quantize.grids import PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MeanMagnitude, MinMax, Percentile
from plisse.compress.quantize.rated import RateQuantize, RateQuantized, TrellisQuantized
from plisse.compress.quantize.small import CompactSmall, Constant, HalfPrecision
from plisse.core import edits, modules
from plisse.core.batch import Batch, BatchList
from plisse.core.config import from_data, to_data
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import baked, effective_weight, plain, reparametrize, source, stored_state
from plisse.core.stored import Raw
from plisse.errors import InputError, WeightsError
from plisse.networks.open import open_model
from plisse.train.evaluate import evaluate
from plisse.train.loop import fit
from plisse.train.optimizers import SGD
from plisse.train.task import classification, outputs_on
from plisse.train.tasks import open_task

TYPES = {
    kind.__name__: kind
    for kind in (Quantize, Activations, Aware, PerTensor, PerChannel, PerGroup, MinMax, Percentile, MSE)
} | {"RateQuantize": RateQuantize, "CompactSmall": CompactSmall, "MeanMagnitude": MeanMagnitude}


def fresh(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def made_batches(count, seed):
    """Four classes: which quarter of the image is bright, under noise."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(count):
        target = torch.randint(4, (32,), generator=generator)
        images = torch.randn(32, 2, 6, 6, generator=generator)
        for image, label in zip(images, target.tolist(), strict=True):
            image[:, 3 * (label // 2) :, 3 * (label % 2) :][:, :3, :3] += 0.9
        items.append(Batch(images, target))
    return BatchList(tuple(items))


@pytest.fixture(scope="module")
def task():
    train, holdout = made_batches(8, 0), made_batches(8, 1)
    return classification("quarters", train[0].inputs, train, BatchList(train.items[:3]), holdout)


@pytest.fixture(scope="module")
def trained(task):
    model = fresh()
    fit(model, task.objective, task.train, steps=80, optimizer=SGD(lr=0.05), precision="32-true")
    return model.eval()


def loss_on(model, batches):
    return sum(
        nn.functional.cross_entropy(o, b.target).item()
        for o, b in zip(outputs_on(model, batches), batches, strict=True)
    )


def divergence(task, a, b):
    pairs = zip(outputs_on(a, task.holdout), outputs_on(b, task.holdout), strict=True)
    return sum(float(task.divergence(x, y)) for x, y in pairs) / len(task.holdout)


STEPS = [
    Quantize(),
    Quantize(bits=3, granularity=PerGroup(8), first_last_bits=8),
    Quantize(bits=4, symmetric=False, granularity=PerTensor(), range=Percentile(99.5), ignore=("8",)),
    Quantize(activations=Activations(bits=8), range=MinMax()),
    Quantize(bits=6, activations=Activations(6, MinMax(), symmetric=True)),
    RateQuantize({"0.weight": 0.01, "6.weight": 0.02}),
    RateQuantize({"0.weight": 0.01, "6.weight": 0.02}, rounding="rate"),
    RateQuantize({"0.weight": 0.01, "6.weight": 0.02}, rounding="trellis"),
    CompactSmall(),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step)[:40])
class TestSteps:
    def test_leaves_the_given_network(self, step, trained, task):
        before, names = copy.deepcopy(trained.state_dict()), [n for n, _ in trained.named_modules()]
        flags = [module.training for module in trained.modules()]
        step(trained, task)
        after = trained.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert [n for n, _ in trained.named_modules()] == names
        assert [module.training for module in trained.modules()] == flags
        assert all(p.requires_grad for p in trained.parameters())

    def test_decoded_network_computes_the_same(self, step, trained, task):
        small = step(trained, task)
        with torch.no_grad():
            assert torch.equal(baked(small)(task.example), small.eval()(task.example))

    def test_is_close_to_the_network_before(self, step, trained, task):
        assert divergence(task, trained, step(trained, task)) < 0.05

    def test_survives_a_recipe(self, step, trained, task):
        again = from_data(to_data(step), TYPES)
        assert again == step
        assert repr(step) == repr(again)

    def test_repeats(self, step, trained, task):
        first, second = step(trained, task), step(trained, task)
        with torch.no_grad():
            assert torch.equal(first.eval()(task.example), second.eval()(task.example))


def test_bits_bound_the_symbols(trained, task):
    small = Quantize(bits=3, first_last_bits=6, ignore=("6",))(trained, task)
    reach = {n: int(abs(r.stored().symbols).max()) for n, r in small.reparams.items()}
    assert reach == {"0.weight": 31, "3.weight": 3, "8.weight": 31}
    assert isinstance(stored_state(small)["6.weight"].grid, Raw)


def test_more_bits_diverge_less(trained, task):
    found = [divergence(task, trained, Quantize(bits=bits)(trained, task)) for bits in (2, 3, 4, 6, 8)]
    assert found == sorted(found, reverse=True)


def test_pruned_weights_stay_zero_and_masked(trained, task):
    masks = {n: effective_weight(trained, n).abs() > 0.1 for n in modules.weight_names(trained)}
    pruned = reparametrize(trained, {n: Masked(source(trained, n), mask) for n, mask in masks.items()})
    for step in (
        Quantize(bits=4),
        Quantize(bits=4, symmetric=False),
        RateQuantize({"0.weight": 0.01}, "trellis"),
    ):
        small = step(pruned, task)
        for name, mask in masks.items():
            assert not bool(effective_weight(small, name)[~mask].any())
            assert bool(effective_weight(small, name)[mask].any())


def test_activation_quantizers_are_edits_that_a_file_can_hold(trained, task):
    small = Quantize(bits=4, activations=Activations(4))(trained, task)
    decoded = baked(small).eval()
    found = edits.difference(fresh(1), decoded)
    assert [edit.name for edit in found] == [f"{n}.input_quantizer" for n in ("0", "3", "6", "8")]
    again = edits.apply(fresh(1), found).eval()
    again.load_state_dict(decoded.state_dict())
    with torch.no_grad():
        wanted = small.eval()(task.example)
        assert torch.equal(again(task.example), wanted)
    assert not torch.equal(outputs_on(Quantize(bits=4)(trained, task), task.holdout)[0], wanted)


def test_first_and_last_activations_get_their_bits(trained, task):
    small = Quantize(bits=4, activations=Activations(4), first_last_bits=8, ignore=("6",))(trained, task)
    bits = {n: m.bits for n, m in plain(small).named_modules() if isinstance(m, InputQuantizer)}
    assert bits == {"0.input_quantizer": 8, "3.input_quantizer": 4, "8.input_quantizer": 8}


def test_activation_grids_hold_zero_exactly_and_cover_the_samples():
    samples = torch.randn(1000, generator=torch.Generator().manual_seed(0)) + 2
    for symmetric in (False, True):
        quantizer = fitted_quantizer(samples, 8, Activations(8, MinMax(), symmetric)).requires_grad_(False)
        assert float(quantizer(torch.zeros(1))) == 0.0
        assert float((quantizer(samples) - samples).abs().max()) <= float(quantizer.scale) * 0.501
    relu = fitted_quantizer(samples.relu(), 4, Activations(4, MinMax()))
    assert float(relu.zero_point) == 0.0


def test_embeddings_and_layers_out_of_reach_get_no_activation_quantizer(task):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head, self.unused = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, tokens):
            return self.head(self.embed(tokens).mean(1))

    tokens = BatchList((Batch(torch.arange(10).reshape(2, 5) % 5),))
    texts = replace(task, example=tokens[0].inputs, calibration=tokens)
    small = Quantize(activations=Activations())(Tokens(), texts)
    attached = [n for n, m in plain(small).named_modules() if isinstance(m, InputQuantizer)]
    assert attached == ["head.input_quantizer"]
    assert set(small.reparams) == {"embed.weight", "head.weight", "unused.weight"}


@pytest.mark.parametrize("learn_step", [False, True])
def test_training_aware_of_rounding_beats_rounding_after(trained, task, learn_step):
    how = Quantize(bits=2, activations=Activations(2))
    after = how(trained, task)
    aware = replace(how, aware=Aware(steps=40, lr=0.02, learn_step=learn_step))(trained, task)
    assert loss_on(aware, task.train) < 0.8 * loss_on(after, task.train)
    learned = [n for n, r in aware.reparams.items() if isinstance(r, LearnedScale)]
    assert len(learned) == (4 if learn_step else 0)
    moved = not torch.equal(aware.reparams["6.weight"].scale, after.reparams["6.weight"].scale)
    assert moved == learn_step
    with torch.no_grad():
        assert torch.equal(baked(aware).eval()(task.example), aware.eval()(task.example))


def test_rate_quantized_networks_train(trained, task):
    for rounding in ("nearest", "rate", "trellis"):
        coarse = RateQuantize(dict.fromkeys(modules.weight_names(trained), 0.4), rounding)(trained, task)
        before = loss_on(coarse, task.train)
        fit(coarse, task.objective, task.train, steps=20, optimizer=SGD(lr=0.02))
        assert loss_on(coarse, task.train) < 0.95 * before
        with torch.no_grad():
            assert torch.equal(baked(coarse).eval()(task.example), coarse.eval()(task.example))


def test_trellis_is_left_where_zeros_are_many(trained, task):
    sparse = copy.deepcopy(trained)
    with torch.no_grad():
        sparse[0].weight[:4] = 0.0
    small = RateQuantize({"0.weight": 0.05, "6.weight": 0.05}, "trellis")(sparse, task)
    assert isinstance(small.reparams["0.weight"], RateQuantized)
    assert isinstance(small.reparams["6.weight"], TrellisQuantized)
    assert small.reparams["6.weight"].step == small.reparams["0.weight"].step / 2


def test_small_tensors_take_the_cheapest_harmless_form(trained, task):
    model = copy.deepcopy(trained)
    model[1].weight.data.fill_(1.25)
    model[1].running_var[0] = 1e-4
    small = CompactSmall()(model, task)
    assert isinstance(small.reparams["1.weight"], Constant)
    assert isinstance(small.reparams["1.running_var"], HalfPrecision)
    assert "1.num_batches_tracked" not in small.reparams
    assert not set(modules.weight_names(model)) & set(small.reparams)
    decoded = baked(small)
    assert bool((decoded[1].running_var > 0).all())
    for name, exact in model.state_dict().items():
        error = (decoded.state_dict()[name].double() - exact.double()).square().sum()
        assert float(error) <= 1.01e-5 * float(exact.double().square().sum())


def test_small_tensors_keep_to_the_bound_on_divergence(trained, task):
    loose = CompactSmall(tolerance=0.5)(trained, task)
    bound = 1e-4
    checked = CompactSmall(tolerance=0.5, divergence=bound)(trained, task)
    on_calibration = replace(task, holdout=task.calibration)
    assert divergence(on_calibration, trained, loose) > bound
    assert divergence(on_calibration, trained, checked) <= bound
    exact = CompactSmall(divergence=0.0)(trained, task)
    assert abs(divergence(on_calibration, trained, exact)) < 1e-8


def test_small_tensors_after_activation_quantizers_change_nothing_there(trained, task):
    first = Quantize(activations=Activations(4))(trained, task)
    second = CompactSmall()(first, task)
    for name, module in plain(first).named_modules():
        if isinstance(module, InputQuantizer):
            for part in ("scale", "zero_point"):
                assert torch.equal(effective_weight(second, f"{name}.{part}"), getattr(module, part))
    assert "0.weight" in second.reparams


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quantize(bits=1),
        lambda: Quantize(bits=9),
        lambda: Quantize(first_last_bits=16),
        lambda: Activations(bits=1),
        lambda: PerGroup(0),
        lambda: Percentile(20),
        lambda: MSE(0),
        lambda: Aware(steps=0),
        lambda: RateQuantize({"0.weight": 0.0}),
        lambda: RateQuantize({"0.weight": float("nan")}),
        lambda: RateQuantize({}, rounding="up"),
        lambda: RateQuantize({}, dead_zone=0.4),
        lambda: CompactSmall(tolerance=-1.0),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()


def test_unknown_names_are_refused(trained, task):
    with pytest.raises(InputError, match=r"0\.weight"):
        RateQuantize({"0.weigth": 0.1})(trained, task)
    with pytest.raises(InputError, match="ignore"):
        Quantize(ignore=("nothing",))(trained, task)
    with pytest.raises(InputError, match="calibration"):
        Quantize(activations=Activations())(trained, replace(task, calibration=BatchList(())))


@pytest.mark.slow
@pytest.mark.data
def test_resnet20_at_four_bits_loses_at_most_three_points(data_root):
    model = open_model("resnet20", weights=data_root / "models" / "cifar10_resnet20.safetensors")
    cifar = open_task("cifar10", data_root / "cifar10")
    small = Quantize(bits=4)(FoldBatchNorm()(model, cifar), cifar)
    scores = [evaluate(network, cifar).score for network in (model, baked(small))]
    assert scores[0] > 0.9
    assert scores[1] >= scores[0] - 0.03


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("grid", [None, DoReFa(3)], ids=["uniform", "DoReFa"])
def test_weights_that_are_no_numbers_are_refused(grid: Any, wrong: float) -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[1, 2] = wrong
    task = classification("none", torch.zeros(1, 4), *[BatchList(())] * 3)
    with pytest.raises(WeightsError, match="NaN or infinity"):
        Quantize(3, grid=grid)(layer, task)
