"""Images as parameters, and the objective that `fit` minimises over them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from plisse.compress.datafree.divergence import KL
from plisse.compress.datafree.priors import Domain, Priors
from plisse.compress.datafree.schemes import INPUT, EachImage, Observed, Scheme, granularity
from plisse.compress.datafree.statistics import Moments, Targets, bns, moments, observing
from plisse.core.batch import Batch, call
from plisse.train.task import Loss


class Canvas(nn.Module):
    """A batch of inputs as one parameter. Called, it gives them as the network shall see them: on the grid of
    pixels where there is one, with the gradient of the values before."""

    def __init__(self, start: Tensor, domain: Domain | None, grid: bool) -> None:
        super().__init__()
        self.values = nn.Parameter(start.clone())
        self.domain = domain
        self.grid = grid and domain is not None
        self.clamp()

    def forward(self) -> Tensor:
        if not self.grid or self.domain is None:
            return self.values
        with torch.no_grad():
            offset = self.domain.on_grid(self.values) - self.values
        return self.values + offset

    def clamp(self) -> None:
        """Bring the values back into the range of pixels, in place."""
        if self.domain is not None:
            with torch.no_grad():
                self.values.copy_(self.domain.clamped(self.values))

    def finished(self) -> Tensor:
        """The images, on the CPU and, where they are images, on the grid."""
        values = self.values.detach().cpu()
        return values.clone() if self.domain is None else self.domain.on_grid(values)


@dataclass(eq=False)
class Painting:
    """The objective: scheme + priors, of a frozen network, for one batch.

    centred: the images themselves count as one more layer, of mean 0 and deviation 1. values: BNS by KL after
    each iteration, where the network has statistics. iterations: so far.
    """

    network: nn.Module
    scheme: Scheme
    priors: Priors
    wanted: Targets
    labels: Tensor
    earlier: dict[str, Moments]
    centred: bool = False
    values: list[float] = field(default_factory=list)
    iterations: int = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        images = model()
        seen = self._observed(images if self.priors.views is None else self.priors.views(images))
        total = self.scheme(seen)
        parts = {}
        if self.wanted:
            with torch.no_grad():
                parts["bns"] = bns(seen.layers, self.wanted, KL())
            self.values.append(float(parts["bns"]))
        if self.priors.smooth is not None and images.dim() == 4:
            total = total + self.priors.smooth(images)
        self.iterations += 1
        return Loss(total, parts)

    def _observed(self, images: Tensor) -> Observed:
        alone = isinstance(granularity(self.scheme), EachImage)
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with observing(self.network, self.wanted, alone) as layers:
            logits = call(self.network, images)
        copies = len(images) // len(self.labels)
        layers = {name: replace(found, n=found.n // copies) for name, found in layers.items()}
        wanted = self.wanted
        if self.centred:
            layers[INPUT] = moments(images, alone)
            mean = images.new_zeros(images.shape[1])
            wanted = {**wanted, INPUT: (mean, torch.ones_like(mean))}
        return Observed(logits, self.labels.repeat(copies), layers, wanted, self.earlier)
