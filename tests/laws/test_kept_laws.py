"""Laws of kept statistics: a folded network knows of its training data what its batch norms knew."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from plisse.bitstream import modelfile
from plisse.compress.datafree.statistics import bns, observing, targets
from plisse.compress.equalize import Equalize
from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.prune.patterns import Channels
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.small import CompactSmall
from plisse.compress.sphere.canonicalize import Canonicalize
from plisse.compress.sphere.domain import Unbounded
from plisse.compress.split import SplitOutliers
from plisse.compress.step import chain
from plisse.core.batch import Batch, BatchList
from plisse.core.edits import difference
from plisse.core.keptstatistics import KeptStatistics, kept
from plisse.core.origin import Origin, origin_of, with_origin
from plisse.core.reparam import baked
from plisse.errors import GraphError
from plisse.networks.build import build
from plisse.networks.open import open_model
from plisse.train.task import Task, classification

FOLD = FoldBatchNorm(keep_statistics=True)
ABSORB = AbsorbStatistics(keep_statistics=True)


class Net(nn.Module):
    """conv - norm - relu - conv - norm (affine or not) - relu - linear."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=affine)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.linear(self.bn2(self.conv2(x)).relu().mean((2, 3)))


def network(affine: bool = True) -> nn.Module:
    """With statistics that its own data gave, and channels of scales from 0.1 to 10."""
    torch.manual_seed(0)
    model = Net(affine)
    with torch.no_grad():
        for norm in (model.bn1, model.bn2):
            if norm.affine:
                norm.weight.copy_(torch.randn(norm.num_features) * torch.logspace(-1, 1, norm.num_features))
                norm.bias.normal_()
            norm.momentum = None
        model.train()(images())
    return with_origin(model.eval(), Origin("factory", "tests:net", {"affine": affine}))


def images(n: int = 64) -> torch.Tensor:
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.3


def task() -> Task:
    batches = BatchList((Batch(images(16), torch.arange(16) % 3),))
    return classification("made", batches[0].inputs, batches, batches, batches)


@pytest.mark.parametrize("affine", [True, False])
def test_the_moments_kept_are_those_of_the_batch_norms_outputs(affine: bool) -> None:
    model = network(affine)
    folded = FOLD(model, task())
    found = targets(folded)
    assert list(found) == ["conv1.kept_statistics", "conv2.kept_statistics"]
    for name, norm in (("conv1", model.bn1), ("conv2", model.bn2)):
        mean, _ = found[f"{name}.kept_statistics"]
        beta = torch.zeros(len(mean)) if norm.bias is None else norm.bias
        gamma = torch.ones(len(mean)) if norm.weight is None else norm.weight
        assert torch.equal(mean, beta)
        wanted = gamma.abs() * (norm.running_var / (norm.running_var + norm.eps)).sqrt()
        assert torch.allclose(kept(folded.get_submodule(name)).kept_std, wanted, rtol=1e-6)


def test_the_data_of_the_statistics_are_at_no_distance_before_and_after_folding() -> None:
    model = network()
    distances = []
    for net in (model, FOLD(model, task())):
        wanted = targets(net)
        with torch.no_grad(), observing(net, wanted) as table:
            near = net(images()), float(bns(table, wanted))
            table.clear()
            far = net(3 * images()), float(bns(table, wanted))
        distances.append((near[1], far[1]))
    assert max(near for near, _ in distances) < 1e-4
    assert distances[0][1] > 0.5
    assert distances[1] == pytest.approx(
        distances[0], rel=0.02, abs=1e-5
    )  # EPS weighs more after narrow gains


