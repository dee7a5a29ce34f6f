"""plisse video: clips as networks and their small steps."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from plisse.cli import examples, options
from plisse.cli.failures import reported
from plisse.cli.output import note, print_json, stderr, stdout, working
from plisse.cli.video_compare import compare
from plisse.cli.video_options import (
    Backend,
    BackendName,
    Bpp,
    ClipIn,
    Crf,
    Jobs,
    KeyInterval,
    Out,
    PresetName,
    PresetOption,
    Psnr,
    Resume,
    SchemeName,
    SchemeOption,
    Size,
    Start,
    VideosIn,
)  # fmt: skip
from plisse.cli.video_places import check_not_read, check_place
from plisse.errors import InputError, OutputError

if TYPE_CHECKING:
    from plisse.codec.rate import Rate
    from plisse.codec.stream import End
    from plisse.codec.video import Coded, Settings
    from plisse.data.video import Video

app = typer.Typer(
    help="Video: a key network, then a small step of the weights for every frame.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command(epilog=examples.shown(examples.VIDEO_ENCODE))
@reported
def encode(
    videos: VideosIn,
    out: Out,
    scheme: SchemeOption = SchemeName.warp,
    preset: PresetOption = PresetName.medium,
    crf: Crf = None,
    psnr: Psnr = None,
    bpp: Bpp = None,
    key_interval: KeyInterval = 250,
    jobs: Jobs = 1,
    backend: Backend = BackendName.loky,
    resume: Resume = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Code a video to the file OUT, or several to the folder OUT. Ctrl-C leaves a shorter clip that is whole;
    --resume goes on with it."""
    targets = _targets(videos, out)
    with working(f"opening {', '.join(map(str, videos))}"):
        from plisse.codec.rate import Rate
        from plisse.codec.video import Settings, encode_files
        from plisse.data.video import open_video

        sources = [open_video(video) for video in videos]
        if crf is psnr is bpp is None:
            crf = 28.0
        settings = Settings(scheme.value, preset.value, Rate(crf, psnr, bpp), key_interval, seed=seed)
        if resume and not any(target.exists() for target in targets):
            raise InputError(f"--resume without {str(out)!r}", expected="a clip to go on with")
    for source in sources:
        for words in source.notes:
            note(words if len(sources) == 1 else f"{source.path}: {words}")
    coded: list[Coded] = []
    before = [_stamp(target) for target in targets]
    totals = [source.n_frames for source in sources]
    total = None if None in totals else sum(n or 0 for n in totals)
    with _frame_bar(f"coding {', '.join(video.name for video in videos)}", total) as advance:
        clips = list(zip(sources, targets, strict=True))
        try:
            with _told_warnings():
                counts = encode_files(clips, settings, resume, coded.append, jobs, backend.value, advance)
        except KeyboardInterrupt:
            pairs = zip(targets, before, strict=True)
            _tell_stopped([t for t, stamp in pairs if t.exists() and (resume or _stamp(t) != stamp)])
            raise typer.Exit(130) from None
    quality = _quality(clips, counts, coded)
    _print_encoded(clips, settings, counts, quality, len(coded), as_json)


def _quality(clips: Sequence[tuple[Video, Path]], counts: Sequence[int], coded: Sequence[Coded]) -> float:
    """Mean PSNR of luma in dB over all frames of all files: as the encoder saw it, or, where frames were kept
    from an earlier run, from decoded files."""
    if len(coded) == sum(counts):
        return sum(each.quality for each in coded) / len(coded)
    from plisse.codec.video import luma_qualities

    with working("measuring all frames of the file"), _told_warnings():
        found = [quality for video, path in clips for quality in luma_qualities(path, video)]
    return sum(found) / len(found)


def _targets(videos: Sequence[Path], out: Path) -> list[Path]:
    """One file for one video; for several, files in the folder `out` with their names."""
    names = [f"{video.name if video.is_dir() else video.stem}.plv" for video in videos]
    if len(videos) == 1:
        check_place(out, "--out", videos, names[0])
        return [out]
    if len(set(names)) < len(names):
        raise InputError(f"videos of one name: {', '.join(names)}", expected="names that differ")
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {str(out)!r}", expected="a folder, for several videos") from error
    for name in names:
        check_place(out / name, "--out", videos, name)
    return [out / name for name in names]


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes where a file is written anew; None without a file."""
    found = path.stat() if path.exists() else None
    return None if found is None else (found.st_ino, found.st_mtime_ns)


def _tell_stopped(begun: Sequence[Path]) -> None:
    there = ", ".join(map(str, begun))
    if there:
        note(f"stopped: {there} holds the frames up to here; go on with --resume")
    else:
        note("stopped before the first frame was done; nothing was written")


@contextlib.contextmanager
def _frame_bar(label: str, n_frames: int | None) -> Iterator[Callable[[int], None]]:
    """Frames done, and time left where the number of frames is known."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        row = bar.add_task(label, total=n_frames)
        yield lambda count: bar.advance(row, count)


