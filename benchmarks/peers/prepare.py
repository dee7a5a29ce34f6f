"""The folder of a job: weights, calibration and test inputs of both networks, readable in any environment.

    JOB/job.json                   what to run
    JOB/resnet20/weights.safetensors, calibration.npz, test.npz     images [N, 3, 32, 32] float32, normalized
    JOB/resnet20/model.onnx        the same network in floating point, with a free batch axis
    JOB/minilm/encoder/            config.json and model.safetensors
    JOB/minilm/calibration.npz, test.npz, model.onnx                tokens [N, T] int32 and lengths [N]

Calibration: 256 images of the `val` split, 512 sentences of STS-B train, no labels. Test: the 1,017 lossless
CIFAR-10 test images; both sentences of every STS-B dev pair, first all first ones.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from plisse.core.batch import Batches
from plisse.data.cifar10 import read_test, read_validation
from plisse.data.folder import data_set
from plisse.data.images import IMAGENET, ImageSet, normalized
from plisse.data.text import TextBatches
from plisse.export.onnx import to_onnx
from plisse.networks.open import open_model
from plisse.networks.transformer import minilm_folder
from plisse.train.tasks import open_task

N_IMAGES = 256
SMALL_IMAGES, SMALL_PAIRS, SMALL_SENTENCES = 200, 200, 64


@dataclass(frozen=True, eq=False)
class Reference:
    """targets: [N] what the outputs are scored against. bytes: of the float32 weights file."""

    targets: np.ndarray
    bytes: int


def prepare(
    job: Path, names: tuple[str, ...], small: bool, match: str = "", setting: str = ""
) -> dict[str, Reference]:
    """Write the folder; gives what the scores need, which no worker sees."""
    made = {"resnet20": _resnet20, "minilm": _minilm}
    found = {}
    for name in names:
        (job / name).mkdir(parents=True)
        found[name] = made[name](job / name, small)
    settings = {"networks": list(names), "small": small, "match": match, "setting": setting}
    (job / "job.json").write_text(json.dumps(settings))
    return found


def _resnet20(folder: Path, small: bool) -> Reference:
    weights = data_set("models", "cifar10_resnet20.safetensors")
    shutil.copyfile(weights, folder / "weights.safetensors")
    data = data_set("cifar10")
    test = read_test(data)
    test = test.take(np.arange(SMALL_IMAGES if small else len(test)))
    _images(folder / "calibration.npz", read_validation(data, 1).sample(N_IMAGES, 0))
    _images(folder / "test.npz", test)
    model = open_model("resnet20", weights=weights)
    to_onnx(model, normalized(test.pixels[:32], test.white, IMAGENET), folder / "model.onnx")
    assert test.labels is not None
    return Reference(test.labels, weights.stat().st_size)


def _images(path: Path, images: ImageSet) -> None:
    np.savez(path, images=normalized(images.pixels, images.white, IMAGENET).numpy())


def _minilm(folder: Path, small: bool) -> Reference:
    (folder / "encoder").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(minilm_folder() / name, folder / "encoder" / name)
    model = open_model("minilm")
    task = open_task("stsb", model=model)
    sentences = _parts(task.calibration)[0]
    first, second = _parts(task.holdout)
    scores = np.asarray(_text(task.holdout).targets)
    kept = SMALL_PAIRS if small else len(scores)
    _tokens(folder / "calibration.npz", sentences[: SMALL_SENTENCES if small else None])
    _tokens(folder / "test.npz", [*first[:kept], *second[:kept]])
    _export(model, task.example, folder)
    return Reference(scores[:kept], (minilm_folder() / "model.safetensors").stat().st_size)


def _export(model: nn.Module, example: Any, folder: Path) -> None:
    to_onnx(model, example, folder / "model.onnx")


def _text(batches: Batches) -> TextBatches:
    assert isinstance(batches, TextBatches)
    return batches


def _parts(batches: Batches) -> list[list[list[int]]]:
    return [[list(row) for row in part] for part in _text(batches).parts]


def _tokens(path: Path, rows: list[list[int]]) -> None:
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row
    np.savez(path, tokens=tokens, lengths=lengths)