@pytest.mark.parametrize("affine", [True, False])
def test_absorbed_batch_norms_keep_what_folded_ones_do(affine: bool) -> None:
    model = network(affine)
    folded, absorbed = targets(FOLD(model, task())), targets(ABSORB(model, task()))
    assert list(absorbed) == ["bn1.kept_statistics", "bn2.kept_statistics"]
    assert not targets(AbsorbStatistics()(model, task()))
    for one, other in zip(folded.values(), absorbed.values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_absorbed_statistics_survive_absorbing_folding_and_cutting() -> None:
    absorbed = ABSORB(network(), task())
    wanted = targets(absorbed)
    assert divergence(absorbed) < 1e-4
    for again, layers in ((ABSORB, ("bn1", "bn2")), (FOLD, ("conv1", "conv2"))):
        found = targets(again(absorbed, task()))
        assert list(found) == [f"{layer}.kept_statistics" for layer in layers]
        pairs = zip(found.values(), wanted.values(), strict=True)
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    cut = Prune(sparsity=0.5, pattern=Channels())(absorbed, task())
    assert len(targets(cut)["bn1.kept_statistics"][0]) == cut.bn1.num_features < 6


@pytest.mark.parametrize("step", [FOLD, ABSORB], ids=repr)
def test_a_batch_norm_that_knows_nothing_keeps_nothing(step) -> None:
    assert not targets(step(Net().eval(), task()))
    assert not targets(step(AbsorbStatistics()(network(), task()), task()))


def test_absorbed_statistics_travel_in_the_file() -> None:
    absorbed = chain(ABSORB, CompactSmall())(network(), task())
    read = modelfile.loads(modelfile.dumps(absorbed, Net()), lambda origin: Net(**origin.arguments))
    for name, wanted in targets(baked(absorbed)).items():
        assert all(torch.equal(a, b) for a, b in zip(targets(read)[name], wanted, strict=True))
    assert torch.equal(read(images()), baked(absorbed)(images()))


def test_folding_is_the_same_with_and_without_kept_statistics() -> None:
    model = network()
    plainly, keeping = FoldBatchNorm()(model, task()), FOLD(model, task())
    assert torch.equal(plainly(images()), keeping(images()))
    assert torch.allclose(model(images()), keeping(images()), atol=1e-4, rtol=1e-4)
    assert not targets(plainly)
    again = FOLD(keeping, task())
    assert all(torch.equal(targets(again)[name][0], mean) for name, (mean, _) in targets(keeping).items())


def test_kept_statistics_travel_in_the_file() -> None:
    model = network()
    folded = FOLD(model, task())
    data = modelfile.dumps(folded, Net())
    read = modelfile.loads(data, lambda origin: Net(**origin.arguments))
    assert list(targets(read)) == list(targets(folded))
    for name, wanted in targets(folded).items():
        assert all(torch.equal(a, b) for a, b in zip(targets(read)[name], wanted, strict=True))
    assert torch.equal(read(images()), folded(images()))
    edits = [edit for edit in difference(Net(), folded) if edit.layer == "KeptStatistics"]
    assert [(edit.name, edit.arguments) for edit in edits] == [
        ("conv1.kept_statistics", {"width": 6}),
        ("conv2.kept_statistics", {"width": 4}),
    ]


def test_quantizing_and_compacting_leave_them_close() -> None:
    folded = FOLD(network(), task())
    small = baked(chain(Quantize(bits=4), CompactSmall())(folded, task()))
    for name, (mean, std) in targets(folded).items():
        mean2, std2 = targets(small)[name]
        assert float((mean - mean2).abs().max()) < 0.02 * float(mean.abs().max())
        assert float((std2 / std - 1).abs().max()) < 0.05


def divergence(model: nn.Module) -> float:
    wanted = targets(model)
    with torch.no_grad(), observing(model, wanted) as table:
        model(images())
    return float(bns(table, wanted))


@pytest.mark.parametrize("step", [Equalize(), Equalize(absorb_bias=True)], ids=repr)
def test_equalizing_scales_them_with_the_channels(step) -> None:
    even = step(FOLD(network(), task()), task())
    assert len(targets(even)) == 2
    assert divergence(even) < 1e-2  # absorbed biases are exact inside of the padded border only


def test_cut_channels_take_theirs_along() -> None:
    cut = Prune(sparsity=0.5, pattern=Channels())(FOLD(network(), task()), task())
    assert len(targets(cut)["conv1.kept_statistics"][0]) == cut.conv1.out_channels < 6
    wanted = targets(cut)["conv1.kept_statistics"][0]
    with torch.no_grad(), observing(cut, targets(cut)) as table:
        cut(images())
    assert torch.allclose(table["conv1.kept_statistics"].mean, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("step", [SplitOutliers(0.3), Canonicalize(Unbounded())], ids=repr)
def test_steps_that_make_other_channels_forget_what_no_longer_holds(step) -> None:
    changed = step(FOLD(network(), task()), task())
    changed(images())
    assert divergence(changed) < 1e-4 if targets(changed) else True


def test_a_file_cannot_hang_statistics_of_any_size_anywhere() -> None:
    folded = FOLD(network(), task())
    KeptStatistics(1 << 21).attach(folded.linear)
    with pytest.raises(GraphError, match="width=2097152"):
        modelfile.dumps(folded, Net())


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
def test_built_in_networks_give_the_same_outputs_and_keep_every_norm(
    name: str, request: pytest.FixtureRequest
) -> None:
    weights = None
    if name == "resnet20":
        weights = request.getfixturevalue("data_root") / "models" / "cifar10_resnet20.safetensors"
    model = open_model(name, weights).eval()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    shape = (4, 3, 32, 32) if name == "resnet20" else (4, 1, 8, 8)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    if weights is None:
        model.train()(example)  # so that its norms know of something
        model.eval()
    folded = FOLD(model, dataclasses.replace(task(), example=example))
    assert torch.allclose(model(example), folded(example), atol=1e-4, rtol=1e-4)
    assert sum(kept(module) is not None for module in folded.modules()) == norms > 0
    read = modelfile.loads(modelfile.dumps(folded, build(origin_of(folded))), build)
    assert torch.equal(read(example), folded(example))
