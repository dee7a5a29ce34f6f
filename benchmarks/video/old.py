"""python -m benchmarks.video [--small] [--only PART]: rate and distortion of clips, beside x264 and x265.

Every size is the length of a stream, every quality that of decoded frames. Parts: "codecs" (x264 and x265,
preset slow, without SEI), "warp" (all presets), "networks" (both paradigms, with weight steps and every
frame alone), "costs" (key networks against steps, entropy against bytes, speed of decoding). Rows that are
there stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.record import RESULTS, write
from plisse.codec.compare import Point, conventional, crf_of, ours, ratio
from plisse.codec.rate import Rate
from plisse.codec.stream import ClipReader
from plisse.codec.video import Settings, decode, encode
from plisse.cost.profile import bd_rate
from plisse.data.folder import data_set
from plisse.data.frames import Frame, to_bytes
from plisse.data.video import open_video
from plisse.errors import InputError

NAME = "video"
CLIPS = {"carphone": "carphone_qcif_96f.mkv", "foreman": "foreman_qcif_48f.y4m"}
CODEC_CRFS = (16, 20, 24, 28, 32, 36, 40)
CRFS = (24, 28, 32, 36, 40)
SMALL_FRAMES, FRAMES = 8, 48
NETWORK_CRFS = (29, 35)
TINY = "carphone/2/3"
"""What networks alone are measured on: half the sides, 3 frames."""

Row = dict[str, Any]


def main() -> None:
    options = _parsed()
    torch.set_num_threads(1)
    path = RESULTS / f"{options.name}.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() and not options.fresh else []
    rows = {_key(row): row for row in kept}
    for part, jobs in PARTS.items():
        if options.only in (None, part):
            for key, job in jobs(SMALL_FRAMES if options.small else FRAMES):
                if key not in rows and options.match in key:
                    rows[key] = {"part": part, "key": key, **job()}
                    _told(rows[key])
                    write(options.name, {"rows": list(rows.values()), "ratios": ratios(list(rows.values()))})


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help=f"the first {SMALL_FRAMES} frames of each clip")
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--match", default="", help="only rows whose name has this in it")
    parser.add_argument("--fresh", action="store_true", help="measure every row anew")
    parser.add_argument("--name", default=None)
    options = parser.parse_args()
    options.name = options.name or (f"{NAME}_small" if options.small else NAME)
    return options


def _key(row: Row) -> str:
    return str(row["key"])


def _told(row: Row) -> None:
    shown = {
        k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k not in ("part", "sizes")
    }
    print(json.dumps(shown), flush=True)


def clip(name: str, n_frames: int) -> tuple[list[Frame], Fraction]:
    """Frames of a clip; "carphone/2" has half the sides, "carphone/2/3" its first 3 frames."""
    base, *parts = name.split("/")
    video = open_video(data_set("video", CLIPS[base]))
    frames = list(video.frames(0, int(parts[1]) if len(parts) > 1 else n_frames))
    return [_halved(frame) for frame in frames] if parts else frames, video.rate


def _halved(frame: Frame) -> Frame:
    y, u, v = (to_bytes(F.avg_pool2d(plane.float()[None, None], 2)[0, 0]) for plane in frame.planes)
    return dataclasses.replace(frame, planes=(y, u, v))


Job = tuple[str, Callable[[], Row]]


def _row(name: str, point: Point) -> Row:
    return {"clip": name, **dataclasses.asdict(point)}


def codec_jobs(n_frames: int) -> Iterator[Job]:
    for name in (*CLIPS, TINY):
        for codec in ("x264", "x265"):
            for crf in CODEC_CRFS:

                def job(name: str = name, codec: str = codec, crf: int = crf) -> Row:
                    return _row(name, conventional(*clip(name, n_frames), codec, crf))

                yield f"{name} {codec} {crf}", job


def warp_jobs(n_frames: int) -> Iterator[Job]:
    for preset in ("medium", "fast", "slow"):
        for name in (*CLIPS, TINY):
            for crf in CRFS if preset == "medium" or name in CLIPS else ():

                def job(name: str = name, preset: str = preset, crf: int = crf) -> Row:
                    return _row(name, ours(*clip(name, n_frames), Settings("warp", preset, Rate(crf=crf))))

                yield f"{name} warp {preset} {crf}", job


def network_jobs(n_frames: int) -> Iterator[Job]:
    """Both paradigms on the halved clip: weight steps, then every frame a network of its own."""
    for stepping in (True, False):
        for scheme in ("conv", "siren"):
            for crf in NETWORK_CRFS:

                def job(scheme: str = scheme, crf: int = crf, stepping: bool = stepping) -> Row:
                    settings = Settings(scheme, "fast", Rate(crf=crf), stepping=stepping)
                    words = f"{scheme} {'steps' if stepping else 'alone'}"
                    return _row(
                        TINY,
                        ours(*clip(TINY, n_frames), settings, words),
                    )

                yield f"{TINY} {scheme} {'steps' if stepping else 'alone'} {crf}", job


def cost_jobs(n_frames: int) -> Iterator[Job]:
    for scheme in ("conv", "siren", "warp"):
        yield f"costs {scheme}", lambda scheme=scheme: _costs(scheme, n_frames)  # type: ignore[misc]


def _costs(scheme: str, n_frames: int) -> Row:
    """Key frame against steps, and frames per second decoded with one thread and with two."""
    frames, rate = clip(TINY, n_frames)
    settings = crf_of(Settings(scheme, "fast"), 31)
    data = encode(frames, rate, settings)
    chunks = list(ClipReader(io.BytesIO(data)))
    sizes = [chunk.length for chunk in chunks]
    speeds = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        took = []
        for _ in range(3):
            began = time.perf_counter()
            n = sum(1 for _ in decode(data))
            took.append((time.perf_counter() - began) / n)
        speeds[f"fps_{threads}"] = 1 / float(np.median(took))
    torch.set_num_threads(1)
    return {
        "clip": TINY, "codec": scheme, "sizes": sizes, "step_share": float(np.mean(sizes[1:]) /
        sizes[0]), "bytes": len(data), **speeds,
    }  # fmt: skip


PARTS: dict[str, Callable[[int], Iterator[Job]]] = {
    "codecs": codec_jobs,
    "warp": warp_jobs,
    "networks": network_jobs,
    "costs": cost_jobs,
}


def curves(rows: list[Row]) -> dict[tuple[str, str], list[Point]]:
    """Points of each clip and codec."""
    found: dict[tuple[str, str], list[Point]] = {}
    for row in rows:
        if row["part"] != "costs":
            fields = {field.name: row[field.name] for field in dataclasses.fields(Point)}
            found.setdefault((row["clip"], row["codec"]), []).append(Point(**fields))
    return found


def ratios(rows: list[Row]) -> list[Row]:
    """Bytes over those of x264 and x265 at equal PSNR, and what stepping saves."""
    found, table = curves(rows), []
    for (name, codec), points in found.items():
        if codec[:4] not in ("x264", "x265"):
            row: Row = {"clip": name, "codec": codec}
            for other in ("x264 slow", "x265 slow"):
                if (name, other) in found:
                    for of in ("luma", "rgb"):
                        row[f"{other} {of}"] = ratio(points, found[name, other], of)
            alone = found.get((name, codec.replace("steps", "alone")))
            if codec.endswith("steps") and alone and min(len(alone), len(points)) >= 2:
                row["bd_rate"] = _saving(points, alone)
            table.append(row)
    return table


def _saving(points: list[Point], alone: list[Point]) -> float | None:
    """BD-rate in per cent over frames coded alone, by luma; None where the curves do not overlap."""
    try:
        a, b = (sorted(curve, key=lambda point: point.luma) for curve in (alone, points))
        rates = ([p.bpp for p in a], [p.luma for p in a], [p.bpp for p in b], [p.luma for p in b])
        return float(bd_rate(*rates))
    except InputError:
        return None


def section(data: dict[str, Any]) -> str:
    """Bytes at equal quality beside x264 and x265, as Markdown."""
    lines = ["| clip | codec | bytes / x264 slow | bytes / x265 slow |", "|---|---|---:|---:|"]
    for row in data["ratios"]:
        shown = [row.get(f"{codec} slow luma") for codec in ("x264", "x265")]
        cells = " | ".join("-" if value is None else f"{value:.2f}" for value in shown)
        lines.append(f"| {row['clip']} | {row['codec']} | {cells} |")
    return (
        """## Video (`python -m benchmarks.video --small`)

Bytes of the stream at equal PSNR of luma, from decoded frames; x264 and x265 with preset slow and without the
text that they write about themselves. Geometric means over our points that lie inside the other curve. Short,
small clips only; the codec was tuned on the first frames of carphone.

"""
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
