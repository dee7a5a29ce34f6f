"""Images to compress with: real ones, shifted ones, noise, and what the network itself gives."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from plisse.compress.datafree.priors import Priors, Views, White
from plisse.compress.datafree.schemes import (
    SCHEMES,
    AllImages,
    BatchNormStatistics,
    ClassLogits,
    Combination,
    Scheme,
)
from plisse.compress.datafree.stopping import Never
from plisse.compress.datafree.synthesize import Effort, synthesize
from plisse.compress.datafree.synthetic import Synthetic
from plisse.core.batch import Batch, Batches, BatchList
from plisse.data.cifar10 import read_jpeg_test, read_train, read_validation
from plisse.data.folder import data_set
from plisse.data.images import IMAGENET, Augmentation, ImageBatches, ImageSet
from plisse.networks.open import open_model
from plisse.train.task import Task
from plisse.train.tasks import open_task

SHAPE = (3, 32, 32)
SHIFTED = Views(1, flip=0.5, crop=1.0, holes=0, shift=2)
N_CALIBRATION = 256
N_TRAIN = 1024
TEST = 1017
"""Official test images that scores are taken on; the JPEG ones of the same numbers are left out."""

SCHEME: dict[str, Scheme] = {
    "Gaussian": SCHEMES["gaussian"],
    "Inception": SCHEMES["inception"],
    "BNS": SCHEMES["bns"],
    "BNS+Inception": SCHEMES["bns+inception"],
}
"""The paper's schemes, with the defaults of `synthesize`."""

VARIANTS: dict[str, dict[str, Any]] = {
    "BNS, all iterations": {"effort": Effort(stop=Never())},
    "BNS, from white noise": {"priors": Priors(start=White())},
    "BNS, shifted views": {"effort": Effort(stop=Never()), "priors": Priors(views=SHIFTED)},
    "BNS, cross-entropy": {"scheme": Combination((BatchNormStatistics(), ClassLogits("ce", 0.05)))},
    "BNS, over all images": {"scheme": BatchNormStatistics(over=AllImages()), "effort": Effort(batch=64)},
}
"""BNS with one thing different."""

SOURCES = ("real", "Gaussian", "BNS", "BNS+Inception", "JPEG", "Inception")


@dataclass(frozen=True)
class Source:
    """Where images come from, and the seed of the choice or of the synthesis."""

    name: str
    network: str = "resnet20"
    seed: int = 0

    @property
    def synthetic(self) -> bool:
        return self.name in SCHEME or self.name in VARIANTS


@cache
def original(network: str) -> nn.Module:
    weights = data_set("models", f"cifar10_{network}.safetensors")
    return open_model(network, weights=weights).eval()


@cache
def cifar() -> Task:
    return open_task("cifar10")


def made(source: Source, n: int) -> Synthetic:
    """n images of a scheme; kept in a temporary folder, so that rows share them and a run can go on."""
    folder = Path(tempfile.gettempdir()) / "plisse-datafree"
    folder.mkdir(exist_ok=True)
    path = folder / f"{source.network}-{source.name}-{source.seed}-{n}.safetensors"
    how = VARIANTS.get(source.name) or {"scheme": SCHEME[source.name]}
    return synthesize(original(source.network), shape=SHAPE, n=n, seed=source.seed, checkpoint=path, **how)


def few(source: Source) -> Batches:
    """256 images without labels, in batches of 128."""
    if source.synthetic:
        images = made(source, N_CALIBRATION).images
        return BatchList(tuple(Batch(part.clone()) for part in images.split(128)))
    chosen = _read(source.name).sample(N_CALIBRATION, source.seed)
    return ImageBatches(chosen.unlabelled(), 128, IMAGENET)


def many(source: Source) -> Batches:
    """Images to train on, augmented: all 40,000 real ones, or 1,024 of another source."""
    if source.name == "real":
        return cifar().train
    if source.synthetic:
        images = made(source, N_TRAIN).image_set()
    else:
        images = _read(source.name).sample(N_TRAIN, source.seed)
    return ImageBatches(
        images, 128, IMAGENET, source.seed, shuffle=True, augmentation=Augmentation(), drop_last=True
    )


def task_of(source: Source, train: bool = False) -> Task:
    """The CIFAR-10 task with images of the source; scores stay those on real test images."""
    task = dataclasses.replace(cifar(), calibration=few(source))
    return dataclasses.replace(task, train=many(source)) if train else task


def _read(name: str) -> ImageSet:
    folder = data_set("cifar10")
    if name == "real":
        return read_validation(folder, 1)
    if name == "1,024 real":
        return read_train(folder, 2)
    shifted = read_jpeg_test(folder)
    return shifted.take(np.arange(TEST, len(shifted)))


def describe(source: Source, n: int) -> dict[str, Any]:
    """Of synthetic images: how they were made and what the network says of them."""
    if not source.synthetic:
        return {}
    report = made(source, n).report
    return {
        "bns": report.mean_bns,
        "confidence": report.confidence,
        "iterations": list(report.iterations),
        "synthesis_seconds": round(report.seconds, 1),
    }
