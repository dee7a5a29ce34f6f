"""What an interrupted file holds, and whether it is the beginning of the file that would be written now."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from plisse.codec.encoder import Encoder, Settings
from plisse.codec.groups import encoder_for, key_places
from plisse.codec.pictures import KINDS
from plisse.codec.scheme import LATENTS, MOTION, PLAIN, Scheme
from plisse.codec.stream import ClipReader, Header
from plisse.codec.threads import one_thread
from plisse.data.frames import Frame
from plisse.data.video import Video
from plisse.errors import InputError

FIRST_RUN = "the video and the options of the first run"


@dataclass(frozen=True)
class Kept:
    """What a file holds: where its frames begin, which of them are key frames, where the whole ones end."""

    header: Header
    offsets: tuple[int, ...] = ()
    keys: tuple[bool, ...] = ()
    end: int = 0
    complete: bool = False

    @property
    def last_key(self) -> int:
        """The number of the last key frame; 0 without frames."""
        return max((index for index, key in enumerate(self.keys) if key), default=0)


def _scanned(path: Path) -> Kept:
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = ClipReader(file)
        start = reader.offset
        found = [(chunk.offset, chunk.key, chunk.offset + chunk.length) for chunk in reader]
    complete = reader.end is not None and reader.end.complete
    end = found[-1][2] if found else start
    return Kept(reader.header, tuple(f[0] for f in found), tuple(f[1] for f in found), end, complete)


def kept_of(path: Path, header: Header) -> Kept:
    """Raises InputError for a file that does not begin with `header`."""
    if not path.stat().st_size:
        raise InputError(f"{str(path)!r}, an empty file", expected="a clip to go on with")
    kept = _scanned(path)
    if kept.header != header:
        differing = [(a, b) for a, b in zip(_words(kept.header), _words(header), strict=True) if a != b]
        raise InputError(
            "a clip of " + ", ".join(a for a, _ in differing),
            expected=", ".join(b for _, b in differing),
            hint="the options of the first run",
        )
    return kept


def _words(header: Header) -> tuple[str, ...]:
    """What a header says, in an order."""
    colour = header.colour
    return (
        f"{header.width} x {header.height} pixels",
        f"{float(header.rate):g} frames per second ({header.rate})",
        f"{colour.matrix} in {'full' if colour.full else 'limited'} range",
        f"scheme {header.scheme}",
        network_of(header),
    )


def network_of(header: Header) -> str:
    """Width and depth in words, and what steps have beside weights."""
    if not header.numbers:
        return "no network"
    numbers, form = header.numbers, PLAIN
    if header.scheme in KINDS:
        numbers, (form, *_) = header.numbers[:2], (*header.numbers[2:], PLAIN)
    beside = {PLAIN: "", MOTION: " with motion", LATENTS: " with motion and latents"}
    return f"a network of {' and '.join(map(str, numbers))}{beside[form]}"


def again(
    path: Path, kept: Kept, video: Video, header: Header, scheme: Scheme, settings: Settings
) -> tuple[Encoder, Iterator[Frame]]:
    """The encoder as it was after the last kept frame, and the frames of the video that follow.

    Raises InputError where the file is not what these settings make of this video: other key frames, fewer
    frames in the video, or other bytes. Bytes are compared for the last key frame (the first one where all
    frames are bound together) and the last frame, which are coded again; frames between are decoded.
    """
    _check_keys(kept, video, settings)
    first = kept.last_key if settings.groups_alone else 0
    encoder, originals = encoder_for(video, header, scheme, settings, first), video.frames(first)
    last = len(kept.offsets) - 1
    with open(path, "rb") as file, open(path, "rb") as raw, warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")
        for index, chunk in islice(enumerate(ClipReader(file)), first, None):
            original = next(originals)
            if index not in (first, last):
                encoder.replay(original, chunk)
                continue
            raw.seek(chunk.offset)
            if encoder.chunk(original)[0] != raw.read(chunk.length):
                raise InputError(f"a file whose frame {index} was coded otherwise", expected=FIRST_RUN)
    if kept.complete and next(originals, None) is not None:
        raise InputError(f"a complete file of {last + 1} frames", expected="one of as many as the video has")
    return encoder, originals


def _check_keys(kept: Kept, video: Video, settings: Settings) -> None:
    keys, count = key_places(video.frames(0, len(kept.offsets)), settings)
    if count < len(kept.offsets):
        raise InputError("a file of more frames than the video has", expected="the same video")
    if keys != [index for index, key in enumerate(kept.keys) if key]:
        raise InputError("a file of other key frames", expected=FIRST_RUN)
