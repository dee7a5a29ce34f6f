"""Chunks of frames into a stream, one after another; an interruption leaves it whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import chain
from typing import BinaryIO

from plisse.codec.encoder import Coded, Encoder, Settings
from plisse.codec.groups import Group, encoder_for
from plisse.codec.presets import scheme_of
from plisse.codec.scheme import Scheme
from plisse.codec.stream import Header, end_bytes, header_bytes
from plisse.codec.threads import one_thread
from plisse.data.frames import Frame
from plisse.errors import InputError

Report = Callable[[Coded], None]
"""Hears of each frame that is in the stream, in order."""


def encode_to(
    out: BinaryIO,
    frames: Iterable[Frame],
    rate: Fraction,
    settings: Settings = Settings(),
    report: Report = lambda coded: None,
) -> int:
    """Write a clip frame by frame, and return how many there were. Holds two frames at a time.

    An interruption (Ctrl-C) ends the stream properly after the last whole frame, and goes on upwards.
    """
    items = iter(frames)
    first = next(items, None)
    header, scheme = started(first, rate, settings)
    assert first is not None
    out.write(header_bytes(header))
    encoder = encoder_for(frames, header, scheme, settings)
    return go_on(out, chain([first], items), encoder, report)


def started(
    first: Frame | None, rate: Fraction, settings: Settings, numbers: tuple[int, ...] | None = None
) -> tuple[Header, Scheme]:
    """Header and scheme of a clip. Raises InputError where there is no frame."""
    if first is None:
        raise InputError("a video without frames", expected="at least one")
    scheme, told = scheme_of(settings.scheme, settings.preset, first.size, form=settings.form)
    rate = Fraction(rate).limit_denominator(1 << 16)
    told = told if numbers is None else numbers
    return Header(*first.size, rate, first.colour, settings.scheme, told), scheme


def go_on(
    out: BinaryIO, frames: Iterable[Frame], encoder: Encoder, report: Report = lambda coded: None
) -> int:
    """Write chunks and an end, which says whether all frames are there."""
    with one_thread():
        return put_chunks(out, map(encoder.chunk, frames), encoder.index, report)


def put_groups(
    out: BinaryIO, groups: Iterable[Group], count: int = 0, report: Report = lambda coded: None
) -> int:
    """Write chunks of groups, and an end. count: frames that are there already."""
    return put_chunks(out, chain.from_iterable(groups), count, report)


def put_chunks(
    out: BinaryIO,
    chunks: Iterable[tuple[bytes, Coded]],
    count: int = 0,
    report: Report = lambda coded: None,
) -> int:
    """Write chunks as they come, and an end, also after an error; no end where no frame is there."""
    complete = False
    try:
        for data, coded in chunks:
            out.write(data)
            out.flush()
            count += 1
            report(coded)
        complete = True
    finally:
        if count:
            out.write(end_bytes(count, complete))
            out.flush()
    return count
