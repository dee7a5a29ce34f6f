"""Hold the rate while training: steps follow the weights, so that written bytes stay as planned.

Training with a straight-through gradient pulls weights out of the dead zone; with fixed steps the file would
end up to a fifth larger than it began.
"""

from __future__ import annotations

from dataclasses import dataclass

from plisse.compress.quantize.rated import coded_bytes, rescale
from plisse.train.loop import State

GENTLEST, STRONGEST = 0.95, 1.15
LOOKS = 8
"""At least so many in a training, over the whole of it, however short it is."""


@dataclass(frozen=True)
class HoldRate:
    """A hook for `fit`: every so often, write the entropy-coded weights and scale all steps by
    (bytes / target) ^ gain.

    target: bytes for all entropy-coded weights. every: steps between two looks, at most. until: share of the
    training after which the steps stay as they are, so that the weights settle.
    """

    target: int
    every: int = 25
    until: float = 0.75
    gain: float = 0.7

    def __call__(self, state: State) -> None:
        every = max(1, min(self.every, state.steps // LOOKS))
        if (state.step + 1) % every or state.step > self.until * state.steps:
            return
        factor = (coded_bytes(state.model) / self.target) ** self.gain
        rescale(state.model, min(max(factor, GENTLEST), STRONGEST))
