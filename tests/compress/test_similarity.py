"""Distances of data sets from the training data, and the monitor of batches in use."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from plisse.compress.datafree.drift import DriftMonitor, Limits, learned_limits
from plisse.compress.datafree.order import gathered, is_sorted
from plisse.compress.datafree.similarity import similarity
from plisse.compress.datafree.statistics import bns, observing, targets
from plisse.compress.fold import FoldBatchNorm
from plisse.core.batch import Batch, BatchList
from plisse.data.cifar10 import read_test
from plisse.data.images import ImageBatches, ImageSet
from plisse.errors import GraphError, InputError
from plisse.networks.open import open_model
from plisse.train.task import classification


def images(n: int = 256, seed: int = 0) -> torch.Tensor:
    """Two kinds: bright and dark."""
    draw = torch.Generator().manual_seed(seed)
    shift = (torch.arange(n) % 2).float()[:, None, None, None]
    return torch.randn(n, 2, 6, 6, generator=draw) + 2 * shift


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Trained, so far as its statistics go, on images() and nothing else; tells bright from dark."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    with torch.no_grad():
        net(images())
        net.eval()
        hidden = net[:4](images())
        direction = hidden[1::2].mean(0) - hidden[::2].mean(0)
        middle = hidden.mean(0) @ direction
        net[4].weight.copy_(torch.stack([-direction, direction]) / 50)
        net[4].bias.copy_(torch.stack([middle, -middle]) / 50)
    return net


def batches(inputs: torch.Tensor, labels: torch.Tensor | None = None, size: int = 32) -> BatchList:
    parts = inputs.split(size)
    targets_ = [None] * len(parts) if labels is None else list(labels.split(size))
    return BatchList(tuple(Batch(x, y) for x, y in zip(parts, targets_, strict=True)))


def test_the_training_data_are_at_no_distance_and_others_are(model: nn.Module) -> None:
    near = similarity(model, batches(images()))
    fresh, far = (similarity(model, batches(x)) for x in (images(seed=1), 1.5 * images(seed=1)))
    assert near.value < 1e-5 < fresh.value < 0.05 < far.low <= far.value <= far.high
    assert near.low <= near.value <= near.high
    assert set(near.layers) == set(targets(model)) == {"1"}
    assert near.n == 256
    assert sum(near.classes) == pytest.approx(1)
    assert near.confidence is not None
    assert 0.5 < near.confidence <= 1
    assert near.furthest(1) == [("1", near.layers["1"])]


def test_the_value_is_the_batch_norm_loss_of_all_samples_at_once(model: nn.Module) -> None:
    data = 1.2 * images(seed=1)
    wanted = targets(model)
    with torch.no_grad(), observing(model, wanted) as table:
        model(data)
    assert similarity(model, batches(data)).value == pytest.approx(float(bns(table, wanted)), rel=1e-4)


def test_order_and_size_of_batches_do_not_matter(model: nn.Module) -> None:
    data = images(seed=2)
    wanted = similarity(model, batches(data)).value
    for other in (batches(data.flip(0)), batches(data, size=100), batches(data, size=256)):
        assert similarity(model, other).value == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "own classes"])
def test_a_sorted_loader_warns_and_changes_nothing(model: nn.Module, labelled: bool) -> None:
    data, labels = images(seed=2), torch.arange(256) % 2
    order = labels.argsort(stable=True)
    mixed = similarity(model, batches(data, labels if labelled else None))
    with pytest.warns(UserWarning, match="sorted by class"):
        found = similarity(model, batches(data[order], labels[order] if labelled else None))
    assert found.value == pytest.approx(mixed.value, rel=1e-4)
    assert found.notes[0].startswith("the batches come sorted by class")
    assert not mixed.notes
    apart = [similarity(model, batches(part)).value for part in data[order].split(32)]
    assert np.mean(apart) > 5 * mixed.value


def test_one_class_lies_further_off_and_is_named(model: nn.Module) -> None:
    data = images(512, seed=2)
    found, whole = similarity(model, batches(data[::2])), similarity(model, batches(data))
    assert found.value > 5 * whole.value
    assert any("look like class 0" in words for words in found.notes)


def test_few_samples_are_drawn_from_all_over(model: nn.Module) -> None:
    data = images(seed=3)
    some = similarity(model, batches(data), samples=64)
    assert some.n == 64
    assert some.value != similarity(model, batches(data), samples=64, seed=1).value
    assert some.value == similarity(model, batches(data), samples=64).value
    found = gathered(batches(data, torch.arange(256)), 256, 0)
    assert found.labels is not None
    assert torch.equal(found.inputs, data[found.labels])
    assert sorted(found.labels.tolist()) == list(range(256))
    assert found.labels.tolist() != list(range(256))


def test_the_interval_holds_the_value_of_far_more_samples(model: nn.Module) -> None:
    whole = similarity(model, batches(1.3 * images(8192, seed=9), size=512), samples=8192).value
    found = [similarity(model, batches(1.3 * images(256, seed=seed))) for seed in range(10, 40)]
    covered = sum(each.low <= whole <= each.high for each in found)
    assert covered >= 24  # of 30; 95 % is 28.5
    assert all(each.high - each.low < whole for each in found)


def test_a_folded_network_measures_the_same(model: nn.Module) -> None:
    data = batches(1.5 * images(seed=1))
    task = classification("made", images()[:8], data, data, data)
    folded = FoldBatchNorm(keep_statistics=True)(model, task)
    assert similarity(folded, data).value == pytest.approx(similarity(model, data).value, rel=1e-3)
    with pytest.raises(GraphError, match="keep_statistics=True"):
        similarity(FoldBatchNorm()(model, task), data)


def test_bad_input(model: nn.Module) -> None:
    with pytest.raises(InputError, match="0 batches"):
        similarity(model, BatchList(()))
    with pytest.raises(InputError, match="0 samples"):
        similarity(model, batches(images()), samples=0)


def test_whether_batches_are_sorted() -> None:
    labels = torch.arange(400) % 10
    origin = torch.arange(400) // 40
    draw = torch.Generator().manual_seed(0)
    assert not is_sorted(labels, origin)
    assert not any(is_sorted(labels[torch.randperm(400, generator=draw)], origin) for _ in range(20))
    assert is_sorted(labels.sort().values, origin)
    assert not is_sorted(torch.zeros(400, dtype=torch.long), origin)
    assert not is_sorted(labels.sort().values, torch.zeros(400, dtype=torch.long))


def test_real_sets_come_in_the_order_of_common_sense(data_root: Path) -> None:
    net = open_model("resnet20", data_root / "models" / "cifar10_resnet20.safetensors")
    test = read_test(data_root / "cifar10").take(np.arange(128))

    def distance(pixels: np.ndarray) -> tuple[float, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = similarity(net, ImageBatches(ImageSet(pixels, None), 64))
        assert found.confidence is not None
        return found.value, found.confidence

    dark = np.rint(0.7 * test.pixels).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, test.pixels.shape, dtype=np.uint8)
    (real, sure), (darker, _), (noisy, _) = map(distance, (test.pixels, dark, noise))
    assert 0.01 < real < 0.04
    assert 1.5 * real < darker < 0.5 * noisy
    turned, less_sure = distance(np.ascontiguousarray(np.rot90(test.pixels, axes=(1, 2))))
    assert turned < 1.35 * real  # the blind spot
    assert less_sure < sure - 0.05  # and what shows it


def stream(seed: int, n: int = 12, scale: float = 1.0) -> list[Batch]:
    return [Batch(scale * images(32, seed=1000 * seed + i)) for i in range(n)]


def test_the_monitor_is_quiet_on_what_it_knows_and_alarmed_by_what_it_does_not(model: nn.Module) -> None:
    limits = learned_limits(model, batches(images(1024, seed=5)), size=32)
    monitor = DriftMonitor(model, limits)
    assert not any(monitor.observe(batch).alarm for batch in stream(1, 30))
    states = [monitor.observe(batch) for batch in stream(2, 10, scale=1.4)]
    assert states[-1].reasons[0] == "distance"
    assert states[-1].batches == 40
    averages = [state.average for state in states]
    assert averages == sorted(averages)
    monitor.reset()
    assert monitor.observe(stream(3, 1)[0]).batches == 1
    back = [monitor.observe(batch).alarm for batch in [*stream(2, 5, scale=1.4), *stream(3, 25)]]
    assert any(back[:5])
    assert not any(back[-5:])


def test_the_monitor_sees_a_fall_of_confidence(model: nn.Module) -> None:
    limits = learned_limits(model, batches(images(512, seed=5)), size=32)
    unsure = dataclasses.replace(limits, lowest=1.0)
    assert DriftMonitor(model, unsure).observe(stream(1)[0]).reasons == ("confidence",)
    silent = Limits(limits.distance, limits.highest)
    state = DriftMonitor(model, silent).observe(stream(1)[0])
    assert not state.alarm
    assert state.average_confidence is None


def test_an_average_moves_by_its_weight(model: nn.Module) -> None:
    limits = Limits(0.5, 9.0)
    for weight in (0.1, 1.0):
        state = DriftMonitor(model, limits, weight).observe(stream(1)[0])
        assert state.average == pytest.approx(0.5 + weight * (state.distance - 0.5))


def test_bad_limits_and_batches_are_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="highest"):
        Limits(0.5, 0.4)
    with pytest.raises(InputError, match="both or none"):
        Limits(0.1, 0.4, confidence=0.9)
    with pytest.raises(InputError, match="weight 0"):
        DriftMonitor(model, Limits(0.1, 0.4), weight=0)
    with pytest.raises(InputError, match="at least 4"):
        learned_limits(model, batches(images(96)))
    with pytest.raises(InputError, match="finite"):
        DriftMonitor(model, Limits(0.1, 0.4)).observe(Batch(torch.full((4, 2, 6, 6), math.nan)))
