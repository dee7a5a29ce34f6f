"""plisse video: clips as networks and their small steps."""

from __future__ import annotations

import contextlib
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
    Crf,
    Jobs,
    KeyInterval,
    LatentsOption,
    MotionOption,
    Out,
    PresetName,
    PresetOption,
    Psnr,
    Resume,
    SchemeName,
    SchemeOption,
    VideosIn,
)  # fmt: skip
from plisse.cli.video_places import check_place
from plisse.cli.video_read import decode, inspect, peak_memory, told_warnings
from plisse.errors import InputError, OutputError

if TYPE_CHECKING:
    from plisse.codec.rate import Rate
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
    motion: MotionOption = True,
    latents: LatentsOption = True,
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
        rate = Rate(crf, psnr, bpp)
        settings = Settings(
            scheme.value, preset.value, rate, key_interval, motion=motion, latents=latents, seed=seed
        )
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
            with told_warnings():
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

    with working("measuring all frames of the file"), told_warnings():
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


app.command(epilog=examples.shown(examples.VIDEO_DECODE))(decode)
app.command(epilog=examples.shown(examples.VIDEO_INSPECT))(inspect)
app.command(epilog=examples.shown(examples.VIDEO_COMPARE))(compare)
