"""Joint ranges by divergence."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware import Aware
from plisse.compress.quantize.grids import PerChannel, PerGroup
from plisse.compress.quantize.lapq import LAPQ, divergence
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE
from plisse.core.batch import Batch, BatchList
from plisse.core.fakequant import InputQuantizer
from plisse.core.reparam import baked, plain
from plisse.errors import InputError
from plisse.train.task import classification, outputs_on

LOW = Quantize(bits=3, activations=Activations(3))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)).eval()


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(0)
    batches = BatchList(tuple(Batch(torch.randn(64, 10, generator=generator)) for _ in range(3)))
    return classification("made", batches[0].inputs, batches, batches, batches)


def loss(model, original, task):
    seen = BatchList(task.calibration.items[:2])
    return divergence(model, seen, outputs_on(original, seen), task)


@pytest.mark.parametrize(
    "how",
    [
        LOW,
        Quantize(bits=2),
        Quantize(bits=3, symmetric=False, granularity=PerGroup(5)),
        replace(LOW, ignore=("2",)),
    ],
    ids=str,
)
def test_outputs_diverge_less_than_with_any_norm_alone(task, how):
    model = network()
    alone = []
    for norm in (2.0, 4.0):
        inputs = how.activations and replace(how.activations, range=MSE(norm))
        alone.append(loss(replace(how, range=MSE(norm), activations=inputs)(model, task), model, task))
    picked = loss(LAPQ(how, (2.0, 4.0), passes=0)(model, task), model, task)
    searched = LAPQ(how, (2.0, 4.0))(model, task)
    assert picked == pytest.approx(min(alone), rel=1e-6)
    assert loss(searched, model, task) <= picked * (
        0.9 if how.granularity == PerChannel() and not how.ignore else 1
    )
    with torch.no_grad():
        assert torch.equal(baked(searched).eval()(task.example), searched.eval()(task.example))


def test_the_network_stays_and_scales_are_those_of_the_file(task):
    model = network()
    state = copy.deepcopy(model.state_dict())
    found = LAPQ(LOW, (2.0,))(model, task)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    scales = [r.scale for r in found.reparams.values()]
    scales += [m.scale for m in plain(found).modules() if isinstance(m, InputQuantizer)]
    assert len(scales) == 6
    assert all(torch.equal(s.detach().bfloat16().float(), s.detach()) for s in scales)
    again = LAPQ(LOW, (2.0,))(model, task)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in found.state_dict().items())


def test_dynamic_inputs_keep_their_ranges(task):
    found = LAPQ(Quantize(bits=3, activations=Activations(4, dynamic="row")), (2.0,))(network(), task)
    assert not any(isinstance(m, InputQuantizer) for m in plain(found).modules())


def test_what_cannot_be_searched_is_refused(task):
    for make in (
        lambda: LAPQ(Quantize(aware=Aware(steps=1))),
        lambda: LAPQ(norms=()),
        lambda: LAPQ(passes=-1),
        lambda: LAPQ(batches=0),
    ):
        with pytest.raises(InputError, match="expected"):
            make()
