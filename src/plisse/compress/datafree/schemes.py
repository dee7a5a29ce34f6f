"""What synthetic images are made to fit: nothing (Gaussian), a class (Inception), the statistics of batch
norm, or several of these. Schemes are frozen dataclasses, called with what one iteration observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from plisse.compress.datafree.divergence import KL, MomentDivergence
from plisse.compress.datafree.statistics import Moments, Targets, bns
from plisse.errors import InputError

FORMS = ("exp", "linear", "ce")
INPUT = "input"
"""The name of the images themselves among the layers."""


@dataclass(frozen=True, eq=False)
class Observed:
    """One iteration. logits: [N, K]. labels: the wanted classes [N]. layers: moments at every layer of
    `wanted` (and of the images, as INPUT). earlier: those of all finished batches, empty in the first."""

    logits: Tensor
    labels: Tensor
    layers: Mapping[str, Moments]
    wanted: Targets
    earlier: Mapping[str, Moments] = field(default_factory=dict)


@runtime_checkable
class Scheme(Protocol):
    """Contract: a frozen dataclass; called with an `Observed`, a scalar to minimise, differentiable in the
    logits and the moments.

    needs_statistics: whether the network must hold statistics. optimizes: whether images are changed at all.
    """

    @property
    def needs_statistics(self) -> bool: ...

    @property
    def optimizes(self) -> bool: ...

    def __call__(self, seen: Observed) -> Tensor: ...


@dataclass(frozen=True)
class Gaussian:
    """Images of independent N(0, 1) values in the space of the network's inputs; nothing is fitted."""

    needs_statistics = False
    optimizes = False

    def __call__(self, seen: Observed) -> Tensor:
        return seen.logits.new_zeros(())


@dataclass(frozen=True)
class ClassLogits:
    """Raise the logit z of each image's class ("Inception" in the paper), by one of three forms:

    "exp": exp(-scale * mean z), whose slope fades as the logits grow; "linear": -scale * mean z; "ce":
    scale * cross-entropy. scale: above 0; where statistics are fitted too, scale * z must stay well below 1,
    for at 0.05 the statistics were left eight times as far off as without.
    Source: Haroush et al. 2020, scheme I; 4e-4 is their scale.
    """

    form: str = "exp"
    scale: float = 4e-4
    needs_statistics = False
    optimizes = True

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InputError(f"form {self.form!r}", expected=f"one of {', '.join(FORMS)}")
        if not self.scale > 0:
            raise InputError(f"scale {self.scale}", expected="a number above zero")

    def __call__(self, seen: Observed) -> Tensor:
        logits = seen.logits.float()
        if self.form == "ce":
            return self.scale * F.cross_entropy(logits, seen.labels)
        wanted = logits.gather(1, seen.labels[:, None]).mean()
        return torch.exp(-self.scale * wanted) if self.form == "exp" else -self.scale * wanted


@dataclass(frozen=True)
class EachBatch:
    """The statistics of a batch shall be those of the training data."""


@dataclass(frozen=True)
class AllImages:
    """Those of all images so far together shall be; a batch by itself may differ, as batches do."""


@dataclass(frozen=True)
class EachImage:
    """Those of every single image shall be (ZeroQ, Cai et al. 2020); layers need several positions."""


@dataclass(frozen=True)
class BatchNormStatistics:
    """weight * mean over layers and channels of divergence(images, training data), see `statistics.bns`.

    over: whose statistics are compared: EachBatch(), AllImages() or EachImage().
    Source: Haroush et al. 2020, scheme BNS.
    """

    divergence: MomentDivergence = field(default_factory=KL)
    weight: float = 1.0
    over: EachBatch | AllImages | EachImage = field(default_factory=EachBatch)
    needs_statistics = True
    optimizes = True

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InputError(f"weight {self.weight}", expected="a number above zero")

    def __call__(self, seen: Observed) -> Tensor:
        layers, share = dict(seen.layers), 1.0
        if isinstance(self.over, AllImages) and seen.earlier:
            both = {name: layers[name].joined(found) for name, found in seen.earlier.items()}
            share = min(layers[name].n / found.n for name, found in both.items())
            layers = {**layers, **both}
        return self.weight / share * bns(layers, seen.wanted, self.divergence)


@dataclass(frozen=True)
class Combination:
    """The sum of several schemes; the paper's best is BatchNormStatistics with ClassLogits.

    >>> Combination((BatchNormStatistics(), ClassLogits())).needs_statistics
    True
    """

    schemes: tuple[Scheme, ...]

    @property
    def needs_statistics(self) -> bool:
        return any(scheme.needs_statistics for scheme in self.schemes)

    @property
    def optimizes(self) -> bool:
        return any(scheme.optimizes for scheme in self.schemes)

    def __call__(self, seen: Observed) -> Tensor:
        return torch.stack([scheme(seen) for scheme in self.schemes]).sum()


SCHEMES: dict[str, Scheme] = {
    "gaussian": Gaussian(),
    "inception": ClassLogits("ce", 1.0),
    "bns": BatchNormStatistics(),
    "bns+inception": Combination((BatchNormStatistics(), ClassLogits())),
}
"""By the names that the command line and the paper use."""


def granularity(scheme: Scheme) -> EachBatch | AllImages | EachImage:
    """Whose statistics the scheme compares; that of the first part of a combination which does."""
    parts = scheme.schemes if isinstance(scheme, Combination) else (scheme,)
    found = [part.over for part in parts if isinstance(part, BatchNormStatistics)]
    return found[0] if found else EachBatch()
