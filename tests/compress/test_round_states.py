"""RoundStates on networks, in files, in recipes and presets."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.notes import notes_of
from plisse.compress.quantize import presets
from plisse.compress.quantize.states import RoundStates, largest_cells
from plisse.compress.recipe import dump_recipe, parse_recipe
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import Origin, with_origin
from plisse.core.recurrent import RoundedGRU, RoundedLSTM
from plisse.errors import InputError
from plisse.train.task import Task, classification


class Tagger(nn.Module):
    """Symbols [N, T] to classes [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Embedding(30, 8)
        self.first = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
        self.second = nn.GRU(24, 10, batch_first=True)
        self.third = nn.RNN(10, 6, batch_first=True)
        self.out = nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.second(self.first(self.rows(tokens))[0])[0]
        return self.out(self.third(x)[0].mean(1))


def tagger() -> nn.Module:
    return with_origin(Tagger().eval(), Origin("factory", "tagger"))


def task() -> Task:
    draw = torch.Generator().manual_seed(1)
    items = tuple(Batch(torch.randint(30, (8, 9), generator=draw)) for _ in range(2))
    return classification("made", items[0].inputs, *[BatchList(items)] * 3)


def lost(model: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        return float((model(task().example) - other(task().example)).square().mean())


def test_states_are_rounded_and_the_network_stays() -> None:
    model = tagger()
    before = copy.deepcopy(model.state_dict())
    made = [RoundStates(bits, bits)(model, task()) for bits in (2, 8, 16)]
    assert [type(layer) for layer in made[0].children()][1:4] == [RoundedLSTM, RoundedGRU, nn.RNN]
    assert notes_of(made[0]) == ("third: states stay as they are",)
    errors = [lost(model, net) for net in made]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1e-6 < errors[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ranges_of_cells_are_those_of_calibration() -> None:
    model: Any = tagger()
    layers = {"first": model.first, "second": model.second}
    found = largest_cells(model, layers, list(task().calibration))
    last = model.first(model.rows(task().example))[1][1].detach()
    assert float(found["first"]) >= float(last.abs().max())
    assert float(found["second"]) == 1.0
    made: Any = RoundStates()(model, task())
    assert float(made.first.largest_cell) == float(found["first"])


def test_files_hold_rounded_states() -> None:
    made = presets.recurrent(8, states=6)(tagger(), task()).eval()
    found = modelfile.loads(modelfile.dumps(made, Tagger()), lambda _: Tagger()).eval()
    assert torch.equal(found(task().example), made(task().example))
    plain = presets.recurrent(8)(tagger(), task()).eval()
    assert len(modelfile.dumps(made, Tagger())) < len(modelfile.dumps(plain, Tagger())) + 400


def test_recipes_name_it() -> None:
    step = RoundStates(4, 6)
    assert parse_recipe(dump_recipe(step)).steps == (step,)


@pytest.mark.parametrize("make", [lambda: RoundStates(1), lambda: RoundStates(8, 17)], ids=["1", "17"])
def test_other_bits_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="2 to 16"):
        make()


def test_calibration_without_batches_is_refused() -> None:
    empty = classification("none", task().example, *[BatchList(())] * 3)
    with pytest.raises(InputError):
        RoundStates()(tagger(), empty)
    network = nn.Sequential(nn.Linear(3, 3))
    assert type(RoundStates()(network, empty)[0]) is nn.Linear  # type: ignore[index]
