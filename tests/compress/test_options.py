"""What one weight may become, and which of these options are worth a look."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plisse.compress import options
from plisse.compress.options import Candidate, Option
from plisse.compress.quantize.compensate import Compensate, compensated
from plisse.compress.quantize.rated import RateQuantize
from plisse.compress.quantize.rounding.moments import Gram
from plisse.core.batch import Batch, BatchList, call
from plisse.core.reparam import baked
from plisse.errors import InputError
from plisse.train.task import Task, classification


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(48, 32)
    with torch.no_grad():
        made.weight.copy_(torch.randn(32, 3) @ torch.randn(3, 48))  # rank 3
    return made


@pytest.fixture
def found() -> Gram:
    torch.manual_seed(1)
    x = torch.randn(4096, 48) @ torch.randn(48, 48) / 7  # correlated inputs
    return Gram((x.T @ x / len(x)).double()[None], torch.zeros(()))


def task() -> Task:
    torch.manual_seed(2)
    batches = BatchList(tuple(Batch(torch.randn(64, 48), torch.randint(3, (64,))) for _ in range(2)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def test_factors_of_a_weight_of_low_rank_beat_the_whole_weight(layer: nn.Linear, found: Gram) -> None:
    weight = layer.weight.detach()
    steps = [options.root_mean_square(weight) * 2 ** (k / 2) for k in (-6, -3, 0)]
    whole = [options.written(weight, step) for step in steps]
    errors = [options.output_error(weight, torch.from_numpy(values), found) for values, _ in whole]
    factors = options.factored(layer, found)
    own = [options.output_error(weight, each.values, found) for each in factors]
    kept = options.worthwhile(factors, own, [size for _, size in whole], errors)
    assert kept
    assert all(each.option.rank is not None and each.option.rank >= 3 for each in kept)


def test_an_option_that_loses_more_at_as_many_bytes_is_dropped() -> None:
    good, bad, dear = (Candidate(Option((1.0,)), torch.zeros(1), size) for size in (100, 100, 900))
    kept = options.worthwhile([good, bad, dear], [0.5, 2.0, 0.1], [50, 200], [1.5, 0.6])
    assert [each is good for each in kept] == [True]


def test_sparse_options_have_their_zeros(layer: nn.Linear) -> None:
    for candidate in options.sparse(layer):
        assert float((candidate.values == 0).float().mean()) >= candidate.option.sparsity - 1e-3


def test_compensation_lowers_the_output_error_and_keeps_zeros(layer: nn.Linear, found: Gram) -> None:
    weight = layer.weight.detach().clone()
    weight[:, ::5] = 0
    step = 0.7 * options.root_mean_square(weight)
    nearest = torch.from_numpy(options.written(weight, step)[0])
    better = compensated(weight, layer, found, step)
    error = options.output_error(weight, better, found)
    assert error < 0.7 * options.output_error(weight, nearest, found)
    assert torch.equal(better[:, ::5], weight[:, ::5])
    assert torch.allclose(better / step, (better / step).round(), atol=1e-4)


def test_compensate_brings_outputs_nearer_and_keeps_the_grid() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    problem = task()
    steps = {"0.weight": 0.1, "2.weight": 0.1}
    rounded = RateQuantize(steps, rounding="trellis")(model, problem)
    plain = RateQuantize(steps)(model, problem)
    better = Compensate()(rounded, problem)
    x = problem.example
    with torch.no_grad():
        goal = call(model, x)
        before, after = ((call(baked(net), x) - goal).square().mean() for net in (plain, better))
    assert after < 0.8 * before
    again = Compensate()(better, problem)
    for name, value in baked(better).state_dict().items():
        assert torch.equal(value, baked(again).state_dict()[name])


def test_compensate_wants_entropy_coded_weights() -> None:
    with pytest.raises(InputError, match="entropy-coded"):
        Compensate()(nn.Linear(48, 3), task())
    with pytest.raises(InputError, match="damping"):
        Compensate(damping=0.0)
