"""Images without data: what comes out, how it is kept, what is refused, and tasks made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from plisse.compress.datafree.priors import Domain, Pink, Priors, Smooth, Views, White, default_domain
from plisse.compress.datafree.schemes import SCHEMES, BatchNormStatistics, ClassLogits
from plisse.compress.datafree.statistics import KEPT_MEAN, KEPT_STD, observing, targets
from plisse.compress.datafree.stopping import Floor, Never, Plateau
from plisse.compress.datafree.synthesize import Effort, synthesize
from plisse.compress.datafree.synthetic import Synthetic, load_synthetic
from plisse.compress.datafree.task import data_free
from plisse.compress.finetune import FineTune, ReestimateNorm
from plisse.compress.fold import AbsorbStatistics, FoldBatchNorm
from plisse.compress.lowrank.factorize import Factorize
from plisse.compress.prune.patterns import Channels
from plisse.compress.prune.prune import Prune
from plisse.compress.quantize.activations import Activations
from plisse.compress.quantize.aware import Aware
from plisse.compress.quantize.quantize import Quantize
from plisse.compress.quantize.rounding import Reconstruct
from plisse.compress.step import Step, chain
from plisse.core.batch import call
from plisse.core.modules import clone
from plisse.core.reparam import baked
from plisse.data.images import UNIT, Augmentation, Normalization
from plisse.data.mixing import CutOut, MixUp
from plisse.errors import GraphError, InputError, OutputError
from plisse.train.evaluate import evaluate
from plisse.train.tasks import open_task

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 3),
    )
    for _ in range(40):
        network(1.3 * torch.randn(16, *SHAPE) + 0.2)
    return network.eval()


@pytest.fixture(scope="module")
def made(model: nn.Module) -> Synthetic:
    return synthesize(model, shape=SHAPE, n=40, effort=Effort(8, batch=32))


def test_images_live_on_the_grid_and_labels_are_the_networks(model: nn.Module, made: Synthetic) -> None:
    domain = made.domain
    assert domain == Domain()
    torch.testing.assert_close(domain.on_grid(made.images), made.images)
    with torch.no_grad():
        logits = model(made.images)
    assert torch.equal(logits.argmax(1), made.labels)
    assert made.report.confidence == pytest.approx(float(logits.softmax(1).amax(1).mean()), abs=1e-5)
    assert len(made.report.iterations) == 2
    assert set(made.report.bns) == {"1", "4"}


def test_the_shape_comes_from_an_example(model: nn.Module) -> None:
    made = synthesize(model, torch.zeros(1, *SHAPE), n=4, effort=Effort(1))
    assert made.images.shape == (4, *SHAPE)


def test_images_survive_files(made: Synthetic, tmp_path: Path) -> None:
    made.save(tmp_path / "made.safetensors")
    again = load_synthetic(tmp_path / "made.safetensors")
    assert torch.equal(again.images, made.images)
    assert torch.equal(again.labels, made.labels)
    assert (again.report, again.domain) == (made.report, made.domain)
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no synthetic"):
        load_synthetic(tmp_path / "other")


def test_a_folder_of_images_is_a_data_set_of_its_own(made: Synthetic, tmp_path: Path) -> None:
    labels = torch.arange(40) % 3
    balanced = Synthetic(made.images, labels, made.report, made.domain)
    balanced.save_folders(tmp_path)
    task = open_task(f"images:{tmp_path}?size=8")
    shown = torch.cat([batch.inputs for batch in task.holdout])
    wanted = made.images.reshape(40, -1)
    distances = torch.cdist(
        shown.reshape(len(shown), -1), wanted, compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = distances.amin(1)
    assert float(nearest.max()) < 1e-3


def test_classes_that_no_image_fell_into_keep_their_place(made: Synthetic, tmp_path: Path) -> None:
    classes = len(made.report.histogram)
    labels = 1 + torch.arange(40) % (classes - 1)  # none in class 0
    Synthetic(made.images, labels, made.report, made.domain).save_folders(tmp_path)
    task = open_task(f"images:{tmp_path}?size=8")
    shown = torch.cat([batch.inputs for batch in task.holdout]).flatten(1)
    found = torch.cat([batch.target for batch in task.holdout])
    nearest = torch.cdist(shown, made.images.flatten(1)).argmin(1)
    assert len(found) >= 8
    assert torch.equal(found, labels[nearest])


def test_images_of_two_runs_are_not_mixed(made: Synthetic, tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    made.save_folders(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="not empty"):
        made.save_folders(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(OutputError, match="can be made"):
        made.save_folders(tmp_path / ".hidden")


def test_a_batch_of_views_is_as_many_times_as_large() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 1, 9, 9)
    assert Views()(images).shape == (12, 1, 9, 9)
    still = Views(1, flip=0.0, crop=1.0, holes=0)
    assert torch.equal(still(images), images)
    mirrored = Views(1, flip=1.0, crop=1.0, holes=0)(images)
    assert torch.equal(mirrored, images.flip((2, 3)))
    shifted = Views(1, flip=0.0, crop=1.0, holes=0, shift=2)(torch.ones(1, 1, 9, 9))
    assert torch.equal(shifted, torch.ones(1, 1, 9, 9))


def test_pink_noise_is_smoother_than_white_and_has_unit_deviation() -> None:
    draw = torch.Generator().manual_seed(0)
    pink, white = (start(64, (3, 16, 16), draw) for start in (Pink(), White()))
    assert float(Smooth()(pink)) < 0.5 * float(Smooth()(white))
    assert float(pink.square().mean()) == pytest.approx(1, abs=1e-3)
    assert Pink()(4, (7,), draw).shape == (4, 7)


def test_all_priors_together(model: nn.Module) -> None:
    priors = Priors(White(), Smooth(0.1), Views(copies=2, shift=1), grid=False)
    made = synthesize(model, shape=SHAPE, n=6, priors=priors, effort=Effort(3))
    assert bool(torch.isfinite(made.images).all())


def test_networks_of_vectors_have_no_pixels() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    for _ in range(20):
        network(torch.randn(32, 5) + 2)
    made = synthesize(network.eval(), shape=(5,), n=64, effort=Effort(40, Never()))
    assert made.domain is None
    with pytest.raises(InputError, match="domain"):
        made.image_set()
    assert evaluate(network, data_free(network, made)).score == 1.0


def test_folded_layers_say_what_was_kept(model: nn.Module) -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    mean, std = torch.randn(8), torch.rand(8) + 0.5
    layer.register_buffer(KEPT_MEAN, mean)
    layer.register_buffer(KEPT_STD, std)
    network = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)).eval()
    found = targets(network)
    torch.testing.assert_close(found["0"], (mean, std), rtol=1e-4, atol=1e-4)
    images = torch.randn(4, *SHAPE)
    with observing(network, found) as table:
        network(images)
    torch.testing.assert_close(table["0"].mean, layer(images).mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    made = synthesize(network, shape=SHAPE, n=16, effort=Effort(30, Never()))
    assert made.report.mean_bns < 1.0


def test_absorbed_statistics_say_nothing(model: nn.Module, made: Synthetic) -> None:
    absorbed = AbsorbStatistics()(model, data_free(model, made))
    assert targets(absorbed) == {}
    with pytest.raises(GraphError, match="keep_statistics"):
        synthesize(absorbed, shape=SHAPE)
    without = synthesize(absorbed, shape=SHAPE, n=4, scheme=ClassLogits(), effort=Effort(2))
    assert without.report.mean_bns is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--input-shape"),
        ({"shape": ()}, "--input-shape"),
        ({"shape": (3, 0, 8)}, "shape"),
        ({"shape": (4, 8, 8)}, "cannot take"),
        ({"shape": (3, 9, 9)}, "cannot take"),
        ({"shape": SHAPE, "n": 0}, "n=0"),
        ({"shape": SHAPE, "domain": Domain(Normalization((0.0, 0.0), (1.0, 1.0)))}, "channels"),
    ],
)
def test_what_cannot_be_is_refused(model: nn.Module, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(model, **given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Effort(steps=0),
        lambda: Effort(batch=0),
        lambda: Floor(0.0),
        lambda: Floor(window=0),
        lambda: Plateau(1.0),
        lambda: Smooth(-1.0),
        lambda: Smooth(size=4),
        lambda: Views(copies=0),
        lambda: Views(flip=2.0),
        lambda: Pink(shared=1.5),
        lambda: Domain(white=0),
        lambda: Domain(Normalization((0.0,), (0.0,))),
        lambda: ClassLogits("cubic"),
        lambda: ClassLogits(scale=0.0),
        lambda: ClassLogits(scale=float("nan")),
        lambda: BatchNormStatistics(weight=0.0),
    ],
)
def test_values_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError):
        make()


def test_another_run_does_not_go_on_from_a_checkpoint(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "made"
    synthesize(model, shape=SHAPE, n=4, effort=Effort(1), checkpoint=path)
    with pytest.raises(InputError, match="seed"):
        synthesize(model, shape=SHAPE, n=4, effort=Effort(1), checkpoint=path, seed=1)


def test_progress_goes_to_standard_error(model: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    synthesize(model, shape=SHAPE, n=4, effort=Effort(2), progress="images")
    found = capsys.readouterr()
    assert found.out == ""
    assert "images" in found.err


def test_a_default_domain_is_a_guess_from_the_shape() -> None:
    assert default_domain((3, 8, 8)) == Domain()
    assert default_domain((1, 8, 8)) == Domain(UNIT)
    assert default_domain((5,)) is None
    assert default_domain((4, 8, 8)) is None


def test_a_task_without_data_keeps_its_samples_apart(model: nn.Module, made: Synthetic) -> None:
    task = data_free(model, made, held=0.25, batch_size=8)
    assert [len(task.train), len(task.calibration), len(task.holdout)] == [4, 4, 2]
    assert task.calibration[0].target is None
    held = torch.cat([batch.inputs for batch in task.holdout])
    assert torch.equal(held, made.images[30:])
    assert task.score.name == "agreement with the original"
    assert evaluate(model, task).score == 1.0
    epochs = [task.train[index].inputs for index in (0, 4)]
    assert not torch.equal(*epochs)
    assert torch.equal(task.train[4].inputs, epochs[1])
    with pytest.raises(InputError, match="held"):
        data_free(model, made, held=1.0)


def test_the_callers_holdout_is_scored_by_accuracy(model: nn.Module, made: Synthetic) -> None:
    own = data_free(model, made, batch_size=8).holdout
    assert data_free(model, made, holdout=own).score.name == "accuracy"


STEPS = [
    Quantize(bits=4, activations=Activations(8)),
    chain(FoldBatchNorm(), Quantize(bits=3, rounding=Reconstruct(steps=3, samples=16))),
    Quantize(bits=4, aware=Aware(steps=3)),
    Prune(sparsity=0.5),
    chain(Prune(sparsity=0.25, pattern=Channels()), ReestimateNorm(2)),
    Factorize({"3": 4}, whitened=True),
    FineTune(3, transforms=(MixUp(), CutOut())),
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_steps_work_without_data_as_with_it(step: Step, model: nn.Module, made: Synthetic) -> None:
    task = data_free(model, made, batch_size=8, hints=0.01)
    result = baked(step(model, task)).eval()
    assert call(result, task.example).shape == (32, 3)
    assert 0 <= evaluate(result, task).score <= 1


def test_training_may_augment_and_mix(model: nn.Module, made: Synthetic) -> None:
    task = data_free(
        model, made, batch_size=8, augmentation=Augmentation(2), transforms=(MixUp(), CutOut()), hints=0.01
    )
    assert task.train[0].target is None
    assert task.train[0].inputs.shape == (8, *SHAPE)
    damaged = clone(model)
    nn.init.zeros_(damaged[7].weight)
    tuned = FineTune(60, lr=0.05, precision="32-true")(damaged, task)
    batch = next(iter(data_free(model, made).holdout))
    losses = [float(task.objective(net.eval(), batch).total.detach()) for net in (damaged, tuned)]
    assert losses[1] < losses[0]


def test_names_of_schemes_are_those_of_the_paper() -> None:
    assert list(SCHEMES) == ["gaussian", "inception", "bns", "bns+inception"]
    assert np.isclose(SCHEMES["bns+inception"].schemes[1].scale, 4e-4)
