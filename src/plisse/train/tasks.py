"""Tasks by their names: `digits`, `cifar10:DIR`, `images:DIR`, `stsb:DIR`, `sst2:DIR`, or a factory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from plisse.core.batch import Batches
from plisse.core.spec import Option, Spec
from plisse.data.cifar10 import read_jpeg_test, read_test, read_train, read_validation
from plisse.data.class_folders import LAYOUT, read_class_folders
from plisse.data.deferred import Deferred
from plisse.data.digits import read_digits
from plisse.data.folder import data_set, require
from plisse.data.images import IMAGENET, UNIT, Augmentation, ImageBatches, ImageSet, Normalization
from plisse.errors import InputError
from plisse.networks.build import imported, unknown
from plisse.train.task import Task, classification
from plisse.train.text_tasks import sst2, stsb

N_CALIBRATION = 512
N_EXAMPLE = 32
FORMS = ("digits", "cifar10:DIR", "images:DIR", "stsb:DIR", "sst2:DIR", "package.module:task")


@dataclass(frozen=True)
class Request:
    """What a task is opened with. place: the folder, None for the one in the data folder."""

    name: str
    place: Path | None
    model: nn.Module | None
    batch_size: int
    seed: int


def open_task(
    spec: str,
    data: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> Task:
    """The task that `spec` names.

    spec: `digits`, `cifar10:DIR`, `images:DIR` (one folder per class; `images:DIR?size=64,channels=1`),
    `stsb:DIR`, `sst2:DIR`, or `package.module:task`, a callable that gives a `Task` (of the arguments here it
    gets those that it has parameters for, and the options in the spec). data: the folder, instead of `:DIR`;
    without either, cifar10, stsb and sst2 are looked for in the data folder. model: the network, whose
    tokenizer text needs, and whose first convolution tells whether images are grey. batch_size: samples per
    batch. seed: splits, calibration samples, order of training.

    Raises InputError for an unknown name and for missing or broken data.

    >>> task = open_task("digits")
    >>> task.example.shape, task.score.name
    (torch.Size([32, 1, 8, 8]), 'accuracy')
    """
    parsed = Spec.parse(spec)
    if parsed.name in TASKS:
        place = parsed.place or data
        request = Request(spec, Path(place) if place else None, model, batch_size, seed)
        return _called(TASKS[parsed.name], request, parsed)
    if parsed.is_callable and (parsed.place or "." in parsed.name):
        return _from_factory(parsed, data=data, model=model, batch_size=batch_size, seed=seed)
    raise unknown("task", spec, FORMS)


def cifar10_jpeg_holdout(place: str | Path | None = None, batch_size: int = 128) -> Batches:
    """The shifted holdout of cifar10: 5,000 official test images after lossy JPEG compression."""
    folder = require(place) if place else data_set("cifar10")
    return ImageBatches(read_jpeg_test(folder), batch_size)


def digits(request: Request) -> Task:
    """1,200 digits to train on, 256 of them without labels for calibration, 597 held out."""
    train, test = read_digits(request.seed)
    if request.place is not None:
        raise InputError(
            f"{request.name!r} with a folder", expected="digits alone: they come with scikit-learn"
        )
    return _image_task(request, train, train.sample(256, request.seed), test, UNIT, None)


def cifar10(request: Request) -> Task:
    """Train: 40,000 images, augmented. Calibration: 512 validation images without labels. Holdout: 1,017
    official test images, exact pixels. Normalized by ImageNet's mean and deviation."""
    folder = request.place or data_set("cifar10")
    test = read_test(require(folder, "a CIFAR-10 folder with test_exact.npz"))
    calibration = read_validation(folder, 1).sample(N_CALIBRATION, request.seed)
    train = Deferred(lambda: _training(read_train(folder), request, IMAGENET, Augmentation()))
    return _assembled(request, train, calibration, test, IMAGENET)


