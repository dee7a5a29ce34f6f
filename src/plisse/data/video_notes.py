"""Sentences on what frames do not keep of the file that they are read from."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from plisse.data.frames import Chroma, halved

if TYPE_CHECKING:
    import av

HALVED = "chroma is halved in both directions"
HALVED_DOWN = "chroma is halved from top to bottom"
HALVED_ACROSS = "chroma is halved from left to right"


def changes(stream: Any, frame: av.VideoFrame, chroma: Chroma) -> tuple[str, ...]:
    """Sentences on what frames as `frame`, the first of `stream`, lose when they become planes of 8 bits.

    chroma: layout of the planes that come out.
    """
    return (*_samples(stream, frame), *_thinned(frame, chroma), *_times(stream))


def _samples(stream: Any, frame: av.VideoFrame) -> Iterator[str]:
    parts = frame.format.components
    if any(part.bits > 8 for part in parts):
        yield f"{parts[0].bits} bits per sample become 8"
    apart = stream.metadata.get("alpha_mode") == "1"  # VP8 and VP9 keep it beside the frames
    if apart or any(part.is_alpha for part in parts):
        yield "transparency is left out"


def _thinned(frame: av.VideoFrame, chroma: Chroma) -> Iterator[str]:
    """Chroma may be as fine as luma, halved in one direction or in both, or coarser; grey has none."""
    if chroma != "420":
        return
    form, (height, width) = frame.format, halved((frame.height, frame.width))
    if not (form.is_rgb or form.has_palette or len(form.components) > 2):
        return
    tall, wide = form.chroma_height(frame.height) > height, form.chroma_width(frame.width) > width
    if tall or wide:
        yield HALVED if tall and wide else HALVED_DOWN if tall else HALVED_ACROSS


def _times(stream: Any) -> Iterator[str]:
    mean, guessed = stream.average_rate, stream.guessed_rate
    if mean and guessed and abs(float(Fraction(mean) / Fraction(guessed)) - 1) > 0.01:
        yield "the frame rate varies; times are kept"
