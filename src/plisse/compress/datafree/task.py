"""A task without data: the same nouns, filled with synthetic samples and the network's own answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from plisse.compress.datafree.synthetic import Synthetic
from plisse.compress.finetune import distilled
from plisse.core.batch import Batch, Batches
from plisse.data.images import UNIT, Augmentation, ImageBatches
from plisse.data.mixing import Transform, transformed
from plisse.errors import InputError
from plisse.train.task import ACCURACY, Score, Task, classification

N_CALIBRATION, N_EXAMPLE = 512, 32
AGREEMENT = dataclasses.replace(ACCURACY, name="agreement with the original")


@dataclass(frozen=True, eq=False)
class SampleBatches:
    """Batches of tensors in memory, inputs [N, ...] and targets [N] or none; with `shuffle` each epoch has
    its own order, drawn from (seed, epoch)."""

    inputs: Tensor
    target: Tensor | None = None
    batch_size: int = 128
    seed: int = 0
    shuffle: bool = False

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        epoch, position = divmod(index, len(self))
        order = np.arange(len(self.inputs))
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.inputs))
        rows = torch.from_numpy(order[position * self.batch_size : (position + 1) * self.batch_size])
        return Batch(self.inputs[rows], None if self.target is None else self.target[rows])

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))


def data_free(
    model: nn.Module,
    made: Synthetic,
    *,
    held: float = 0.2,
    augmentation: Augmentation | None = None,
    transforms: tuple[Transform, ...] = (),
    temperature: float = 2.0,
    hints: float = 0.0,
    holdout: Batches | None = None,
    score: Score | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> Task:
    """A `Task` whose every sample is synthetic; all steps work on it as on any other.

    train: made samples with the network's labels, shuffled; calibration: up to 512 of them, without labels.
    objective: distillation from `model`, see `distilled` (temperature, hints). augmentation: of training
    images, such as Augmentation(); transforms: of batches, such as (MixUp(), CutOut()).

    held: share of the samples, above 0 and below 1, that nothing is fitted to. Without data there is no
    accuracy: unless `holdout` and `score` are the caller's, the score is on these samples, the share of them
    that the original puts into the same class. It says how much a network has changed on what the original
    believes of its data, not how good it is.

    Raises InputError for a share out of range and for fewer than two samples.
    """
    n = len(made)
    apart = round(held * n)
    if n < 2 or not 0 < held < 1 or not 0 < apart < n:
        raise InputError(f"held={held} of {n} samples", expected="a share that leaves samples on both sides")
    rows = torch.arange(n)
    fitted, kept = rows[: n - apart], rows[n - apart :]
    train = _training(made, fitted, batch_size, seed, augmentation)
    calibration = SampleBatches(made.images[fitted[:N_CALIBRATION]], None, batch_size)
    own = SampleBatches(made.images[kept], made.labels[kept], batch_size)
    task = classification(
        "data-free",
        made.images[:N_EXAMPLE],
        transformed(train, transforms, seed),
        calibration,
        own if holdout is None else holdout,
    )
    task = dataclasses.replace(task, score=score or (AGREEMENT if holdout is None else ACCURACY))
    return distilled(task, model, temperature, hints=hints)


def _training(
    made: Synthetic, rows: Tensor, batch_size: int, seed: int, augmentation: Augmentation | None
) -> Batches:
    if augmentation is None:
        return SampleBatches(made.images[rows], made.labels[rows], batch_size, seed, shuffle=True)
    images = made.image_set().take(rows.numpy())
    normalization = UNIT if made.domain is None else made.domain.normalization
    return ImageBatches(
        images, batch_size, normalization, seed, shuffle=True, augmentation=augmentation, drop_last=True
    )
