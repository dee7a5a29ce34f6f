"""Files that break off, by what they say of their own length: FFmpeg takes these for shorter videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av

SEGMENT = 0x18538067
"""The element of a Matroska file that holds all but the first few bytes (RFC 9559, section 5.1)."""


def breaks_off(container: Any, path: Path, frame: av.VideoFrame) -> bool:
    """Whether the end of a file is missing. frame: the first one. Only beginnings and indices are read.

    Knows y4m, Matroska (WebM) and mp4 with its index in front; of others it cannot tell, and says no.
    """
    size, form = path.stat().st_size, container.format.name
    if form == "yuv4mpegpipe":
        return _beyond_whole_frames(path, size, frame) != 0
    if "matroska" in form:
        return (_end_of_segment(path) or 0) > size
    entries: Any = getattr(container.streams.video[0], "index_entries", ()) if "mp4" in form else ()
    return len(entries) > 0 and entries[-1].pos + entries[-1].size > size


def _beyond_whole_frames(path: Path, size: int, frame: av.VideoFrame) -> int:
    """Bytes of a y4m file beyond its whole frames, which are of one length."""
    with open(path, "rb") as file:
        head, mark = file.readline(), file.readline()
    samples = sum(part.width * part.height * (2 if part.bits > 8 else 1) for part in frame.format.components)
    return (size - len(head)) % (len(mark) + samples)


def _end_of_segment(path: Path) -> int | None:
    """Where the segment of a Matroska file ends; None where the file does not tell, as live ones."""
    with open(path, "rb") as file:
        data = file.read(1 << 12)
    at = 0
    while at + 12 <= len(data):
        name, at = _number(data, at, marked=True)
        length, at = _number(data, at, marked=False)
        if length is None:
            return None
        if name == SEGMENT:
            return at + length
        at += length
    return None


def _number(data: bytes, at: int, marked: bool) -> tuple[int | None, int]:
    """A number of EBML (RFC 8794, section 4) and where it ends; None where all bits are set, or for none.

    The zeros in front of its first one tell how many bytes follow. marked: that one counts, as in names.
    """
    n_bytes = 9 - data[at].bit_length()
    if n_bytes > 8:
        return None, at
    value, ones = int.from_bytes(data[at : at + n_bytes], "big"), (1 << 7 * n_bytes) - 1
    rest = value & ones
    return (value if marked else None if rest == ones else rest), at + n_bytes
