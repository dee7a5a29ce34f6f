"""Arguments and options of plisse video."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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


class BackendName(StrEnum):
    """Where groups of frames are coded."""

    loky = "loky"
    dask = "dask"
    ray = "ray"


VideoIn = Annotated[
    Path, typer.Argument(metavar="IN", help="A video (mp4, mkv, webm, y4m, ...) or a folder of images.")
]
VideosIn = Annotated[
    list[Path],
    typer.Argument(metavar="IN...", help="Videos (mp4, mkv, webm, y4m, ...) or folders of images."),
]
ClipIn = Annotated[Path, typer.Argument(metavar="CLIP", help="A clip that `plisse video encode` wrote.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT", show_default=False, help="What to write.")]
SchemeOption = Annotated[
    SchemeName,
    typer.Option("--scheme", help="warp: motion and latents. conv, siren, fourier: networks beside them."),
]
PresetOption = Annotated[PresetName, typer.Option("--preset", help="How long to search and to train.")]
Crf = Annotated[float | None, typer.Option("--crf", help="Quality, 0 (finest) to 51; 28 if nothing is said.")]
Psnr = Annotated[float | None, typer.Option("--psnr", metavar="DB", help="PSNR of luma to reach.")]
Bpp = Annotated[float | None, typer.Option("--bpp", help="Bits per pixel and frame to reach.")]
KeyInterval = Annotated[int, typer.Option("--key-interval", min=1, help="Most frames from key to key frame.")]
MotionOption = Annotated[
    bool,
    typer.Option(
        "--motion/--no-motion",
        help="Weight steps add to the frame before, moved, or draw each frame alone; warp always moves.",
    ),
]
LatentsOption = Annotated[
    bool,
    typer.Option(
        "--latents/--no-latents",
        help="Networks draw coarse pictures with latents over them, or all of it; no latents without motion.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with OUT after an interruption.")]
Start = Annotated[int, typer.Option("--start", min=0, help="The first frame that comes out.")]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="Any size: siren and fourier draw their frames anew."),
]
Frames = Annotated[int, typer.Option("--frames", min=1, help="So many frames from the beginning.")]
Jobs = Annotated[
    int, typer.Option("--jobs", min=1, help="So many groups of frames at a time; the bytes are the same.")
]
Backend = Annotated[
    BackendName,
    typer.Option(
        "--backend", help="loky: processes here. dask, ray: the cluster that is there, or a local one."
    ),
]
