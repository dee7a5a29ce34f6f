from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from plisse.adapt.bits import bits_space, bits_subspace
from plisse.adapt.elastic import Point
from plisse.adapt.samplers import BiasedEndpoints, Decay, Hold, Listed, NoWarmup, Sandwich, Schedule, Uniform
from plisse.adapt.sparsity import sparsity_space, sparsity_subspace
from plisse.adapt.train import EndpointCosine, SubspaceObjective, train_subspace
from plisse.adapt.width import width_space, width_subspace
from plisse.core.batch import Batch, BatchList
from plisse.errors import InputError
from plisse.train.evaluate import evaluate
from plisse.train.optimizers import SGD
from plisse.train.task import classification, cross_entropy, kl_divergence

SPACES = {
    "width": width_space((0.25, 0.5, 1.0)),
    "sparsity": sparsity_space((0.9, 0.0)),
    "bits": bits_space((2, 3, 4)),
}
SAMPLERS = (Uniform(3), Listed(3), BiasedEndpoints(), Sandwich(4), Sandwich(2), Sandwich(3, listed=True))


def blobs(n: int = 96):
    """Four classes of points around four centres in 12 dimensions."""
    generator = torch.Generator().manual_seed(3)
    target = torch.arange(n) % 4
    centres = 2.0 * torch.randn(4, 12, generator=generator)
    points = centres[target] + torch.randn(n, 12, generator=generator)
    batches = BatchList(tuple(Batch(points[i::3], target[i::3]) for i in range(3)))
    return classification("blobs", points[:4], batches, batches, batches)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def subspaces(task):
    return {
        "width": width_subspace(mlp(), task.example, widths=(0.5, 0.75, 1.0)),
        "sparsity": sparsity_subspace(mlp(), sparsities=(0.8, 0.5, 0.0)),
        "bits": bits_subspace(mlp(), task.calibration, bits=(2, 3, 4)),
        "sparsity on a line": sparsity_subspace(mlp(), sparsities=(0.8, 0.5, 0.0), line=True),
    }


@pytest.mark.parametrize("name", subspaces(blobs()))
def test_training_makes_every_point_better(name):
    task = blobs()
    subspace = subspaces(task)[name]
    before = {point: evaluate(subspace.materialised(point), task).score for point in subspace.space.points}
    train_subspace(subspace, task, steps=100, schedule=Schedule(Sandwich(3)), optimizer=SGD(lr=0.05))
    elastic = subspace.elastic()
    for point, score in before.items():
        assert evaluate(elastic.extract(point), task).score > max(score, 0.8), point


def test_the_same_seed_gives_the_same_weights_and_a_checkpoint_resumes(tmp_path: Path):
    task = blobs()

    def trained(**settings):
        subspace = subspaces(task)["sparsity on a line"]
        schedule = Schedule(BiasedEndpoints(), Decay())
        train_subspace(subspace, task, steps=12, schedule=schedule, distill=0.5, **settings)
        return subspace.state_dict()

    class StoppedError(Exception):
        pass

    stops = [7]

    def stop(state):
        if state.step in stops:
            raise StoppedError

    saved = {"checkpoint": tmp_path / "c.safetensors", "checkpoint_every": 5, "hooks": (stop,)}
    with pytest.raises(StoppedError):
        trained(**saved)
    stops.clear()
    whole = trained()
    for name, value in trained(**saved).items():
        assert torch.equal(value, whole[name]), name


def test_in_place_distillation_learns_from_the_largest_point():
    task = blobs()
    subspace = subspaces(task)["width"].train()
    objective = SubspaceObjective(cross_entropy, kl_divergence, Schedule(Sandwich(2)), distill=1.0)
    loss = objective(subspace, Batch(task.train[0].inputs, task.train[0].target))
    with torch.no_grad():
        outputs = []
        for point in (subspace.space.largest, subspace.space.smallest):
            subspace.select(point)
            outputs.append(subspace(task.train[0].inputs))
    assert torch.allclose(loss.parts["cheaper"], kl_divergence(*outputs), atol=1e-5)
    assert sorted(loss.parts) == ["cheaper", "largest"]


def test_the_loss_is_the_mean_over_the_points():
    task = blobs()
    subspace = subspaces(task)["sparsity"].train()
    loss = SubspaceObjective(cross_entropy, kl_divergence, Schedule(Sandwich(2)))(subspace, task.train[0])
    assert torch.allclose(loss.total, (loss.parts["largest"] + loss.parts["cheaper"]) / 2)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_samplers_draw_admissible_points(sampler, space):
    torch.manual_seed(0)
    for _ in range(20):
        for point in sampler(space):
            space.check(point)


