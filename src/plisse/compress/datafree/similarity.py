"""How far any data lies from what a network was trained on, read from its batch-norm statistics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plisse.compress.datafree.blocks import bootstrap, mean_confidence, measured_targets, observed, pooled
from plisse.compress.datafree.divergence import KL, MomentDivergence
from plisse.compress.datafree.order import gathered, is_sorted
from plisse.compress.datafree.statistics import layer_divergences
from plisse.core.batch import Batches

BLOCK, FEWEST_BLOCKS = 32, 16  # samples per block, the unit of the bootstrap; fewer where samples are few
SORTED = (
    "the batches come sorted by class: samples were drawn from all over an epoch and shuffled here; the "
    "first batches alone would seem further off"
)


@dataclass(frozen=True, eq=False)
class Similarity:
    """value: distance of n samples from the training data, in nats per channel, 0 for equal moments. low,
    high: its bootstrap interval (95 %). confidence: mean largest probability, None where the outputs are no
    logits. layers: distance at each layer. classes: share of the samples that the network puts into each
    class. notes: what to keep in mind.

    The distance sees moments of channels only: turning images by 90 degrees hardly moves it, while the
    confidence falls. Read both.
    """

    value: float
    low: float
    high: float
    confidence: float | None
    layers: Mapping[str, float]
    n: int
    classes: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    def furthest(self, n: int = 3) -> list[tuple[str, float]]:
        """The n layers of largest distance."""
        return sorted(self.layers.items(), key=lambda item: -item[1])[:n]


def similarity(
    model: nn.Module,
    batches: Batches,
    *,
    samples: int = 1024,
    seed: int = 0,
    divergence: MomentDivergence = KL(),
) -> Similarity:
    """Distance of `batches` to the training data of `model`: at every layer with statistics, per channel, the
    divergence of the data's moments from the stored ones; mean over channels, then over layers.

    Moments are pooled over all samples, so that their order does not matter. At most `samples` are read, from
    batches drawn from one epoch, and put into random order; blocks of up to 32 are resampled for the
    interval.
    Where batches come sorted by class (their labels, or else the network's own, differ between batches by
    more than chance) a UserWarning says so: one value per batch of such a loader would be too large.

    Zero is not reached: statistics are running averages over augmented images, so that the training set
    itself has a floor (0.018 for a ResNet-20). What counts is the order of data sets, and how many times the
    floor they lie. Source: Haroush et al. 2020, whose measure it is.

    Raises GraphError for a network without statistics, InputError without samples.

    >>> from plisse.core.batch import Batch, BatchList
    >>> net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> data = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    >>> _ = [net(data) for _ in range(100)]
    >>> near, far = (similarity(net, BatchList((Batch(x),))) for x in (data, data + 1))
    >>> near.value < 1e-4, 0.4 < far.low < far.value < far.high < 0.6
    (True, True)
    """
    wanted = measured_targets(model)
    found = gathered(batches, samples, seed)
    size = max(1, min(BLOCK, len(found.origin) // FEWEST_BLOCKS))
    blocks = observed(model, wanted, found.inputs, size)
    logits = blocks.logits
    classes = () if logits is None else tuple(shares(logits.argmax(1), logits.shape[1]).tolist())
    labels = found.labels if found.labels is not None or logits is None else logits.argmax(1)
    notes = _lopsided(classes)
    if labels is not None and is_sorted(labels, found.origin):
        warnings.warn(SORTED, stacklevel=2)
        notes = (SORTED, *notes)
    value, low, high = bootstrap(blocks, wanted, divergence, seed)
    layers = layer_divergences(
        pooled(blocks), {k: (m.cpu(), s.cpu()) for k, (m, s) in wanted.items()}, divergence
    )
    return Similarity(
        *(value, low, high),
        confidence=None if logits is None else mean_confidence(logits),
        layers={name: float(each) for name, each in layers.items()},
        n=len(found.origin),
        classes=classes,
        notes=notes,
    )


def shares(labels: Tensor, classes: int) -> Tensor:
    """Share of each class among labels [N]: [classes], sums to 1."""
    return torch.bincount(labels, minlength=classes).float() / max(len(labels), 1)


def _lopsided(classes: tuple[float, ...]) -> tuple[str, ...]:
    """A note where most samples look like one class."""
    if not classes or max(classes) <= 0.5 + 0.5 / len(classes):
        return ()
    top = classes.index(max(classes))
    return (
        f"{100 * classes[top]:.0f} % of the samples look like class {top}; a few classes alone lie further "
        "off than all of them together",
    )
