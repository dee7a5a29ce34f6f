"""How far data sets lie from what a network was trained on: `python -m benchmarks.similarity [--small]`.

ResNet-20, trained on CIFAR-10 (all 50,000 official training images). Data sets, each with up to 1,017 images:
training images, the lossless test images and changed copies of these, one class or a part of the classes,
other photographs (32 x 32 crops of the two that come with scikit-learn), MNIST digits, noise.
Measured by `similarity` with its interval and the network's confidence; accuracy on 256 of the images beside
it, where there are labels.

Then loaders that come sorted by class, and a drift monitor: batches of 64 images of one half of the test
images, 30 as they are, then for every change up to 10 changed ones; limits learned on the other half, and, to
see what that does, on 512 validation images, which the network was trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks.record import RESULTS, write
from plisse.compress.datafree.drift import DriftMonitor, DriftState, learned_limits
from plisse.compress.datafree.similarity import Similarity, similarity
from plisse.core.batch import Batch, BatchList
from plisse.data.cifar10 import read_test, read_train, read_validation
from plisse.data.folder import data_set
from plisse.data.images import ImageBatches, ImageSet
from plisse.networks.open import open_model

BATCH, ACCURACY = 64, 256
CLEAN, CHANGED = 30, 10
NOISE = "noise, N(0, 1)"
Pixels = NDArray[np.uint8]
Row = dict[str, Any]
ANIMALS, VEHICLES = (2, 3, 4, 5, 6, 7), (0, 1, 8, 9)


def changes() -> dict[str, Callable[[Pixels], Pixels]]:
    """Changed copies of images [N, 32, 32, 3]."""
    return {
        "rotated by 90 degrees": lambda x: np.ascontiguousarray(np.rot90(x, axes=(1, 2))),
        "JPEG, quality 75": _jpeg,
        "brightness x 0.7": lambda x: np.rint(0.7 * x).astype(np.uint8),
        "grey": lambda x: np.repeat(np.rint(x.mean(3, keepdims=True)), 3, 3).astype(np.uint8),
        "noise of deviation 0.05 added": _noisy,
        "blur, 3 x 3": _blurred,
        "pixels shuffled": _shuffled,
    }


def data_sets(test: ImageSet, train: ImageSet) -> Iterator[tuple[str, ImageSet]]:
    """Name and images, roughly in the order that common sense expects."""
    assert test.labels is not None
    yield "training images", train.sample(len(test))
    yield "test images", test
    for name, kept in (("animals", ANIMALS), ("vehicles", VEHICLES), ("one class: cats", (3,))):
        yield name, test.take(np.flatnonzero(np.isin(test.labels, kept)))
    for name, change in changes().items():
        yield name, ImageSet(change(test.pixels), test.labels, test.classes)
    yield "other photographs", photographs(len(test))
    yield "MNIST digits", digits(len(test))


def photographs(n: int) -> ImageSet:
    """Crops of 32 x 32 pixels, at a quarter of the resolution."""
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    small = [
        np.asarray(
            Image.fromarray(image).resize((image.shape[1] // 4, image.shape[0] // 4), Image.Resampling.BOX)
        )
        for image in load_sample_images().images
    ]
    crops = []
    for number in range(n):
        image = small[number % len(small)]
        top, left = (int(draw.integers(0, side - 31)) for side in image.shape[:2])
        crops.append(image[top : top + 32, left : left + 32])
    return ImageSet(np.stack(crops), None)


def digits(n: int) -> ImageSet:
    """White on black, with a border of 2 pixels, three equal channels."""
    import gzip

    data = gzip.decompress((data_set("mnist") / "t10k-images-idx3-ubyte.gz").read_bytes())
    grey = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)[:n]
    return ImageSet(np.repeat(np.pad(grey, ((0, 0), (2, 2), (2, 2)))[..., None], 3, 3), None)


def _jpeg(pixels: Pixels) -> Pixels:
    def coded(image: Pixels) -> Pixels:
        kept = io.BytesIO()
        Image.fromarray(image).save(kept, "JPEG", quality=75)
        return np.asarray(Image.open(kept))

    return np.stack([coded(image) for image in pixels])


def _noisy(pixels: Pixels) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 0.05 * 255, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _blurred(pixels: Pixels) -> Pixels:
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    mean = F.avg_pool2d(F.pad(planes, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return mean.round().byte().permute(0, 2, 3, 1).numpy()


def _shuffled(pixels: Pixels) -> Pixels:
    order = np.random.default_rng(0).permutation(32 * 32)
    return pixels.reshape(len(pixels), -1, 3)[:, order].reshape(pixels.shape)


def distances(model: nn.Module, test: ImageSet, train: ImageSet, done: Collection[str]) -> Iterator[Row]:
    """A row per data set that is not `done`."""
    for name, images in data_sets(test, train):
        if name not in done:
            found = quietly(model, ImageBatches(images, BATCH))
            yield {"data": name, **row(found), "accuracy": _accuracy(model, images)}
    if NOISE not in done:
        noise = torch.randn(len(test), 3, 32, 32, generator=torch.Generator().manual_seed(0))
        found = quietly(model, BatchList(tuple(Batch(part) for part in noise.split(BATCH))))
        yield {"data": NOISE, **row(found), "accuracy": None}


def row(found: Similarity) -> Row:
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "n": found.n,
        "furthest": found.furthest(),
    }


def quietly(model: nn.Module, batches: Any, **given: Any) -> Similarity:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return similarity(model, batches, **given)


def _accuracy(model: nn.Module, images: ImageSet) -> float | None:
    if images.labels is None:
        return None
    batch = ImageBatches(images.sample(ACCURACY), ACCURACY)[0]
    with torch.inference_mode():
        return float((model(batch.inputs).argmax(1) == batch.target).float().mean())


def loaders(model: nn.Module, test: ImageSet, done: Collection[str]) -> Iterator[Row]:
    """The same images in three orders: the value, whether a warning came, the mean of values of batches."""
    assert test.labels is not None
    orders = {
        "as they come": np.arange(len(test)),
        "shuffled": np.random.default_rng(0).permutation(len(test)),
        "sorted by class": np.argsort(test.labels, kind="stable"),
    }
    for name, order in orders.items():
        if name in done:
            continue
        batches = ImageBatches(test.take(order), BATCH)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = similarity(model, batches)
        each = [quietly(model, BatchList((batch,))).value for batch in batches]
        yield {"order": name, **row(found), "warned": bool(said), "mean_of_batches": float(np.mean(each))}


def drift(model: nn.Module, test: ImageSet, validation: ImageSet) -> Row:
    """False alarms with limits from images that the network was not, or was, trained on; and with the former,
    for every change, the batches until an alarm."""
    half = len(test) // 2
    reference, stream = test.take(np.arange(half)), test.take(np.arange(half, len(test)))
    draw = np.random.default_rng(0)

    def seen(monitor: DriftMonitor, change: Callable[[Pixels], Pixels]) -> DriftState:
        images = stream.take(draw.permutation(len(stream))[:BATCH])
        return monitor.observe(ImageBatches(ImageSet(change(images.pixels), None), BATCH)[0])

    found: Row = {"clean": CLEAN, "rows": []}
    for name, images in (("trained_on", validation), ("unseen", reference)):
        limits = learned_limits(model, ImageBatches(images, BATCH))
        monitor = DriftMonitor(model, limits)
        alarms = [seen(monitor, lambda pixels: pixels).alarm for _ in range(CLEAN)]
        found[name] = {"limits": dataclasses.asdict(limits), "false_alarms": sum(alarms)}
    for name, change in changes().items():
        monitor.reset()
        number, state = 1, seen(monitor, change)
        while not state.alarm and number < CHANGED:
            number, state = number + 1, seen(monitor, change)
        found["rows"].append(
            {"change": name, "batches": number if state.alarm else None, "reasons": list(state.reasons)}
        )
        print(found["rows"][-1], flush=True)
    return found


def earlier(name: str) -> Row:
    """What an earlier run has measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="256 images")
    parser.add_argument("--fresh", action="store_true", help="start anew")
    parser.add_argument("--rows", type=int, default=1000, help="at most so many new rows")
    chosen = parser.parse_args()
    name = "similarity_small" if chosen.small else "similarity"
    folder = data_set("cifar10")
    test, train, validation = read_test(folder), read_train(folder, 2), read_validation(folder, 1)
    if chosen.small:
        test = test.take(np.arange(256))
    model = open_model("resnet20", data_set("models", "cifar10_resnet20.safetensors")).eval()
    found = {"network": "resnet20", "rows": [], "loaders": [], **({} if chosen.fresh else earlier(name))}
    left = chosen.rows
    parts = (
        ("rows", distances(model, test, train, {each["data"] for each in found["rows"]})),
        ("loaders", loaders(model, test, {each["order"] for each in found["loaders"]})),
    )
    for part, rows in parts:
        for each in itertools.islice(rows, left):
            found[part].append(each)
            left -= 1
            print(each, flush=True)
            write(name, found)
    if "drift" not in found and left > 0:
        found["drift"] = drift(model, test, validation.sample(512))
        write(name, found)


if __name__ == "__main__":
    main()
