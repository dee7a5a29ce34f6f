"""Sentences on what frames do not keep of the file that they are read from."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from plisse.data.frames import Chroma, halved
from plisse.data.upright import turn_of

if TYPE_CHECKING:
    import av

HALVED = "chroma is halved in both directions"
HALVED_DOWN = "chroma is halved from top to bottom"
HALVED_ACROSS = "chroma is halved from left to right"


def changes(container: Any, frame: av.VideoFrame, chroma: Chroma) -> tuple[str, ...]:
    """Sentences on what frames as `frame`, the first video frame of `container`, lose when they become
    upright planes of 8 bits, and on what is left out beside them.

    chroma: layout of the planes that come out.
    """
    stream = container.streams.video[0]
    parts = (_samples(stream, frame), _thinned(frame, chroma), _times(stream), _shape(stream, frame))
    return tuple(words for part in (*parts, _beside(container)) for words in part)


def _shape(stream: Any, frame: av.VideoFrame) -> Iterator[str]:
    turn, aspect = turn_of(frame), stream.sample_aspect_ratio
    if turn is None:
        yield f"the picture is not put upright: it is to be turned by {frame.rotation} degrees"
    elif turn:
        yield f"the picture is put upright: {turn}"
    if aspect and aspect != 1:
        told = f"{aspect.numerator}:{aspect.denominator}"
        yield f"the shape of pixels ({told}) is not kept; players show them square"


def _beside(container: Any) -> Iterator[str]:
    if container.streams.audio:
        yield "sound is left out"
    if container.streams.subtitles:
        yield "subtitles are left out"
    if len(container.streams.video) > 1:
        yield f"only the first of {len(container.streams.video)} streams of pictures is read"


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
