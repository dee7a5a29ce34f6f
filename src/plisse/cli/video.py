"""plisse video: clips as networks and their small steps."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plisse.cli import examples, options
from plisse.cli.failures import reported
from plisse.cli.output import check_output, note, print_json, stderr, stdout, working
from plisse.errors import InputError

if TYPE_CHECKING:
    from plisse.codec.compare import Point
    from plisse.codec.video import Coded, Settings
    from plisse.data.video import Video

app = typer.Typer(
    help="Video: a key network, then a small step of the weights for every frame.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class SchemeName(StrEnum):
    """How frames are coded."""

    warp = "warp"
    conv = "conv"
    siren = "siren"
    fourier = "fourier"


class PresetName(StrEnum):
    """How long an encoder takes."""

    fast = "fast"
    medium = "medium"
    slow = "slow"


VideoIn = Annotated[
    Path, typer.Argument(metavar="IN", help="A video (mp4, mkv, webm, y4m, ...) or a folder of images.")
]
ClipIn = Annotated[Path, typer.Argument(metavar="CLIP", help="A clip that `plisse video encode` wrote.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT", show_default=False, help="What to write.")]
SchemeOption = Annotated[
    SchemeName,
    typer.Option("--scheme", help="warp: motion and latents. conv, siren, fourier: weight steps alone."),
]
PresetOption = Annotated[PresetName, typer.Option("--preset", help="How long to search and to train.")]
Crf = Annotated[float | None, typer.Option("--crf", help="Quality, 0 (finest) to 51; 28 if nothing is said.")]
Psnr = Annotated[float | None, typer.Option("--psnr", metavar="DB", help="PSNR of luma to reach.")]
Bpp = Annotated[float | None, typer.Option("--bpp", help="Bits per pixel and frame to reach.")]
KeyInterval = Annotated[int, typer.Option("--key-interval", min=1, help="Most frames from key to key frame.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with OUT after an interruption.")]
Start = Annotated[int, typer.Option("--start", min=0, help="The first frame that comes out.")]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="Any size: siren and fourier draw their frames anew."),
]
Frames = Annotated[int, typer.Option("--frames", min=1, help="So many frames from the beginning.")]


@app.command(epilog=examples.shown(examples.VIDEO_ENCODE))
@reported
def encode(
    video: VideoIn,
    out: Out,
    scheme: SchemeOption = SchemeName.warp,
    preset: PresetOption = PresetName.medium,
    crf: Crf = None,
    psnr: Psnr = None,
    bpp: Bpp = None,
    key_interval: KeyInterval = 250,
    resume: Resume = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Code a video. Ctrl-C leaves a shorter clip that is whole; --resume goes on with it."""
    check_output(out, "--out")
    with working(f"opening {video}"):
        from plisse.codec.rate import Rate
        from plisse.codec.video import Settings, encode_file
        from plisse.data.video import open_video

        source = open_video(video)
        if crf is psnr is bpp is None:
            crf = 28.0
        settings = Settings(scheme.value, preset.value, Rate(crf, psnr, bpp), key_interval, seed=seed)
        if resume and not out.exists():
            raise InputError(f"--resume without {str(out)!r}", expected="a clip to go on with")
    for words in source.notes:
        note(words)
    coded: list[Coded] = []
    with _frame_bar(f"coding {video.name}", source.n_frames) as advance:
        try:
            n_frames = encode_file(source, out, settings, resume, _both(coded.append, advance))
        except KeyboardInterrupt:
            note(f"stopped: {out} holds the frames up to here; go on with --resume")
            raise typer.Exit(130) from None
    _print_encoded(source, out, settings, n_frames, coded, as_json)


def _both(keep: Callable[[Coded], None], advance: Callable[[], None]) -> Callable[[Coded], None]:
    def report(coded: Coded) -> None:
        keep(coded)
        advance()

    return report