def images(request: Request, size: int = 32, channels: int | None = None) -> Task:
    """Folders of images, one per class: augmented for training, 512 training images without labels for
    calibration. channels: 3, normalized by ImageNet's mean and deviation, or 1, from 0 (black) to 1 (white);
    without, what the network's first convolution takes."""
    if request.place is None:
        raise InputError("'images' without a folder", expected=LAYOUT, hint="images:DIR")
    channels = channels or _channels(request.model)
    train, test = read_class_folders(request.place, size, request.seed, channels)
    calibration = train.sample(N_CALIBRATION, request.seed)
    normalization = IMAGENET if channels == 3 else UNIT
    return _image_task(request, train, calibration, test, normalization, Augmentation(max(1, size // 8)))


def _channels(model: nn.Module | None) -> int:
    """1 where the first convolution takes grey images, else 3."""
    found = (layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)) if model else ()
    return 1 if next(iter(found), 3) == 1 else 3


def stsb_task(request: Request, max_tokens: int = 256) -> Task:
    place = request.place or data_set("text", "glue", "STS-B")
    return stsb(place, _needed(request), request.batch_size, request.seed, max_tokens)


def sst2_task(request: Request, max_tokens: int = 256) -> Task:
    place = request.place or data_set("text", "glue", "SST-2")
    return sst2(place, _needed(request), request.batch_size, request.seed, max_tokens)


TASKS: dict[str, Callable[..., Task]] = {
    "cifar10": cifar10,
    "digits": digits,
    "images": images,
    "sst2": sst2_task,
    "stsb": stsb_task,
}


def _image_task(
    request: Request,
    train: ImageSet,
    calibration: ImageSet,
    test: ImageSet,
    normalization: Normalization,
    augmentation: Augmentation | None,
) -> Task:
    batches = _training(train, request, normalization, augmentation)
    return _assembled(request, batches, calibration, test, normalization)


def _assembled(
    request: Request, train: Batches, calibration: ImageSet, test: ImageSet, normalization: Normalization
) -> Task:
    plain = ImageBatches(calibration.unlabelled(), request.batch_size, normalization)
    holdout = ImageBatches(test, request.batch_size, normalization)
    example = ImageBatches(calibration, N_EXAMPLE, normalization)[0].inputs
    return classification(request.name, example, train, plain, holdout)


def _training(
    images: ImageSet, request: Request, normalization: Normalization, augmentation: Augmentation | None
) -> ImageBatches:
    return ImageBatches(
        images,
        request.batch_size,
        normalization,
        request.seed,
        shuffle=True,
        augmentation=augmentation,
        drop_last=True,
    )


def _needed(request: Request) -> nn.Module:
    if request.model is None:
        raise InputError(
            f"task {request.name!r} without a network",
            expected="a network with its tokenizer",
            hint="open_task('stsb', model=open_model('minilm'))",
        )
    return request.model


def _called(make: Callable[..., Task], request: Request, spec: Spec) -> Task:
    known = tuple(inspect.signature(make).parameters)[1:]
    if unheard := [key for key in spec.options if key not in known]:
        raise InputError(
            f"option {unheard[0]!r} of task {spec.name!r}", expected=f"one of {', '.join(known) or 'none'}"
        )
    for key, value in spec.options.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{key}={value} of task {spec.name!r}", expected="a whole number from 1")
    return make(request, **spec.options)


def _from_factory(spec: Spec, **given: Any) -> Task:
    name = f"{spec.name}:{spec.place}"
    make = imported(name)
    parameters = inspect.signature(make).parameters
    arguments: dict[str, Option | Any] = {key: value for key, value in given.items() if key in parameters}
    try:
        task = make(**{**arguments, **spec.options})
    except TypeError as error:
        raise InputError(f"task {name!r}: {error}", expected=f"options {', '.join(parameters)}") from error
    if not isinstance(task, Task):
        raise InputError(f"{name!r}, which gave a {type(task).__name__}", expected="a plisse Task")
    return task
