"""What a way of coding frames must do, and the quality number that all of them share."""

from __future__ import annotations

from typing import Protocol

from plisse.codec.pictures import Planes
from plisse.errors import InputError

FINEST, COARSEST = 0.0, 51.0
WEIGHT = 0.13
"""lambda / D^2: near 2 ln 2 / 12, the slope of distortion over rate of a fine uniform quantizer."""
PLAIN, MOTION, LATENTS = range(3)
"""What steps of networks are: of weights alone, with motion, with motion and latents."""


class State(Protocol):
    """All that a decoder has after a frame. Encoders hold no more, so that they can go on from a file."""

    @property
    def planes(self) -> Planes:
        """The decoded frame, uint8 [H, W] and two of half the size."""
        ...


class Scheme(Protocol):
    """Frames to bytes and back. `before` is the state after the frame before, None for a key frame."""

    def encode(self, planes: Planes, before: State | None, crf: float, seed: int) -> tuple[bytes, State]: ...

    def decode(self, payload: bytes, before: State | None, offset: int, crf: float) -> State: ...

    def resized(self, state: State, size: tuple[int, int]) -> Planes:
        """The frame at another size, float64, 0 to 1."""
        ...


def check_crf(crf: float) -> None:
    if not FINEST <= crf <= COARSEST:
        raise InputError(f"quality number {crf:g}", expected=f"{FINEST:g} (finest) to {COARSEST:g}")


def qstep_at(crf: float) -> float:
    """Quantizer step in steps of 8 bits: doubles every 6, as in H.264 and H.265.

    >>> qstep_at(4), qstep_at(28)
    (1.0, 16.0)
    """
    return float(2.0 ** ((crf - 4) / 6))


def weight_at(crf: float) -> float:
    """lambda, in squared steps of 8 bits per bit."""
    return WEIGHT * qstep_at(crf) ** 2