@contextlib.contextmanager
def _frame_bar(label: str, n_frames: int | None) -> Iterator[Callable[[], None]]:
    """Frames done, and time left where the number of frames is known."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        row = bar.add_task(label, total=n_frames)
        yield lambda: bar.advance(row)


def _print_encoded(
    source: Video, out: Path, settings: Settings, n_frames: int, coded: list[Coded], as_json: bool
) -> None:
    size = out.stat().st_size
    bpp = 8 * size / (n_frames * source.height * source.width)
    quality = sum(each.quality for each in coded) / len(coded) if coded else None
    facts = {
        "file": out, "frames": n_frames, "bytes": size, "bpp": bpp, "luma_psnr": quality,
        "scheme": settings.scheme, "preset": settings.preset, "coded_now": len(coded),
    }  # fmt: skip
    if as_json:
        print_json(facts)
        return
    shown = "" if quality is None else f", luma PSNR {quality:.2f} dB"
    words = f"wrote {out} ({size:,} bytes, {n_frames} frames, {bpp:.3f} bits per pixel{shown})"
    stdout().print(words, markup=False, soft_wrap=True)


@app.command(epilog=examples.shown(examples.VIDEO_DECODE))
@reported
def decode(
    clip: ClipIn, out: Out, start: Start = 0, size: Size = None, as_json: options.Json = False
) -> None:
    """Decode a clip to .y4m or .mkv (exact), .mp4 (for players), or a folder of PNG images."""
    sides = None if size is None else _sides(size)
    with working(f"decoding {clip}"):
        from plisse.codec.video import open_clip
        from plisse.data.video_out import write_video

        source = open_clip(clip)
        with _told_warnings():
            n_frames = write_video(out, source.frames(start, sides), source.header.rate)
    if as_json:
        print_json({"file": out, "frames": n_frames})
        return
    stdout().print(f"wrote {out} ({n_frames} frames)", markup=False, soft_wrap=True)


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
            chunks = source.chunks()
    header = source.header
    keys = [chunk.length for chunk in chunks if chunk.key]
    steps = [chunk.length for chunk in chunks if not chunk.key]
    facts: dict[str, Any] = {
        "file": clip, "bytes": clip.stat().st_size, "width": header.width, "height": header.height,
        "rate": float(header.rate), "colour": dataclasses.asdict(header.colour), "scheme": header.scheme,
        "numbers": header.numbers, "frames": len(chunks), "key_frames": len(keys), "key_bytes": sum(keys),
        "step_bytes": sum(steps), "bits_per_pixel": _bpp(sum(keys) + sum(steps), len(chunks), header),
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
    stdout().print("\n".join(words), markup=False, soft_wrap=True)


def _bpp(n_bytes: int, n_frames: int, header: Any) -> float:
    return 8 * n_bytes / (max(n_frames, 1) * header.height * header.width)


def _mean(numbers: list[int]) -> float:
    return sum(numbers) / max(len(numbers), 1)


@app.command(epilog=examples.shown(examples.VIDEO_COMPARE))
@reported
def compare(
    video: VideoIn,
    frames: Frames = 8,
    scheme: SchemeOption = SchemeName.warp,
    preset: PresetOption = PresetName.medium,
    as_json: options.Json = False,
) -> None:
    """Rate and distortion beside x264 and x265 (preset slow), from decoded frames and whole streams."""
    with working(f"opening {video}") as say:
        from plisse.codec import compare as measuring
        from plisse.codec.video import Settings
        from plisse.data.video import open_video

        source = open_video(video)
        pictures = list(source.frames(0, frames))
        curves: dict[str, list[Point]] = {}
        for codec in ("x264", "x265"):
            say(f"coding with {codec}")
            curves[codec] = [
                measuring.conventional(pictures, source.rate, codec, crf) for crf in (20, 24, 28, 32, 36, 40)
            ]
        settings, name = Settings(scheme.value, preset.value), f"{scheme.value} {preset.value}"
        curves[name] = []
        for crf in (24, 28, 32, 36):
            say(f"coding with {name}, crf {crf}")
            curves[name].append(measuring.ours(pictures, source.rate, measuring.crf_of(settings, crf)))
    ratios = {codec: measuring.ratio(curves[name], curves[codec], "luma") for codec in ("x264", "x265")}
    if as_json:
        print_json({"file": video, "frames": len(pictures), "curves": curves, "ratios": ratios})
        return
    _print_curves(curves, ratios, name)


def _print_curves(curves: dict[str, list[Point]], ratios: dict[str, float | None], name: str) -> None:
    from rich.table import Table

    table = Table("codec", "crf", "bytes", "bits/pixel", "luma dB", "RGB dB", "SSIM")
    for points in curves.values():
        for p in points:
            quality = (f"{p.luma:.2f}", f"{p.rgb:.2f}", f"{p.ssim:.4f}")
            table.add_row(p.codec, f"{p.crf:g}", f"{p.bytes:,}", f"{p.bpp:.3f}", *quality)
    stdout().print(table)
    for codec, value in ratios.items():
        words = "no common quality" if value is None else f"{value:.2f} times the bytes"
        stdout().print(f"{name} beside {codec} at equal luma PSNR: {words}", markup=False, soft_wrap=True)
