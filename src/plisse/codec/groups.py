"""Groups of frames, each from a key frame up to the next: what can be coded apart from the rest."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from plisse.codec.encoder import Coded, Encoder, Settings, is_key
from plisse.codec.presets import scheme_of
from plisse.codec.scheme import Scheme
from plisse.codec.stream import Header
from plisse.codec.threads import one_thread
from plisse.data.frames import Frame
from plisse.data.video import Video

POLL_S = 0.5
Source = Video | Sequence[Frame]
Group = list[tuple[bytes, Coded]]
"""Chunks of frames, and what became of them."""


@dataclass(frozen=True)
class Span:
    """Frames `start` to `stop` (exclusive; None is the end)."""

    start: int
    stop: int | None


def spans(source: Iterable[Frame], settings: Settings) -> list[Span]:
    """The groups of a clip, found by looking at all frames once; one group where a rate in bits per pixel
    binds all frames together. Empty for no frames."""
    if not settings.groups_alone:
        return [Span(0, None)]
    starts, count = key_places(source, settings)
    return [Span(a, b) for a, b in itertools.pairwise([*starts, count])]


def key_places(source: Iterable[Frame], settings: Settings) -> tuple[list[int], int]:
    """Numbers of the frames that are key frames, and how many frames there are."""
    starts, since, last, count = [], 0, None, 0
    for index, frame in enumerate(source):
        luma: Tensor = frame.planes[0]
        if is_key(last, luma, since, settings):
            starts.append(index)
            since = 0
        since, last, count = since + 1, luma, index + 1
    return starts, count


def encode_span(
    source: Source, header: Header, settings: Settings, span: Span, marks: str | None = None
) -> Group:
    """A group, the same bytes wherever and whenever it is coded. marks: a folder where a byte is left for
    each frame that is done, as long as this machine has it."""
    scheme, _ = scheme_of(settings.scheme, settings.preset, header.size, form=settings.form)
    encoder = encoder_for(source, header, scheme, settings, span.start)
    made = []
    with one_thread():
        for frame in _frames(source, span):
            made.append(encoder.chunk(frame))
            if marks is not None:
                _mark(Path(marks), f"{os.getpid()}-{span.start}")
    return made


def encoder_for(
    source: Iterable[Frame], header: Header, scheme: Scheme, settings: Settings, first: int = 0
) -> Encoder:
    """An encoder for frames from `first` on. Where a rate in bits per pixel binds all frames of `source`
    together, they are counted, which looks through a video that does not tell."""
    encoder = Encoder(header, scheme, settings, first)
    if not settings.groups_alone:
        encoder.controller.total = _count(source)
    return encoder


def _count(source: Iterable[Frame]) -> int | None:
    if isinstance(source, Video):
        return source.n_frames or sum(1 for _ in source)
    return len(source) if isinstance(source, Sequence) else None


def _frames(source: Source, span: Span) -> Iterable[Frame]:
    return source.frames(span.start, span.stop) if isinstance(source, Video) else source


def _mark(folder: Path, name: str) -> None:
    with contextlib.suppress(OSError), open(folder / name, "ab") as file:
        file.write(b".")


@contextlib.contextmanager
def marked(seen: Callable[[int], None]) -> Iterator[str]:
    """A folder for marks; `seen` hears, from another thread, how many more frames are done."""
    with tempfile.TemporaryDirectory(prefix="plisse-") as folder:
        ended = threading.Event()
        thread = threading.Thread(target=_watch, args=(Path(folder), seen, ended), daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            ended.set()
            thread.join()


def _watch(folder: Path, seen: Callable[[int], None], ended: threading.Event) -> None:
    told, last = 0, False
    while not last:
        last = ended.wait(POLL_S)
        found = sum(file.stat().st_size for file in folder.iterdir())
        if found > told:
            seen(found - told)
            told = found
