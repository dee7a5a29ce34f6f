"""Ranges of weights by output error."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from plisse.compress.quantize.fake import FakeQuantized
from plisse.compress.quantize.grids import Format, PerChannel, PerGroup, PerTensor
from plisse.compress.quantize.output import OutputMSE, refit
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MSE, MinMax
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import Plain, plain
from plisse.errors import InputError
from plisse.train.task import classification


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, stride=2, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 5)).eval()


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(24, 4, 6, 6, generator=generator) for _ in range(2)]  # means that do not cancel
    batches = BatchList(tuple(Batch(part) for part in images))
    return classification("made", batches[0].inputs, batches, batches, batches)


GRANULARITIES = [PerTensor(), PerChannel(), PerGroup(16)]


def errors_of_outputs(model, quantized, task):
    """Squared error that each weight alone makes at the output of its layer, for the original's inputs."""
    found = []
    for name in ("0", "2", "5"):
        layer = model.get_submodule(name)
        change = copy.deepcopy(layer)
        inputs = []
        handle = layer.register_forward_pre_hook(lambda _, args, kept=inputs: kept.append(args[0]))
        with torch.no_grad():
            for batch in task.calibration:
                model(batch.inputs)
            handle.remove()
            change.weight.copy_(quantized.reparams[f"{name}.weight"]())
            found.append(sum(float((change(x) - layer(x)).double().square().sum()) for x in inputs))
    return torch.tensor(found)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_outputs_are_off_by_less_than_with_other_ranges(task, granularity, symmetric):
    model = network()
    how = Quantize(bits=3, symmetric=symmetric, granularity=granularity, range=MinMax())
    by_output = errors_of_outputs(model, replace(how, rounding=OutputMSE())(model, task), task)
    widest = errors_of_outputs(model, how(model, task), task)
    by_weight = errors_of_outputs(model, replace(how, range=MSE())(model, task), task)
    slack = 1.2 if isinstance(granularity, PerGroup) else 1 + 1e-4  # groups are taken as independent
    assert bool((by_output <= widest * slack).all())
    assert float(by_output.sum()) < 0.95 * float(widest.sum())
    assert float(by_output.sum()) < float(by_weight.sum())


def test_the_share_is_that_of_a_fine_scan():
    torch.manual_seed(0)
    layer = nn.Linear(12, 1, bias=False)
    x = torch.rand(500, 12)
    form = Format(3)
    fake = FakeQuantized(Plain(layer.weight), form, PerChannel(), MinMax())
    reach = float(layer.weight.detach().abs().max())

    def error():
        return float(((fake() - layer.weight).detach() @ x.T).square().mean())

    errors = []
    for share in torch.linspace(0.1, 1, 200):
        fake.scale.data.fill_(float(share) * reach / 3)
        errors.append(error())
    with torch.no_grad():
        refit(fake, layer, (x.T @ x / 500)[None])
    assert error() <= min(errors) * 1.05


def test_zero_inputs_leave_the_whole_range(task):
    model = network()
    dark = replace(task, calibration=BatchList((Batch(torch.zeros(2, 4, 6, 6)),)))
    how = Quantize(bits=4, range=MinMax())
    plainly, ranged = how(model, task), replace(how, rounding=OutputMSE())(model, dark)
    assert torch.equal(ranged.reparams["0.weight"].scale, plainly.reparams["0.weight"].scale)


@dataclass(frozen=True)
class Marking:
    """A rounding that leaves a mark."""

    def __call__(self, quantized, original, task):
        quantized.came_by = True
        return quantized


def test_another_rounding_goes_on_from_there_and_arguments_stay(task):
    model = network()
    quantized = Quantize(bits=3, range=MinMax(), ignore=("5",))(model, task)
    before = copy.deepcopy(quantized.state_dict())
    found = OutputMSE(samples=10, then=Marking())(quantized, model, task)
    assert found.came_by
    assert all(torch.equal(value, before[name]) for name, value in quantized.state_dict().items())
    assert not torch.equal(found.reparams["0.weight"].scale, quantized.reparams["0.weight"].scale)
    assert "5.weight" not in found.reparams
    assert all(torch.equal(v, plain(found).state_dict()[n]) for n, v in model.state_dict().items())
    stored = found.reparams["2.weight"].stored()
    assert torch.equal(torch.from_numpy(stored.values()), found.reparams["2.weight"]().detach())


def test_what_cannot_be_seen_is_refused(task):
    model = network()
    with pytest.raises(InputError, match="expected"):
        OutputMSE(samples=0)
    broken = torch.full((2, 4, 6, 6), float("nan"))
    for batches, match in ((BatchList(()), "calibration"), (BatchList((Batch(broken),)), "NaN")):
        with pytest.raises(InputError, match=match):
            Quantize(bits=3, rounding=OutputMSE())(model, replace(task, calibration=batches))
