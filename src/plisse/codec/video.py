"""A video to a stream of frames coded as networks and weight steps, and back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial

from plisse.codec.encoder import Coded, Settings, is_cut
from plisse.codec.fanout import fanned
from plisse.codec.files import encode_file, encode_files
from plisse.codec.groups import Group, encode_span, encoder_for, spans
from plisse.codec.rate import Rate
from plisse.codec.reading import Clip, decode, luma_qualities, open_clip
from plisse.codec.scheme import Scheme
from plisse.codec.stream import header_bytes
from plisse.codec.writing import encode_to, go_on, put_groups, started
from plisse.data.frames import Frame

__all__ = [
    "Clip", "Coded", "Rate", "Settings", "decode", "encode", "encode_file", "encode_files", "encode_to",
    "encode_with", "is_cut", "luma_qualities", "open_clip",
]  # fmt: skip


def encode(
    frames: Iterable[Frame],
    rate: Fraction,
    settings: Settings = Settings(),
    jobs: int = 1,
    backend: str = "loky",
) -> bytes:
    """A clip as bytes. rate: frames per second. jobs: so many groups of frames, each from key frame to key
    frame, are coded at a time, the bytes being the same; then all frames are held in memory. backend: see
    `plisse.codec.fanout`.

    Raises InputError for no frames or frames of several sizes, BudgetError for a rate out of reach.
    """
    out = io.BytesIO()
    if jobs == 1 and backend == "loky":
        encode_to(out, frames, rate, settings)
        return out.getvalue()
    held = list(frames)
    header, _ = started(held[0] if held else None, rate, settings)
    out.write(header_bytes(header))
    tasks: list[Callable[[], Group]] = [
        partial(encode_span, held[span.start : span.stop], header, settings, span)
        for span in spans(held, settings)
    ]
    put_groups(out, fanned(tasks, jobs, backend))
    return out.getvalue()


def encode_with(
    frames: Sequence[Frame], rate: Fraction, settings: Settings, scheme: Scheme, numbers: tuple[int, ...]
) -> bytes:
    """A clip as bytes under a scheme that no preset names. numbers: what a decoder builds it from."""
    header, _ = started(frames[0] if frames else None, rate, settings, numbers)
    out = io.BytesIO()
    out.write(header_bytes(header))
    go_on(out, frames, encoder_for(frames, header, scheme, settings))
    return out.getvalue()