def test_the_sandwich_holds_both_ends_and_the_largest_comes_first():
    space = SPACES["width"]
    found = Sandwich(4)(space)
    assert (found[0], found[-1], len(found)) == (space.largest, space.smallest, 4)
    with pytest.raises(InputError):
        Sandwich(1)


def test_a_sandwich_of_listed_points_draws_them_alike_below_the_largest():
    torch.manual_seed(1)
    space = sparsity_space((0.9, 0.8, 0.7, 0.0))
    found = [Sandwich(3, listed=True)(space) for _ in range(1000)]
    assert {points[0] for points in found} == {space.largest}
    counts = Counter(point for points in found for point in points[1:])
    assert set(counts) == set(space.points)
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_biased_endpoints_draw_each_end_a_quarter_of_the_time():
    torch.manual_seed(1)
    space = SPACES["sparsity"]
    counts = Counter(BiasedEndpoints()(space)[0] for _ in range(2000))
    for end in (space.smallest, space.largest):
        assert abs(counts[end] / 2000 - 0.25) < 0.04


def test_listed_points_come_alike_and_whole_axes_get_whole_numbers():
    torch.manual_seed(1)
    space = SPACES["bits"]
    for sampler in (Listed(1), Uniform(1)):
        counts = Counter(sampler(space)[0].value for _ in range(1500))
        assert sorted(counts) == [2.0, 3.0, 4.0]
        assert max(counts.values()) < 1.25 * min(counts.values())


def test_warm_ups_grow_from_the_largest_point():
    space, point = SPACES["sparsity"], Point("sparsity", 0.8)
    assert [Decay(0.8)(space, point, at).value for at in (0.0, 0.4, 0.8, 1.0)] == [0.0, 0.4, 0.8, 0.8]
    assert [Hold(0.8)(space, point, at).value for at in (0.0, 0.79, 0.8)] == [0.0, 0.0, 0.8]
    assert NoWarmup()(space, point, 0.0) == point
    assert Decay(0.8)(SPACES["bits"], Point("bits", 2.0), 0.3).value == 3.0
    assert Schedule(Sandwich(2), Hold(1.0)).points(space, 0.0) == (space.largest,)


def test_endpoint_cosine_is_one_for_equal_ends_and_zero_for_orthogonal_ones():
    subspace = sparsity_subspace(mlp(), sparsities=(0.8, 0.0), line=True, spread=0.0)
    assert abs(float(EndpointCosine()(subspace).detach()) - 1) < 1e-5
    with torch.no_grad():
        for name, line in ((n, m) for n, m in subspace.named_modules() if type(m).__name__ == "Line"):
            line.start.weight.zero_()
            line.end.weight.flatten()[::2] = 0.0
            line.start.weight.flatten()[::2] = 1.0
            assert name
    assert float(EndpointCosine()(subspace).detach()) == 0.0
    assert float(EndpointCosine()(sparsity_subspace(mlp()))) == 0.0


def test_the_penalty_moves_the_endpoints_apart():
    task = blobs()
    found = []
    for weight in (0.0, 1.0):
        subspace = subspaces(task)["sparsity on a line"]
        train_subspace(subspace, task, steps=40, schedule=Schedule(BiasedEndpoints()), cosine=weight)
        found.append(float(EndpointCosine()(subspace).detach()))
    assert found[1] < found[0] - 0.02


@pytest.mark.parametrize("distill", [-0.1, 1.5, float("nan")])
def test_shares_of_distillation_out_of_range_are_refused(distill):
    with pytest.raises(InputError):
        train_subspace(subspaces(blobs())["width"], blobs(), steps=1, distill=distill)


def test_other_networks_have_no_points_to_train():
    objective = SubspaceObjective(cross_entropy, kl_divergence)
    with pytest.raises(InputError, match="Subspace"):
        objective(mlp(), blobs().train[0])


@pytest.mark.parametrize("make", [lambda t: bits_subspace(mlp(), t.calibration, bits=(1, 2)),
                                  lambda t: bits_subspace(mlp(), t.calibration, bits=(3, 5)),
                                  lambda t: sparsity_subspace(mlp(), sparsities=(1.0,)),
                                  lambda t: sparsity_subspace(mlp(), names=["0.bias"]),
                                  lambda t: sparsity_subspace(nn.Sequential(nn.Linear(3, 2))),
                                  lambda t: sparsity_subspace(mlp(), sparsities=())],
                         ids=["one bit", "a gap", "all zeros", "a bias", "one layer", "nothing"])  # fmt: skip
def test_bad_ranges_and_names_are_refused(make):
    with pytest.raises(InputError):
        make(blobs())
