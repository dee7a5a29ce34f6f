"""Laws of low rank: energy dropped is error made, full rank is exact, factors and their product agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.factorize import Factorize, merged, truncated_weight
from plisse.compress.lowrank.problem import pose
from plisse.compress.lowrank.schemes import Channel, Scheme, Spatial
from plisse.compress.lowrank.selectors import (
    Energy,
    EnergyPerParameter,
    Learning,
    MinMaxError,
    Selector,
    Uniform,
)
from plisse.compress.lowrank.spectrum import covariances, spectrum
from plisse.compress.lowrank.stable_rank import modified_stable_rank, stable_rank
from plisse.compress.quantize.quantize import Quantize
from plisse.core import modules
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import origin_of
from plisse.core.reparam import baked
from plisse.errors import BudgetError, GraphError, InputError
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.task import Task, classification

SELECTORS: list[Selector] = [
    Uniform(), Energy(), EnergyPerParameter(), Learning(), MinMaxError(), BeamSearch(width=2, levels=(4,)),
    BeamSearch(width=1, levels=(4, 8)),
]  # fmt: skip
LAYERS = [
    nn.Linear(20, 12),
    nn.Conv2d(6, 10, 3, padding=1),
    nn.Conv2d(6, 10, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
    nn.Conv2d(8, 12, 3, padding="same", padding_mode="reflect"),
]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5),
    ).eval()  # fmt: skip


def task() -> Task:
    torch.manual_seed(1)
    batches = BatchList(tuple(Batch(torch.randn(8, 3, 4, 4), torch.randint(5, (8,))) for _ in range(2)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def inputs(layer: nn.Module) -> Tensor:
    return torch.randn(2, 20) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 9, 8)


@pytest.mark.parametrize("scheme", [Channel(), Spatial()], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_pair_computes_what_its_product_would(scheme: Scheme, layer: nn.Module) -> None:
    torch.manual_seed(2)
    found = spectrum(layer, scheme)
    pair = scheme.pair(layer, *(part.float() for part in found.factors(3)))
    single = type(layer).__new__(type(layer))
    single.__dict__ = {**layer.__dict__, "_parameters": dict(layer._parameters)}
    single.weight = nn.Parameter(scheme.merged(pair, layer))
    x = inputs(layer)
    assert torch.allclose(pair(x), single(x), atol=1e-5)


@pytest.mark.parametrize("scheme", [Channel(), Spatial()], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_squared_error_is_the_energy_dropped(scheme: Scheme, layer: nn.Module) -> None:
    found = spectrum(layer, scheme)
    for rank in (1, 4, len(found.values)):
        error = (truncated_weight(layer, found, rank, scheme) - layer.weight.detach()).double().square().sum()
        assert float(error) == pytest.approx(float(found.values[rank:].square().sum()), rel=1e-3, abs=1e-8)


def test_whitening_never_does_worse_at_the_output() -> None:
    torch.manual_seed(3)
    layer, mix = nn.Linear(16, 16, bias=False), torch.randn(16, 16) ** 3
    x = torch.randn(500, 16) @ mix
    model = nn.Sequential(layer)
    seen = covariances(model, {"0": layer}, BatchList((Batch(x),)))["0"]
    errors = []
    for covariance in (None, seen):
        weight = truncated_weight(layer, spectrum(layer, Channel(), covariance), 5, Channel())
        errors.append(float((x @ (weight - layer.weight.detach()).T).square().sum()))
    assert errors[1] < errors[0]


def test_merging_gives_back_the_structure_and_the_truncated_weight() -> None:
    model, ranks = net(), {"2": 3, "4": 5}
    small = Factorize(ranks)(model, task())
    whole = merged(small, model)
    assert repr(whole) == repr(model)
    x = torch.randn(4, 3, 4, 4)
    assert torch.allclose(whole(x), small(x), atol=1e-5)


def test_a_factorized_network_comes_back_from_its_file_with_or_without_quantization() -> None:
    model = open_model("resnet20", seed=1)
    x = torch.randn(2, 3, 32, 32)
    data = BatchList((Batch(x, torch.tensor([1, 2])),))
    images = classification("made", x, data, data, data)
    small = Factorize({"layer1.0.conv1": 5, "layer3.2.conv2": 20})(model, images)
    for network in (small, Quantize(bits=4)(small, images)):
        written = modelfile.dumps(network, build(origin_of(model)))
        with torch.no_grad():
            assert torch.equal(modelfile.loads(written, build).eval()(x), baked(network).eval()(x))


def test_containers_within_containers_end_somewhere() -> None:
    model = open_model("resnet20", seed=1)
    place, inner = "linear", nn.Sequential()
    modules.replace(model, place, inner)
    for _ in range(40):
        deeper = nn.Sequential()
        inner.append(deeper)
        inner = deeper
    with pytest.raises(GraphError, match="parts"):
        modelfile.dumps(model, build(origin_of(model)))


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_every_selector_removes_what_it_was_asked_to(selector: Selector, ratio: float) -> None:
    problem = pose(net(), task())
    ranks = selector.ranks(problem, ratio)
    assert ratio <= problem.removed(ranks) < ratio + 0.25
    assert all(1 <= rank <= problem.spectra[name].break_even for name, rank in ranks.items())
    small = Factorize(ranks)(problem.model, problem.task)
    gone = sum(p.numel() for p in net().parameters()) - sum(p.numel() for p in small.parameters())
    assert gone == round(problem.removed(ranks) * problem.total)


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_selectors_refuse_the_impossible(selector: Selector) -> None:
    problem = pose(net(), task())
    with pytest.raises(InputError):
        selector.ranks(problem, 1.0)
    with pytest.raises(BudgetError):
        selector.ranks(problem, 0.995)


def test_the_search_visits_ever_smaller_networks_and_scores_them_as_they_are() -> None:
    problem = pose(net(), task())
    path = BeamSearch(width=2, levels=(4,), batches=2, precision="32-true").search(problem, 0.6)
    assert [state.removed for state in path] == sorted(state.removed for state in path)
    last = Factorize(path[-1].ranks)(problem.model, problem.task)
    with torch.no_grad():
        pairs = [(problem.model(b.inputs), last(b.inputs)) for b in problem.task.calibration]
    loss = sum(float(problem.task.divergence(a, b)) for a, b in pairs) / len(pairs)
    assert path[-1].loss == pytest.approx(loss, rel=1e-3)


def test_stable_ranks_do_not_see_scale_and_stay_below_the_rank() -> None:
    torch.manual_seed(4)
    low = torch.randn(12, 3) @ torch.randn(3, 9)
    assert float(stable_rank(low)) == pytest.approx(float(stable_rank(7 * low)), rel=1e-4)
    assert 1 <= float(stable_rank(low)) <= 3
    assert float(modified_stable_rank(low, 3)) == pytest.approx(0, abs=1e-5)
    assert float(modified_stable_rank(low, 2)) == pytest.approx(
        float(modified_stable_rank(7 * low, 2)), rel=1e-4
    )


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_gradient_of_the_modified_stable_rank_is_that_of_differences(power: float) -> None:
    torch.manual_seed(5)
    matrix, direction = torch.randn(6, 5), torch.randn(6, 5)
    free = matrix.clone().requires_grad_()
    modified_stable_rank(free, 2, power).backward()
    step = 1e-3
    ends = [float(modified_stable_rank(matrix + sign * step * direction, 2, power)) for sign in (1, -1)]
    assert float((free.grad * direction).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2)
