"""Bias correction on small networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plisse.compress.correct import AnalyticBiasCorrection, BiasCorrection, clipped_mean
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.notes import notes_of
from plisse.compress.quantize.grids import PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.small import CompactSmall
from plisse.core.batch import Batch, BatchList
from plisse.core.reparam import plain
from plisse.errors import InputError
from plisse.train.task import classification


def network(norm=True, affine=True, bias=False):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3, bias=bias), nn.BatchNorm2d(6, affine=affine) if norm else nn.Identity()]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4))
    if norm:
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(0)
    batches = BatchList(tuple(Batch(torch.rand(64, 2, 6, 6, generator=generator)) for _ in range(2)))
    return classification("made", batches[0].inputs, batches, batches, batches)


def mean_after(model, task, layer):
    """Mean per channel of what `layer` of a sequence gives, over the calibration inputs."""
    found = []
    handle = plain(model)[layer].register_forward_hook(lambda _, __, output: found.append(output.detach()))
    with torch.no_grad():
        for batch in task.calibration:
            model(batch.inputs)
    handle.remove()
    return torch.cat(found).transpose(0, 1).flatten(1).mean(1)


COARSE_HEAD = Quantize(bits=2, granularity=PerTensor())
COARSE = Quantize(bits=3, granularity=PerTensor(), ignore=("4",))


@pytest.mark.parametrize(
    ("norm", "affine", "bias"), [(True, True, False), (True, False, False), (False, False, True)]
)
def test_means_are_those_of_the_network_before(task, norm, affine, bias):
    model = network(norm, affine, bias)
    rounded = COARSE(model, task)
    corrected = BiasCorrection()(rounded, task)
    wanted, off, found = (mean_after(m, task, 1) for m in (model, rounded, corrected))
    assert float((off - wanted).abs().max()) > 1e-2
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_linear_layers_are_corrected_and_the_given_network_is_left(task):
    model = network()
    rounded = RateQuantize({"4.weight": 0.2})(model, task)
    before = copy.deepcopy(rounded.state_dict())
    corrected = BiasCorrection()(rounded, task)
    assert all(torch.equal(value, before[name]) for name, value in rounded.state_dict().items())
    wanted, found = mean_after(model, task, 4), mean_after(corrected, task, 4)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_layer_with_nowhere_to_correct_is_left(task):
    rounded = COARSE(network(norm=False, bias=False), task)
    corrected = BiasCorrection()(rounded, task)
    assert all(
        torch.equal(value, rounded.state_dict()[name]) for name, value in corrected.state_dict().items()
    )


def test_computed_biases_are_left(task):
    compact = CompactSmall()(COARSE(network(), task), task)
    corrected = BiasCorrection()(compact, task)
    with torch.no_grad():
        assert torch.equal(corrected(task.example), compact(task.example))


def test_a_network_that_was_not_rounded_is_refused(task):
    with pytest.raises(InputError, match="quantized"):
        BiasCorrection()(network(), task)


class Blocks(nn.Module):
    """Rounded layers behind a batch norm with a rectifier, behind a batch norm alone, and behind a sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8)
        self.a, self.norm2 = nn.Conv2d(8, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)
        self.b, self.c = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.norm2(self.a(torch.relu(self.norm1(self.stem(x)))))
        return self.c(torch.relu(self.b(x) + x))


def blocks(task):
    torch.manual_seed(0)
    model = Blocks()
    nn.init.uniform_(model.norm1.weight, 0.5, 2.0)
    nn.init.normal_(model.norm1.bias)
    nn.init.normal_(model.norm2.bias)
    model.train()
    with torch.no_grad():  # statistics of the batches, so that norms give what they promise
        for _ in range(60):
            model(torch.randn(64, 2, 6, 6))
    return model.eval()


def test_means_from_batch_norm_take_most_of_the_shift_without_data(task):
    batches = BatchList((Batch(torch.randn(256, 2, 6, 6, generator=torch.Generator().manual_seed(3))),))
    normal = classification("made", batches[0].inputs, batches, BatchList(()), batches)
    model = blocks(task)
    rounded = Quantize(bits=3, granularity=PerTensor(), ignore=("stem",))(model, normal)
    before = copy.deepcopy(rounded.state_dict())
    corrected = AnalyticBiasCorrection()(rounded, normal)
    assert all(torch.equal(value, before[name]) for name, value in rounded.state_dict().items())
    for layer in ("norm2", "b"):
        wanted, off, found = (mean_of(m, normal, layer) for m in (model, rounded, corrected))
        assert float((off - wanted).abs().max()) > 1e-2
        assert float((found - wanted).abs().mean()) < 0.35 * float((off - wanted).abs().mean())
    assert notes_of(corrected) == ("'c' left: its input is no batch norm's",)


def mean_of(model, task, layer):
    found = []
    handle = getattr(plain(model), layer).register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        model(task.example)
    handle.remove()
    return found[0].transpose(0, 1).flatten(1).mean(1)


def test_means_pass_averages_and_flattening_but_not_maxima(task):
    for pool, reached in ((nn.AvgPool2d(2), True), (nn.MaxPool2d(2), False), (nn.LeakyReLU(), False)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), pool, nn.Flatten())
        model.append(nn.Linear(model(task.example).shape[1], 3)).eval()
        rounded = COARSE_HEAD(model, task)
        if not reached:
            with pytest.raises(InputError, match="batch norm"):
                AnalyticBiasCorrection()(rounded, task)
            continue
        change = rounded.reparams["4.weight"]() - model[4].weight
        shift = change.detach().sum(1) * (2 * torch.pi) ** -0.5
        found = plain(AnalyticBiasCorrection()(rounded, task))[4].bias
        torch.testing.assert_close(found, model[4].bias - shift)


def test_the_mean_of_a_clipped_normal_is_that_of_samples():
    samples = torch.randn(400000, 1, generator=torch.Generator().manual_seed(0))
    means, deviations = torch.tensor([-1.0, 0.0, 0.7]), torch.tensor([0.5, 1.0, 2.0])
    wanted = (samples * deviations + means).relu().mean(0)
    torch.testing.assert_close(clipped_mean(means, deviations), wanted, atol=5e-3, rtol=0)


def test_analytic_correction_refuses_what_has_no_batch_norm(task):
    model = FoldBatchNorm()(network(), task)
    with pytest.raises(InputError, match="batch norm"):
        AnalyticBiasCorrection()(COARSE(model, task), task)
    with pytest.raises(InputError, match="quantized"):
        AnalyticBiasCorrection()(network(), task)
