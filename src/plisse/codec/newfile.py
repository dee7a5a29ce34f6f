"""A new clip on disk: under its name once its first frame is whole; until then, what was there stays."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from plisse.codec.encoder import Coded
from plisse.codec.stream import Header, header_bytes
from plisse.codec.writing import Report, put_chunks
from plisse.errors import OutputError


def put_new(path: Path, header: Header, chunks: Iterable[tuple[bytes, Coded]], report: Report) -> int:
    """Write a clip to `path`; the number of frames.

    Nothing is opened before the first frame is coded. It is written beside `path` and takes the name at
    once; the rest goes on in the same file, so that an interruption leaves a shorter clip that is whole.
    Raises OutputError where the disk does not take it; before the first frame is in, nothing is left then.
    """
    following = iter(chunks)
    first = next(following)
    with _beside(path) as (out, place):

        def told(coded: Coded) -> None:
            place()
            report(coded)

        out.write(header_bytes(header))
        return put_chunks(out, chain([first], following), 0, told)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """A file in the folder of `path`, and what gives it that name. Gone at the end where it has none."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OutputError(f"{str(path)!r}, no regular file", expected="the name of a file")
    aside = target.with_name(f".{secrets.token_hex(8)}.tmp")

    def place() -> None:
        if aside.exists():
            os.replace(aside, target)

    try:
        with open(aside, "xb") as out:
            yield out, place
    except OSError as error:
        raise OutputError(f"{str(path)!r}, which cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
