"""plisse video compare: rate and distortion of a clip under several codecs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plisse.cli import options
from plisse.cli.failures import reported
from plisse.cli.output import print_json, stdout, working
from plisse.cli.video_options import (
    Backend,
    BackendName,
    Frames,
    Jobs,
    PresetName,
    PresetOption,
    SchemeName,
    SchemeOption,
    VideoIn,
)  # fmt: skip
from plisse.cli.video_places import check_place

if TYPE_CHECKING:
    from plisse.codec.curves import Comparison

ReportTo = Annotated[
    Path | None,
    typer.Option("--report", metavar="HTML", show_default=False, help="Curves and frames side by side."),
]
Networks = Annotated[
    bool,
    typer.Option(
        "--networks/--no-networks",
        help="Also a coordinate network per frame and one network for the clip, of as many bytes. Minutes.",
    ),
]


@reported
def compare(
    video: VideoIn,
    frames: Frames = 8,
    scheme: SchemeOption = SchemeName.warp,
    preset: PresetOption = PresetName.medium,
    networks: Networks = True,
    report: ReportTo = None,
    jobs: Jobs = 1,
    backend: Backend = BackendName.loky,
    as_json: options.Json = False,
) -> None:
    """Rate and distortion beside x264 and x265 (preset slow) and networks, from decoded files."""
    if report is not None:
        check_place(report, "--report", [video], f"{video.stem}.html")
    with working(f"opening {video}") as say:
        from plisse.codec.curves import AGAINST, CODECS, compare_clip
        from plisse.codec.encoder import Settings
        from plisse.data.video import open_video

        source = open_video(video)
        found = compare_clip(
            list(source.frames(0, frames)), source.rate, Settings(scheme.value, preset.value),
            AGAINST if networks else CODECS, jobs, backend.value, say,
        )  # fmt: skip
        if report is not None:
            from plisse.report.video import write_comparison

            write_comparison(found, report, title=video.name)
    if as_json:
        curves = {curve.name: curve.points for curve in found.curves}
        print_json({
            "file": video, "frames": found.n_frames, "curves": curves, "ratios": found.ratios(),
            "gaps": found.gaps(), "report": report,
        })  # fmt: skip
        return
    _print_curves(found)
    if report is not None:
        stdout().print(f"wrote {report}", markup=False, soft_wrap=True)


def _print_curves(found: Comparison) -> None:
    from rich.table import Table

    table = Table("codec", "crf", "bytes", "bits/pixel", "luma dB", "RGB dB", "SSIM")
    for curve in found.curves:
        for p in curve.points:
            quality = (f"{p.luma:.2f}", f"{p.rgb:.2f}", f"{p.ssim:.4f}")
            table.add_row(p.codec, f"{p.crf:g}", f"{p.bytes:,}", f"{p.bpp:.3f}", *quality)
    stdout().print(table)
    name = found.curves[0].name
    for other, value in found.ratios().items():
        words = "no common quality" if value is None else f"{value:.2f} times the bytes"
        stdout().print(f"{name} beside {other} at equal luma PSNR: {words}", markup=False, soft_wrap=True)
