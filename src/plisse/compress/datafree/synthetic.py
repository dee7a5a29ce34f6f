"""Synthetic images as a value: what they are, what they were made with, and how they are kept."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plisse.bitstream.atomic import write_atomic
from plisse.compress.datafree.priors import Domain
from plisse.data.class_folders import CLASSES
from plisse.data.images import ImageSet, Normalization
from plisse.errors import InputError, OutputError

HEADER = "plisse synthetic"


@dataclass(frozen=True)
class SynthesisReport:
    """bns: layer name to divergence of all images from the training data, empty for a network without
    statistics. confidence: mean largest probability of the network. histogram: images per class that the
    network sees. iterations: per batch. seconds: over all resumed runs. scheme: as printed."""

    bns: Mapping[str, float]
    confidence: float
    histogram: tuple[int, ...]
    iterations: tuple[int, ...]
    seconds: float
    scheme: str

    @property
    def mean_bns(self) -> float | None:
        """Mean over layers; None without statistics."""
        return sum(self.bns.values()) / len(self.bns) if self.bns else None


@dataclass(frozen=True, eq=False)
class Synthetic:
    """images: what the network takes, [N, ...]. labels: the network's own, [N]. domain: where pixels live;
    None for inputs that are no images."""

    images: Tensor
    labels: Tensor
    report: SynthesisReport
    domain: Domain | None = None

    def __len__(self) -> int:
        return len(self.images)

    def image_set(self) -> ImageSet:
        """As pixels [N, H, W, C] with labels, like any data set of images.

        Raises InputError where inputs are no images.
        """
        if self.domain is None:
            raise InputError(
                "synthetic inputs without a domain", expected="images [N, C, H, W] with a Domain"
            )
        pixels = self.domain.symbols(self.images).permute(0, 2, 3, 1).to(torch.uint8)
        classes = tuple(str(k) for k in range(len(self.report.histogram)))
        labels = self.labels.numpy().astype(np.int64)
        return ImageSet(np.ascontiguousarray(pixels.numpy()), labels, classes, self.domain.white)

    def save(self, path: str | Path) -> None:
        """Write images, labels and report to one safetensors file, atomically. Raises OutputError."""
        domain = None if self.domain is None else dataclasses.asdict(self.domain)
        header = {"report": dataclasses.asdict(self.report), "domain": domain}
        tensors = {"images": self.images.contiguous(), "labels": self.labels}
        write_atomic(path, safetensors.torch.save(tensors, {HEADER: json.dumps(header)}))

    def save_folders(self, folder: str | Path) -> None:
        """Write FOLDER/CLASS/00000.png ..., which the task `images:FOLDER` reads, and FOLDER/classes.txt,
        so that classes which no image fell into keep their place.

        Grey values are stretched to 8 bits. Raises InputError where inputs are no images of 1 or 3 channels,
        and for a folder that holds something, such as other images; OutputError for one that cannot be made.
        """
        images = self.image_set()
        if images.pixels.shape[3] not in (1, 3) or images.labels is None:
            raise InputError(
                f"images of {images.pixels.shape[3]} channels", expected="1 or 3, to be PNG files"
            )
        folder = new_folder(folder)
        pixels = np.rint(images.pixels * (255 / images.white)).astype(np.uint8)
        width = len(str(len(images.classes) - 1))
        names = [f"{label:0{width}d}" for label in range(len(images.classes))]
        (folder / CLASSES).write_text("\n".join([*names, ""]), encoding="utf-8")
        for number, (image, label) in enumerate(zip(pixels, images.labels.tolist(), strict=True)):
            place = folder / names[label]
            place.mkdir(exist_ok=True)
            kept = io.BytesIO()
            Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(kept, "PNG")
            (place / f"{number:05d}.png").write_bytes(kept.getvalue())


def new_folder(path: str | Path) -> Path:
    """A folder that is empty but for hidden files; made where it is missing.

    Raises InputError for one that holds something, OutputError where it cannot be made.
    """
    folder = Path(path)
    if folder.is_dir() and any(not inside.name.startswith(".") for inside in folder.iterdir()):
        raise InputError(
            f"folder {str(folder)!r}, which is not empty",
            expected="a new or an empty one, so that images of two runs are not mixed",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"folder {str(path)!r}: {reason}", expected="a folder that can be made") from error
    return folder


def load_synthetic(path: str | Path) -> Synthetic:
    """What `Synthetic.save` wrote. Raises InputError for any other file."""
    try:
        with safe_open(str(path), "pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[HEADER])
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
        report = SynthesisReport(**_tuples(header["report"]))
        domain = header["domain"]
        if domain is not None:
            domain = Domain(Normalization(**_tuples(domain["normalization"])), domain["white"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"a file {str(path)!r} that holds no synthetic images ({error})", expected="one that save() wrote"
        ) from error
    return Synthetic(images, labels, report, domain)


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
