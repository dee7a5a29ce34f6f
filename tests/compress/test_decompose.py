"""Decompose: what each of its parts does, and that stable-rank training makes the cut harmless."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plisse.bitstream import modelfile
from plisse.compress.decompose import Decompose
from plisse.compress.lowrank.balance import Balance, balance, is_chain
from plisse.compress.lowrank.beam import BeamSearch
from plisse.compress.lowrank.factorize import Factorize, merged, truncated_weight
from plisse.compress.lowrank.schemes import Channel, Scheme, Spatial
from plisse.compress.lowrank.selectors import EnergyPerParameter, Uniform
from plisse.compress.lowrank.spectrum import covariances, input_space, spectrum
from plisse.compress.lowrank.stable_rank import Rising, StableRank, modified_stable_rank, tails
from plisse.compress.notes import notes_of
from plisse.compress.quantize.grids import Granularity, PerChannel, PerTensor
from plisse.compress.quantize.quantize import Quantize
from plisse.core.batch import Batch, BatchList
from plisse.core.origin import origin_of
from plisse.core.reparam import baked
from plisse.errors import BudgetError, GraphError, InputError
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.run import State
from plisse.train.task import Task, classification, cross_entropy

PLAIN = Decompose(0.5, Uniform(), Channel(), whitened=False, steps=0, finetune=0, statistics=0)


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5),
    )  # fmt: skip
    model[8].weight.data.mul_(30)  # so that classes differ
    return model.eval()


class Counted:
    """Batches that remember which of them were asked for."""

    def __init__(self, batches: BatchList) -> None:
        self.batches, self.asked = batches, list[int]()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        self.asked.append(index)
        return self.batches[index]

    def __iter__(self) -> Any:
        return iter(self.batches)


def task() -> Task:
    torch.manual_seed(1)
    batches = BatchList(tuple(Batch(torch.randn(8, 3, 4, 4), torch.randint(5, (8,))) for _ in range(4)))
    return classification("tiny", batches[0].inputs, batches, batches, batches)


def test_without_training_it_is_the_truncation_at_the_selected_ranks() -> None:
    model, problem = net(), task()
    small = PLAIN(model, problem)
    ranks = Uniform().ranks(PLAIN.problem(model, problem), 0.5)
    expected = Factorize(ranks)(model, problem)
    with torch.no_grad():
        assert torch.allclose(small(problem.example), expected(problem.example), atol=1e-5)
    assert small.training is model.training
    assert any("layers decomposed" in note for note in notes_of(small))


@pytest.mark.parametrize("scheme", [Channel(), Spatial()], ids=str)
@pytest.mark.parametrize("whitened", [False, True], ids=["plain", "whitened"])
def test_training_with_the_penalty_empties_the_tails_and_makes_the_cut_harmless(
    scheme: Scheme, whitened: bool
) -> None:
    model, problem = net(), task()
    how = Decompose(
        0.6, Uniform(), scheme, whitened, strength=60.0, steps=150, finetune=0, statistics=0,
        precision="32-true",
    )  # fmt: skip
    ranks = Uniform().ranks(how.problem(model, problem), 0.6)
    penalty = how.penalty(model, problem, ranks)
    before = tails(model, penalty)
    trained = how.trained(model, problem, penalty)
    after = tails(trained, penalty)
    assert min(before.values()) > 0.1
    assert max(after.values()) < 0.02
    cut = how.truncated(trained, problem, ranks)
    with torch.no_grad():
        whole, low = trained(problem.example), cut(problem.example)
        reference, direct = (each(problem.example) for each in (model, how.truncated(model, problem, ranks)))
    assert float(problem.divergence(whole, low)) < 0.01 * float(problem.divergence(reference, direct))


def correlated() -> tuple[nn.Conv2d, Task]:
    torch.manual_seed(5)
    x = torch.einsum("nihw,ij->njhw", torch.randn(16, 8, 6, 6), torch.randn(8, 8) ** 3)
    batches = BatchList((Batch(x, torch.zeros(16, dtype=torch.long)),))
    return nn.Conv2d(8, 16, 3, stride=2, padding=1), classification("one", x, batches, batches, batches)


@pytest.mark.parametrize("scheme", [Channel(), Spatial()], ids=str)
def test_whitened_factors_lose_less_at_the_output_of_correlated_inputs(scheme: Scheme) -> None:
    layer, problem = correlated()
    model, errors = nn.Sequential(layer), []
    for whitened in (False, True):
        with torch.no_grad():
            small = Factorize({"0": 5}, scheme, whitened)(model, problem)
            errors.append(float((small(problem.example) - model(problem.example)).square().sum()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("scheme", [Channel(), Spatial()], ids=str)
def test_whitening_at_full_rank_changes_nothing(scheme: Scheme) -> None:
    layer, problem = correlated()
    seen = covariances(nn.Sequential(layer), {"0": layer}, problem.calibration, scheme)["0"]
    found = spectrum(layer, scheme, seen)
    weight = truncated_weight(layer, found, len(found.values), scheme)
    assert torch.allclose(weight, layer.weight, atol=1e-4)


def test_the_space_of_inputs_gives_back_their_covariance() -> None:
    torch.manual_seed(6)
    root = torch.randn(5, 5, dtype=torch.float64)
    space = input_space(root @ root.T)
    assert torch.allclose(space @ space.T, root @ root.T)
    assert bool(torch.isfinite(input_space(torch.zeros(3, 3))).all())


def test_a_kernel_of_one_place_is_a_matrix_in_both_schemes() -> None:
    torch.manual_seed(7)
    model, x = nn.Sequential(nn.Conv2d(8, 12, 1, stride=2)), torch.randn(2, 8, 5, 5)
    for scheme in (Channel(), Spatial()):
        small = Factorize({"0": 3}, scheme)(model, task())
        assert [layer.stride for layer in small[0]] == [(2, 2), (1, 1)]
        with torch.no_grad():
            assert torch.allclose(small(x), merged(small, model, scheme)(x), atol=1e-5)


def test_strength_zero_trains_equally_long_after_the_cut() -> None:
    asked = {}
    for strength in (0.0, 20.0):
        problem = task()
        counted = Counted(problem.train)
        how = Decompose(0.5, Uniform(), strength=strength, steps=3, finetune=2, statistics=0)
        how(net(), dataclasses.replace(problem, train=counted))
        asked[strength] = counted.asked
    assert asked == {0.0: [0, 1, 2, 3, 4], 20.0: [0, 1, 2, 0, 1]}


def test_fine_tuning_brings_the_factors_back_towards_the_original() -> None:
    model, problem = net(), task()
    scored = []
    for finetune in (0, 60):
        how = dataclasses.replace(PLAIN, finetune=finetune, precision="32-true", lr=0.05)
        small = how(model, problem)
        with torch.no_grad():
            scored.append(float(problem.divergence(model(problem.example), small(problem.example))))
    assert scored[1] < 0.5 * scored[0]


@pytest.mark.parametrize("scheme", [Channel(), Spatial()], ids=str)
def test_what_it_makes_comes_back_from_its_file(scheme: Any) -> None:
    model = open_model("resnet20", seed=1)
    x = torch.randn(2, 3, 32, 32)
    data = BatchList((Batch(x, torch.tensor([1, 2])),))
    how = Decompose(
        0.5, EnergyPerParameter(), scheme=scheme, strength=20.0, steps=1, finetune=1, statistics=1
    )
    small = how(model, classification("made", x, data, data, data))
    written = modelfile.dumps(small, build(origin_of(model)))
    assert len(written) < 0.6 * len(modelfile.dumps(model, build(origin_of(model))))
    with torch.no_grad():
        assert torch.equal(modelfile.loads(written, build).eval()(x), small.eval()(x))


def test_the_search_and_labels_may_take_part() -> None:
    search = BeamSearch(width=1, levels=(4,))
    how = Decompose(0.4, search, strength=20.0, steps=1, finetune=1, hard=0.5, statistics=1)
    model = how(net(), task())
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in net().parameters())


def test_layers_of_other_kinds_stay_whole_with_a_note() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1),
        nn.ConvTranspose2d(16, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(1),
        nn.Unflatten(1, (4, 16)), nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(56, 5),
    )  # fmt: skip
    found = dict(note.split(" left whole: ") for note in notes_of(PLAIN(model, task())) if "whole" in note)
    assert "8 groups" in found["'1'"]
    assert "ConvTranspose2d is neither" in found["'3'"]
    assert "Conv1d is neither" in found["'7'"]
    assert "'2'" not in found


@pytest.mark.parametrize(
    "fields",
    [{"ratio": 1.0}, {"ratio": -0.1}, {"ratio": float("nan")}, {"steps": -1}, {"finetune": -1},
     {"strength": -1.0}, {"strength": float("nan")}, {"lr": 0.0}, {"every": 0}, {"statistics": -1}],
    ids=str,
)  # fmt: skip
def test_values_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Decompose(**fields)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BudgetError):
        dataclasses.replace(PLAIN, ratio=0.995)(net(), task())
    with pytest.raises(GraphError):
        PLAIN(nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 2)), task())
    broken = net()
    broken[3].weight.data[0] = torch.nan
    with pytest.raises(InputError):
        PLAIN(broken, task())


def test_the_penalty_rises_over_the_first_half_and_skipped_batches_are_made_up_for() -> None:
    model, batch = net(), Batch(torch.randn(2, 3, 4, 4), torch.tensor([0, 1]))
    sums = {}
    for every in (1, 4):
        rising = Rising(cross_entropy, StableRank({"3": 4}), 2.0, every)
        assert "stable_rank" not in rising(model, batch).parts
        shares = []
        for step in range(400):
            rising.hook(State(step, 400, model, torch.zeros(()), 0.1))
            shares.append(rising.share)
        sums[every] = sum(shares)
        assert shares[99] == pytest.approx(0.5 * every)
        assert shares[199] == shares[399] == every
    assert sums[4] == pytest.approx(sums[1], rel=0.02)
    rising.share = 0.5
    loss = rising(model, batch)
    assert float(loss.total.detach()) == pytest.approx(
        float(loss.parts["cross_entropy"]) + float(loss.parts["stable_rank"]), rel=1e-5
    )


def test_wide_and_tall_matrices_have_the_same_gradient_in_any_precision() -> None:
    torch.manual_seed(2)
    matrix = torch.randn(5, 9)
    wide, tall = matrix.clone().requires_grad_(), matrix.T.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        modified_stable_rank(wide, 2).backward()
    modified_stable_rank(tall, 2).backward()
    assert wide.grad is not None
    assert tall.grad is not None
    assert torch.allclose(wide.grad, tall.grad.T, atol=1e-6)


def unbalanced() -> nn.Sequential:
    """Factors as training leaves them: the same product, but scales that differ from rank to rank."""
    torch.manual_seed(3)
    pair = nn.Sequential(nn.Linear(24, 12, bias=False), nn.Linear(12, 24))
    scales = 10 ** torch.empty(12).uniform_(-1, 1)
    with torch.no_grad():
        pair[0].weight.mul_(scales[:, None])
        pair[1].weight.div_(scales)
    return pair


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()], ids=str)
def test_balanced_factors_lose_less_at_four_bits_and_compute_the_same(granularity: Granularity) -> None:
    pair, x = unbalanced(), torch.randn(64, 24)
    even = Balance()(pair, task())
    with torch.no_grad():
        reference = pair(x)
        assert torch.allclose(even(x), reference, atol=1e-5)
        quantize = Quantize(bits=4, granularity=granularity)
        errors = [(baked(quantize(each, task()))(x) - reference).square().mean() for each in (pair, even)]
    assert errors[1] < 0.7 * errors[0]


def chain(*layers: nn.Module) -> Tensor:
    model = nn.Sequential(*layers)
    x = torch.randn(2, 6, 7, 7)
    with torch.no_grad():
        before = model(x)
        layers[0].weight.mul_(30)
        layers[1].weight.div_(30)
        balance(model)
        assert torch.allclose(model(x), before, rtol=1e-3, atol=1e-5)
    return torch.tensor([float(layer.weight.detach().abs().max()) for layer in layers])


def test_longer_chains_and_depthwise_layers_are_balanced_too() -> None:
    torch.manual_seed(4)
    high = chain(
        nn.Conv2d(6, 4, 1, bias=False), nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4, bias=False),
        nn.Conv2d(4, 4, (1, 3), padding=(0, 1), groups=4, bias=False), nn.Conv2d(4, 8, 1),
    )  # fmt: skip
    assert float(high.max() / high.min()) < 2


def test_only_layers_with_nothing_between_them_are_a_chain() -> None:
    first, second = nn.Linear(4, 3), nn.Linear(3, 2)
    assert is_chain(nn.Sequential(first, second))
    assert not is_chain(nn.Sequential(first, nn.ReLU(), second))
    assert not is_chain(nn.Sequential(first))
    assert not is_chain(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 3)))