def _print_encoded(
    clips: Sequence[tuple[Video, Path]],
    settings: Settings,
    counts: Sequence[int],
    quality: float,
    n_coded: int,
    as_json: bool,
) -> None:
    """What was written. quality: of all frames of all clips. n_coded: frames that this run coded."""
    sizes = [out.stat().st_size for _, out in clips]
    samples = sum(n * source.height * source.width for n, (source, _) in zip(counts, clips, strict=True))
    facts: dict[str, Any] = {
        "file": clips[0][1], "frames": sum(counts), "bytes": sum(sizes), "bpp": 8 * sum(sizes) / samples,
        "luma_psnr": quality, "scheme": settings.scheme, "preset": settings.preset, "coded_now": n_coded,
        "peak_memory": peak_memory(),
    }  # fmt: skip
    missed = _missed(settings.rate, facts["bpp"], quality)
    facts["target_missed"] = bool(missed)
    if missed:
        note(missed)
    if len(clips) > 1:
        facts["file"] = clips[0][1].parent
        facts["files"] = [
            {"file": out, "frames": n, "bytes": size}
            for n, size, (_, out) in zip(counts, sizes, clips, strict=True)
        ]
    if as_json:
        print_json(facts)
        return
    shown = f", luma PSNR {quality:.2f} dB"
    for n, size, (source, out) in zip(counts, sizes, clips, strict=True):
        bpp = 8 * size / (n * source.height * source.width)
        words = f"wrote {out} ({size:,} bytes, {n} frames, {bpp:.3f} bits per pixel"
        stdout().print(f"{words}{shown if len(clips) == 1 else ''})", markup=False, soft_wrap=True)


def _missed(rate: Rate, bpp: float, quality: float) -> str:
    """A sentence where a target was not met, as with few frames or at the end of the scale; else nothing."""
    if rate.bpp is not None and not 0.85 <= bpp / rate.bpp <= 1.15:
        return f"{rate.bpp:g} bits per pixel were asked for; the closest here is {bpp:.3g}"
    if rate.psnr is not None and abs(quality - rate.psnr) > 1:
        return f"a luma PSNR of {rate.psnr:g} dB was asked for; the closest here is {quality:.2f} dB"
    return ""


def peak_memory() -> int | None:
    """Bytes that this process, or the largest of its children, held at most; None where nobody counts."""
    try:
        import resource
    except ImportError:
        return None
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(kind).ru_maxrss for kind in kinds)


@app.command(epilog=examples.shown(examples.VIDEO_DECODE))
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
            _tell(caught)
            raise _no_frame(clip, start, len(chunks))
        timed = any(chunk.time is not None for chunk in chunks)
        if interrupted := _interrupted(end):
            note(interrupted)
        if timed and out.suffix.lower() not in (".mkv", ".mp4"):
            note(f"the frame rate varies, {out.name} holds no times: frames come evenly")
        with _told_warnings():
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
def _told_warnings() -> Iterator[None]:
    """Warnings of the decoder as notes: a clip that breaks off, a frame that rounds otherwise here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    _tell(caught)


def _tell(caught: Sequence[warnings.WarningMessage]) -> None:
    for each in caught:
        note(str(each.message))


@app.command(epilog=examples.shown(examples.VIDEO_INSPECT))
@reported
def inspect(clip: ClipIn, as_json: options.Json = False) -> None:
    """Show what a clip holds: frames, key frames, bytes. Nothing is decoded."""
    with working(f"reading {clip}"):
        from plisse.codec.video import open_clip

        source = open_clip(clip)
        with _told_warnings():
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
        f"{clip}: {header.width} x {header.height}, {float(header.rate):g} frames/s, {header.scheme}",
        f"{len(chunks)} frames, {facts['bytes']:,} bytes, {facts['bits_per_pixel']:.3f} bits per pixel",
        f"{len(keys)} key frames of {_mean(keys):,.0f} bytes, {len(steps)} steps of {_mean(steps):,.0f}",
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


app.command(epilog=examples.shown(examples.VIDEO_COMPARE))(compare)
