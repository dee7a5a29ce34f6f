"""The contract of training with rounding: every variant learns, ends on its grid, is pure and can be written.
Add yours to VARIANTS."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware.dorefa import DoReFa, UnitInterval
from plisse.compress.quantize.aware.estimators import (
    Clipped,
    ElementwiseScaled,
    PolynomialStep,
    PowerStep,
    RandomRounding,
    SoftStep,
)
from plisse.compress.quantize.aware.folded import FoldForTraining
from plisse.compress.quantize.aware.inputs import PACT, LearnedStep, LogThreshold
from plisse.compress.quantize.aware.interval import LearnedInterval
from plisse.compress.quantize.aware.noise import AdditiveNoise, QuantNoise, Softened
from plisse.compress.quantize.aware.oscillation import DampOscillating, FreezeOscillating
from plisse.compress.quantize.aware.proximal import Proximal, Relaxed
from plisse.compress.quantize.aware.ramp import Stage
from plisse.compress.quantize.aware.settings import Aware
from plisse.compress.quantize.aware.softer import AlphaBlending, LossAware, Staircase
from plisse.compress.quantize.aware.train import train_quantized
from plisse.compress.quantize.codebooks.binary import Binary, LossAwareBinary
from plisse.compress.quantize.codebooks.lossaware import LossAwareTernary
from plisse.compress.quantize.codebooks.ternary import Ternary, TrainedTernary
from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.intervals import Intervals, Signs
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MeanMagnitude
from plisse.compress.step import Chain, Step, chain
from plisse.core.batch import Batch, BatchList, call
from plisse.core.fakequant import InputQuantizer
from plisse.core.modules import evaluating
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import Reparametrized, baked
from plisse.errors import InputError
from plisse.train.loop import fit
from plisse.train.optimizers import SGD, AdamW
from plisse.train.task import Task, classification

ORIGIN = Origin("builtin", "small", {})
STEPS = 15


class Small(nn.Module):
    """[N, 1, 6, 6] to [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.head(torch.relu(self.bn3(self.conv3(x))).mean((2, 3)))


def aware(bits: int = 2, range=None, grid=None, symmetric=True, **settings) -> Quantize:
    return Quantize(
        bits=bits,
        symmetric=symmetric,
        range=MeanMagnitude(),
        grid=grid,
        activations=Activations(3, range or MeanMagnitude()),
        first_last_bits=8,
        aware=Aware(STEPS, **{"lr": 0.02, "precision": "32-true", **settings}),
    )


def signs(activations, grid=Binary(), **settings) -> Quantize:
    return replace(aware(grid=grid, **settings), activations=activations)


VARIANTS: list[tuple[str, Step]] = [
    ("lsq", aware()),
    ("affine", aware(symmetric=False)),
    ("fixed scales", aware(learn_step=False)),
    ("lsq+", aware(bits=3, inputs=LearnedStep(offset=True))),
    ("slow scales", aware(scale_lr=0.1)),
    ("adamw", aware(optimizer=AdamW(), lr=0.002, scale_lr=0.2)),
    ("pact", aware(bits=3, inputs=PACT(1e-3))),
    ("log thresholds", aware(bits=3, inputs=LogThreshold(), ramp=(Stage(4, 5),))),
    ("clipped", aware(bits=3, estimator=Clipped(3.0))),
    ("polynomial", aware(bits=3, estimator=Clipped(4.0, polynomial=True))),
    ("ewgs", aware(estimator=ElementwiseScaled(0.1))),
    ("soft step", aware(estimator=SoftStep(0.3))),
    ("stochastic", aware(bits=3, estimator=RandomRounding())),
    ("quant noise", aware(soften=QuantNoise(0.5, 3))),
    ("additive noise", aware(soften=AdditiveNoise(0.5))),
    ("proximal", aware(soften=Proximal(0.05))),
    ("relaxed", aware(soften=Relaxed(1.0, 0.6))),
    ("staircase", aware(soften=Staircase())),
    ("alpha blending", aware(soften=AlphaBlending(0.7))),
    ("loss-aware binary", aware(grid=LossAwareBinary(), soften=LossAware())),
    ("loss-aware ternary", aware(grid=LossAwareTernary(), soften=LossAware(0.9))),
    ("freeze", aware(oscillation=FreezeOscillating(0.1, 0.1))),
    ("damp", aware(oscillation=DampOscillating(1e-3))),
    ("ramp", aware(ramp=(Stage(4, 10), Stage(3, 10, 0.01)))),
    ("ramp, pact", aware(ramp=(Stage(4, 10),), inputs=PACT(1e-3))),
    ("ramp, lsq+", aware(ramp=(Stage(4, 10),), inputs=LearnedStep(offset=True), symmetric=False)),
    ("bi-real", signs(Signs("tensor", "signed"), estimator=PolynomialStep())),
    ("react", signs(Signs(), estimator=PowerStep(2.0))),
    ("one-bit inputs from zero", signs(Signs("channel", "unsigned"))),
    ("adabin", signs(Signs("tensor", "free"), scale_lr=0.1)),
    ("xnor++", signs(Signs(), grid=Binary("learned"), estimator=PolynomialStep())),
    ("qil", signs(Intervals(3), grid=LearnedInterval(2))),
    ("polynomial step", aware(estimator=PolynomialStep())),
    ("power step", aware(estimator=PowerStep(2.0))),
    ("folded", chain(FoldForTraining(), aware(bits=3, lr=0.01))),
    ("dorefa", aware(grid=DoReFa(2), range=UnitInterval(), learn_step=False, lr=0.1)),
    ("binary", aware(grid=Binary())),
    ("ternary", aware(grid=Ternary())),
    ("trained ternary", aware(grid=TrainedTernary())),
    ("binary, noise", aware(grid=Binary(), soften=QuantNoise(0.5))),
    ("ternary, proximal", aware(grid=Ternary(), soften=Proximal(0.05))),
]
NAMES = [name for name, _ in VARIANTS]


@cache
def task() -> Task:
    draw = torch.Generator().manual_seed(5)
    prototypes = torch.randn(4, 1, 6, 6, generator=draw)
    labels = [torch.randint(4, (32,), generator=draw) for _ in range(4)]
    batches = tuple(Batch(prototypes[y] + 0.7 * torch.randn(32, 1, 6, 6, generator=draw), y) for y in labels)
    data = BatchList(batches)
    return classification("planted", batches[0].inputs, data, BatchList(batches[:2]), data)


@cache
def original() -> nn.Module:
    torch.manual_seed(0)
    model = with_origin(Small(), ORIGIN)
    fit(model, task().objective, task().train, steps=60, optimizer=SGD(lr=0.05), precision="32-true")
    return model.eval()


@cache
def trained(name: str) -> nn.Module:
    return dict(VARIANTS)[name](original(), task())


def loss(model: nn.Module) -> float:
    with evaluating(model), torch.no_grad():
        return float(torch.stack([task().objective(model, batch).total for batch in task().train]).mean())


def untrained(step: Step) -> nn.Module:
    """What the same step gives without training."""
    model = original()
    for part in step.steps if isinstance(step, Chain) else (step,):
        model = (replace(part, aware=None) if isinstance(part, Quantize) else part)(model, task())
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    assert loss(trained(name)) < loss(untrained(dict(VARIANTS)[name]))


@pytest.mark.parametrize("name", NAMES)
def test_ends_on_the_grid_and_leaves_nothing_of_the_training(name: str) -> None:
    model = trained(name)
    assert isinstance(model, Reparametrized)
    assert not any(isinstance(module, Softened) for module in model.modules())
    for weight, reparam in model.reparams.items():
        assert np.array_equal(reparam.stored().values(), reparam().detach().numpy()), weight
        if isinstance(reparam, FakeQuantized):
            assert reparam.training_rounding is None
            assert len(np.unique(reparam.stored().symbols)) <= 2**reparam.form.bits
    for quantizer in (module for module in model.modules() if isinstance(module, InputQuantizer)):
        assert quantizer.training_form is None
        assert quantizer.bits in (3, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_same_outputs(name: str) -> None:
    model, inputs = trained(name), task().example
    found = modelfile.loads(modelfile.dumps(model, Small()), lambda _: Small())
    with evaluating(model), evaluating(found), torch.no_grad():
        assert torch.equal(call(found, inputs), call(baked(model), inputs))
        assert torch.allclose(call(found, inputs), call(model, inputs), atol=1e-5)


@pytest.mark.parametrize("name", NAMES[:: len(NAMES) // 3])
def test_the_given_network_stays_and_a_second_run_gives_the_same(name: str) -> None:
    model = copy.deepcopy(original())
    before = copy.deepcopy(model.state_dict())
    again = dict(VARIANTS)[name](model, task())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(isinstance(module, InputQuantizer) for module in model.modules())
    with evaluating(again), evaluating(trained(name)), torch.no_grad():
        assert torch.equal(call(again, task().example), call(trained(name), task().example))


def test_a_ramp_starts_wide_and_ends_at_the_bits_asked_for() -> None:
    model = trained("ramp")
    assert isinstance(model, Reparametrized)
    bits = {n: r.form.bits for n, r in model.reparams.items() if isinstance(r, FakeQuantized)}
    assert bits == {"conv1.weight": 8, "conv2.weight": 2, "conv3.weight": 2, "head.weight": 8}
    quantizers = {n: m.bits for n, m in model.model.named_modules() if isinstance(m, InputQuantizer)}
    assert sorted(quantizers.values()) == [3, 3, 8, 8]


def test_log_thresholds_end_as_powers_of_two() -> None:
    scales = [
        float(m.scale.detach()) for m in baked(trained("log thresholds")).modules() if hasattr(m, "top")
    ]
    assert len(scales) == 4
    assert all(math.log2(scale) == round(math.log2(scale)) for scale in scales)


def test_the_stages_of_a_ramp_are_given_as_networks_of_their_own() -> None:
    how, seen = Aware(3, ramp=(Stage(4, 3), Stage(3, 3)), precision="32-true"), []
    start = Quantize(bits=2, activations=Activations(2), first_last_bits=8)(original(), task())
    assert isinstance(start, Reparametrized)
    end = train_quantized(start, task(), how, lambda stage, model: seen.append((stage.bits, model)))
    assert [bits for bits, _ in seen] == [4, 3]
    for bits, model in [*seen, (2, end)]:
        assert model.reparams["conv2.weight"].form.bits == bits
        assert model.model.conv2.input_quantizer.bits == bits
        assert model.reparams["conv1.weight"].form.bits == 8


def test_offsets_are_learned_and_whole() -> None:
    model = trained("lsq+")
    zeros = [m.zero_point for m in baked(model).modules() if isinstance(m, InputQuantizer)]
    assert len(zeros) == 4
    assert all(float(zero) == round(float(zero)) for zero in zeros)
    assert isinstance(model, Reparametrized)
    learned = [
        float(r.zero.detach()) for r in model.reparams.values() if hasattr(r, "top") and hasattr(r, "zero")
    ]
    assert any(zero != round(zero) for zero in learned)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Aware(0),
        lambda: Aware(10, scale_lr=0.0),
        lambda: Aware(10, scale_lr=float("nan")),
        lambda: Stage(9, 10),
        lambda: Stage(1, 10),
        lambda: Stage(4, 0),
        lambda: PACT(-1.0),
        lambda: PACT(float("nan")),
        lambda: DoReFa(1),
        lambda: LearnedInterval(1),
        lambda: Intervals(9),
        lambda: Signs("row"),
        lambda: Signs(kind="odd"),
        lambda: QuantNoise(0.0),
        lambda: QuantNoise(0.5, 0),
        lambda: QuantNoise(1.5),
        lambda: AdditiveNoise(-0.1),
        lambda: LossAware(1.0),
        lambda: Staircase(0.0),
        lambda: AlphaBlending(0.0),
        lambda: Proximal(0.0),
        lambda: Proximal(float("inf")),
        lambda: Relaxed(1.0, 0.0),
        lambda: Relaxed(-1.0),
        lambda: FreezeOscillating(threshold=0.0),
        lambda: FreezeOscillating(momentum=2.0),
        lambda: DampOscillating(-1.0),
    ],
)
def test_numbers_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError):
        make()
