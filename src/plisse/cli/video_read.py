"""plisse video decode and inspect: what a clip holds, and its frames."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plisse.cli import options
from plisse.cli.failures import reported
from plisse.cli.output import check_not_read, note, print_json, stdout, working
from plisse.cli.video_options import ClipIn, Out, Size, Start
from plisse.errors import InputError

if TYPE_CHECKING:
    from plisse.codec.stream import End


@reported
def decode(
    clip: ClipIn, out: Out, start: Start = 0, size: Size = None, as_json: options.Json = False
) -> None:
    """Decode a clip to .y4m or .mkv (exact), .mp4 (for players), or a folder of PNG images."""
    sides = None if size is None else _sides(size)
    check_not_read(out, "--out", [clip])
    with working(f"decoding {clip}"):
        from plisse.codec.video import open_clip
        from plisse.data.video_out import write_video

        source = open_clip(clip)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            chunks, end = source.scan()
        if start >= len(chunks):
            tell(caught)
            raise _no_frame(clip, start, len(chunks))
        timed = any(chunk.time is not None for chunk in chunks)
        if interrupted := _interrupted(end):
            note(interrupted)
        if timed and out.suffix.lower() not in (".mkv", ".mp4"):
            note(f"the frame rate varies, {out.name} holds no times: frames come evenly")
        with told_warnings():
            n_frames = write_video(out, source.frames(start, sides), source.header.rate, timed)
    if as_json:
        print_json({"file": out, "frames": n_frames, "peak_memory": peak_memory()})
        return
    stdout().print(f"wrote {out} ({n_frames} frames)", markup=False, soft_wrap=True)


def _no_frame(clip: Path, start: int, n_frames: int) -> InputError:
    if not n_frames:
        return InputError(f"{str(clip)!r}, a clip that holds no frame", expected="at least one frame")
    shown = "only 0" if n_frames == 1 else f"0 to {n_frames - 1}"
    return InputError(f"--start {start} of a clip of {n_frames} frames", expected=shown)


def _interrupted(end: End | None) -> str:
    """A sentence for a clip that its encoder did not finish; else nothing, also for one that breaks off."""
    return "" if end is None or end.complete else f"the encoder was interrupted after {end.n_frames} frames"


def _sides(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (
        width.isdecimal()
        and height.isdecimal()
        and 1 <= int(width) <= 1 << 14
        and 1 <= int(height) <= 1 << 14
    ):
        raise InputError(f"--size {text!r}", expected="width x height, as 704x576")
    return int(height), int(width)


@contextlib.contextmanager
def told_warnings() -> Iterator[None]:
    """Warnings of the decoder as notes: a clip that breaks off, a frame that rounds otherwise here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    tell(caught)


def tell(caught: Sequence[warnings.WarningMessage]) -> None:
    for each in caught:
        note(str(each.message))


@reported
def inspect(clip: ClipIn, as_json: options.Json = False) -> None:
    """Show what a clip holds: frames, key frames, bytes. Nothing is decoded."""
    with working(f"reading {clip}"):
        from plisse.codec.kept import network_of
        from plisse.codec.video import open_clip

        source = open_clip(clip)
        with told_warnings():
            chunks, end = source.scan()
    if not chunks:
        note("the clip holds no frame")
    header = source.header
    keys = [chunk.length for chunk in chunks if chunk.key]
    steps = [chunk.length for chunk in chunks if not chunk.key]
    facts: dict[str, Any] = {
        "file": clip, "bytes": clip.stat().st_size, "width": header.width, "height": header.height,
        "rate": float(header.rate), "colour": dataclasses.asdict(header.colour), "scheme": header.scheme,
        "numbers": header.numbers, "frames": len(chunks), "key_frames": len(keys), "key_bytes": sum(keys),
        "step_bytes": sum(steps), "bits_per_pixel": _bpp(sum(keys) + sum(steps), len(chunks), header),
        "times_vary": any(chunk.time is not None for chunk in chunks),
        "complete": end is not None and end.complete,
        "interrupted_after": end.n_frames if end is not None and not end.complete else None,
        "chunks": [{"key": c.key, "bytes": c.length, "crf": c.crf, "offset": c.offset} for c in chunks],
    }  # fmt: skip
    if as_json:
        print_json(facts)
        return
    words = [
        f"{clip}: {header.width} x {header.height}, {float(header.rate):g} frames/s, {header.scheme}, "
        + network_of(header),
        f"{len(chunks)} frames, {facts['bytes']:,} bytes, {facts['bits_per_pixel']:.3f} bits per pixel",
        f"{len(keys)} key frame{'s' * (len(keys) != 1)} of {_mean(keys):,.0f} bytes, "
        f"{len(steps)} step{'s' * (len(steps) != 1)} of {_mean(steps):,.0f}",
    ]
    if facts["times_vary"]:
        words.append("the frame rate varies: frames tell their times")
    if interrupted := _interrupted(end):
        words.append(interrupted)
    stdout().print("\n".join(words), markup=False, soft_wrap=True)


def _bpp(n_bytes: int, n_frames: int, header: Any) -> float:
    return 8 * n_bytes / (max(n_frames, 1) * header.height * header.width)


def _mean(numbers: list[int]) -> float:
    return sum(numbers) / max(len(numbers), 1)


def peak_memory() -> int | None:
    """Bytes that this process, or the largest of its children, held at most; None where nobody counts."""
    try:
        import resource
    except ImportError:
        return None
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(kind).ru_maxrss for kind in kinds)
