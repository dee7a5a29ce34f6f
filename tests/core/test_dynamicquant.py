"""Quantizers that find their range as the network runs, and factors at the input of a layer."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.quantize.activations import Activations, quantize_inputs
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax, MovingAverage
from plisse.core.batch import Batch, BatchList
from plisse.core.dynamicquant import DynamicQuantizer
from plisse.core.edits import Edit, apply
from plisse.core.fakequant import InputQuantizer
from plisse.core.inputscale import InputScale
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import baked
from plisse.errors import FormatError, InputError
from plisse.train.task import classification

ORIGIN = Origin("builtin", "made", {})


def fresh() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3)]
    return with_origin(nn.Sequential(*layers), ORIGIN).eval()


def build(origin: Origin) -> nn.Module:
    return fresh()


def trained() -> nn.Module:
    torch.manual_seed(0)
    return fresh()


def batches() -> BatchList:
    generator = torch.Generator().manual_seed(1)
    return BatchList(tuple(Batch(torch.randn(6, 1, 4, 4, generator=generator)) for _ in range(3)))


@pytest.mark.parametrize("dynamic", ["tensor", "row"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_network_with_dynamic_ranges_travels_through_a_file(dynamic, symmetric):
    task = classification("made", batches()[0].inputs, batches(), BatchList(()), batches())
    how = Activations(4, symmetric=symmetric, dynamic=dynamic)
    small = Quantize(bits=4, activations=how, first_last_bits=8)(trained(), task)
    found = modelfile.loads(modelfile.dumps(small, fresh()), build)
    with torch.no_grad():
        assert torch.equal(found(task.example), baked(small).eval()(task.example))
        assert not torch.equal(found(task.example), trained()(task.example))
    units = [m.unit for m in found.modules() if isinstance(m, DynamicQuantizer)]
    assert units == (["tensor"] * 3 if dynamic == "tensor" else ["sample", "row", "row"])
    assert [m.bits for m in found.modules() if isinstance(m, DynamicQuantizer)] == [8, 4, 8]


@pytest.mark.parametrize("scale_first", [True, False])
def test_a_factor_comes_before_the_quantizer_and_travels_through_a_file(scale_first):
    model = trained()
    scale, quantizer = InputScale(64), DynamicQuantizer(4)
    with torch.no_grad():
        scale.factor.copy_(torch.linspace(0.1, 4, 64))
    for part in (scale, quantizer) if scale_first else (quantizer, scale):
        part.attach(model[3])
    found = modelfile.loads(modelfile.dumps(model, fresh()), build)
    value = torch.randn(5, 64)
    with torch.no_grad():
        plain = nn.functional.linear(quantizer(value * scale.factor), model[3].weight, model[3].bias)
        assert torch.equal(model[3](value), plain)
        assert torch.equal(found[3](value), plain)
        assert torch.equal(copy.deepcopy(model)[3](value), plain)


@pytest.mark.parametrize(
    "edit",
    [
        Edit("3.input_quantizer", "DynamicQuantizer", {"bits": 4, "unit": "odd", "symmetric": False}),
        Edit("3.input_quantizer", "DynamicQuantizer", {"bits": 1, "unit": "row", "symmetric": False}),
        Edit("3.input_quantizer", "DynamicQuantizer", {"bits": 4, "unit": "row", "symmetric": 1}),
        Edit("3.input_scale", "DynamicQuantizer", {"bits": 4, "unit": "row", "symmetric": False}),
        Edit("3.input_quantizer", "InputScale", {"width": 64}),
        Edit("3.input_scale", "InputScale", {"width": 1 << 30}),
        Edit("3.input_scale", "Identity", {}),
    ],
    ids=str,
)
def test_hostile_edits_are_refused(edit):
    from plisse.bitstream.head import Head
    from plisse.bitstream.rebuild import rebuild

    with pytest.raises(FormatError):
        rebuild(Head(ORIGIN, (edit,), 0, 0, {}), build)


def test_edits_replace_a_quantizer_that_hangs_there():
    model = trained()
    InputQuantizer(4, 0.1).attach(model[3])
    apply(model, (Edit("3.input_quantizer", "DynamicQuantizer", {"bits": 8}),))
    value = torch.randn(2, 64)
    assert isinstance(model[3].input_quantizer, DynamicQuantizer)
    torch.testing.assert_close(model[3](value), trained()[3](value), atol=0.02, rtol=0)


@pytest.mark.parametrize("unit", ["tensor", "sample", "row"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_nothing_is_off_by_more_than_half_a_step_and_zero_is_exact(unit, symmetric):
    value = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0))
    value[..., 0] = 0.0
    value[1] *= 100
    found = DynamicQuantizer(4, unit, symmetric)(value)
    axes = {"tensor": (0, 1, 2), "sample": (1, 2), "row": (2,)}[unit]
    wide = value.abs().amax(axes, keepdim=True) / 7
    if not symmetric:
        wide = (value.amax(axes, keepdim=True) - value.amin(axes, keepdim=True)) / 15
    slack = 0.5 if symmetric else 1.0  # the zero point rounds, so one end may lie half a step outside
    assert bool(((found - value).abs() <= wide * slack * 1.001).all())
    assert not bool(found[..., 0].any())
    assert len(found[0, 0].unique()) <= 16


def test_rows_and_samples_do_not_see_each_other():
    value = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    for unit in ("sample", "row"):
        quantizer = DynamicQuantizer(3, unit)
        assert torch.equal(quantizer(value)[1:2], quantizer(value[1:2]))
    assert torch.equal(DynamicQuantizer(3, "row")(value)[:, 2:3], DynamicQuantizer(3, "row")(value[:, 2:3]))


def test_the_gradient_passes_and_types_stay():
    value = torch.randn(4, 8, requires_grad=True)
    DynamicQuantizer(2, "row")(value).sum().backward()
    assert torch.equal(value.grad, torch.ones(4, 8))
    assert DynamicQuantizer(8)(value.detach().half()).dtype == torch.float16
    assert DynamicQuantizer(8)(torch.zeros(0, 3)).shape == (0, 3)
    assert not bool(DynamicQuantizer(8)(torch.zeros(2, 3)).any())


@pytest.mark.parametrize(
    "make",
    [lambda: DynamicQuantizer(1), lambda: DynamicQuantizer(4, "token"), lambda: Activations(dynamic="x")],
)
def test_what_is_no_setting_is_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_calibration_that_is_not_finite_is_refused_with_the_layer(broken):
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 2, 2] = broken
    with pytest.raises(InputError, match=r"entering '0' in calibration batch 3"):
        quantize_inputs(trained(), BatchList((*batches().items, Batch(images))), Activations(), {})


def test_calibration_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"shape \(2, 3, 4, 4\)"):
        quantize_inputs(trained(), BatchList((Batch(torch.zeros(2, 3, 4, 4)),)), Activations(), {})


def test_a_moving_average_sees_the_batches():
    calm = BatchList(tuple(Batch(torch.full((2, 1, 4, 4), 1.0)) for _ in range(3)))
    wild = BatchList((*calm.items, Batch(torch.full((2, 1, 4, 4), 11.0))))
    scales = {}
    for name, chosen in {"whole": MinMax(), "moving": MovingAverage(0.9)}.items():
        model = trained()
        quantize_inputs(model, wild, replace(Activations(8), range=chosen), {}, ignore=("3", "4"))
        scales[name] = float(model[0].input_quantizer.scale) * 255
    assert scales["whole"] == pytest.approx(11, rel=0.01)
    assert scales["moving"] == pytest.approx(2, rel=0.01)
