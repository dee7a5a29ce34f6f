"""Outlier channel splitting."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.notes import notes_of
from plisse.compress.pairs import by_input_channel
from plisse.compress.quantize.grids import PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.ranges import MinMax
from plisse.compress.split import SplitOutliers, copies
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, with_origin
from plisse.errors import InputError
from plisse.train.task import classification

ORIGIN = Origin("builtin", "made", {})


def fresh():
    layers = [nn.Conv2d(2, 10, 3, bias=False), nn.ReLU(), nn.Conv2d(10, 8, 3, stride=2), nn.ReLU()]
    return with_origin(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4, 3)), ORIGIN).eval()


def network():
    torch.manual_seed(0)
    model = fresh()
    with torch.no_grad():
        model[2].weight[1, 4, 0, 0] = 3.0
        model[5].weight[0, 9] = -4.0  # channel 2
    return model


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(0)
    batches = BatchList((Batch(torch.randn(32, 2, 7, 7, generator=generator)),))
    return classification("made", batches[0].inputs, batches, batches, batches)


def test_outputs_stay_and_outliers_halve(task):
    model = network()
    state = copy.deepcopy(model.state_dict())
    wide = SplitOutliers(0.1)(model, task)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        wanted, found = model(task.example), wide(task.example)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert [tuple(wide[i].weight.shape[:2]) for i in (0, 2, 5)] == [(11, 2), (9, 11), (3, 36)]
    assert float(wide[2].weight.detach().abs().max()) == pytest.approx(1.5)
    assert float(wide[5].weight.detach().abs().max()) == pytest.approx(2.0)
    whole = by_input_channel(wide[5], 9)[0]
    torch.testing.assert_close(whole[:, 2], by_input_channel(model[5], 8)[0][:, 2] / 2)
    assert torch.equal(whole[:, 2], whole[:, 3])
    assert notes_of(wide) == ("'0' and '2' split by 10%", "'2' and '5' split by 10%")


def test_rounding_hurts_less_and_the_file_holds_the_widths(task):
    model = network()
    coarse = Quantize(bits=5, granularity=PerTensor(), range=MinMax())
    wide = SplitOutliers(0.2)(model, task)
    with torch.no_grad():
        wanted = model(task.example)
        errors = [float((coarse(m, task)(task.example) - wanted).square().mean()) for m in (model, wide)]
        assert errors[1] < 0.6 * errors[0]
        small = coarse(wide, task)
        found = modelfile.loads(modelfile.dumps(small, fresh()), lambda _: fresh())
        assert torch.equal(found(task.example), small(task.example))


def test_the_largest_weight_left_is_next():
    largest = torch.tensor([8.0, 3.0, 1.0])
    for added in range(1, 12):
        before, after = copies(largest, added - 1), copies(largest, added)
        assert int(after.sum()) == 3 + added
        assert float((largest / after).max()) <= float((largest / before).max())
    assert copies(largest, 5).tolist() == [5, 2, 1]


def test_groups_and_shares_out_of_range_are_left_or_refused(task):
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)).eval()
    same = SplitOutliers(0.5)(grouped, task)
    assert repr(same) == repr(grouped)
    assert "nothing split" in notes_of(same)[0]
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="share"):
            SplitOutliers(share)
