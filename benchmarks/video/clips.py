"""Clips of the data folder, and one row of results from a clip: sizes of its stream, quality as decoded."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from plisse.codec.compare import conventional, measured
from plisse.codec.latentstep import LatentSteps
from plisse.codec.pictures import n_parameters
from plisse.codec.presets import scheme_of
from plisse.codec.stream import ClipReader
from plisse.codec.video import Settings, decode, encode
from plisse.codec.weightstep import WeightSteps
from plisse.codec.wholeclip import arch_near, encode_whole
from plisse.data.folder import data_set
from plisse.data.frames import Frame
from plisse.data.quality import luma_psnr
from plisse.data.video import open_video

Row = dict[str, Any]
FILES = {
    "carphone": "carphone_qcif_96f.mkv",
    "foreman": "foreman_qcif_48f.y4m",
    "foreman-cif": "foreman_cif_60f.mkv",
    "bunny-180": "bunny_320x180_72f_rgb.mkv",
    "bunny-360": "bunny_640x360_16f_rgb.mkv",
}


def clip(name: str, first: int = 0, every: int = 1) -> tuple[list[Frame], Fraction]:
    """Frames and frames per second; "carphone/8" is the first 8 frames, "carphone" all. first, every: of
    these, only every so many-th from the first on."""
    base, _, n_frames = name.partition("/")
    video = open_video(data_set("video", FILES[base]))
    frames = itertools.islice(video, int(n_frames) if n_frames else None)
    return list(itertools.islice(frames, first, None, every)), video.rate


def conventional_row(name: str, codec: str, crf: float) -> Row:
    """A clip under x264 or x265, preset slow."""
    frames, rate = clip(name)
    point = conventional(frames, rate, codec, crf)
    return {"clip": name, "frames": len(frames), **dataclasses.asdict(point)}


def our_row(name: str, settings: Settings, codec: str, first: int = 0, every: int = 1) -> Row:
    """A clip under this codec, with bytes and luma PSNR of each frame."""
    frames, rate = clip(name, first, every)
    return coded_row(name, frames, codec, settings.rate.crf or 0.0, lambda: encode(frames, rate, settings))


def network_row(name: str, settings: Settings, codec: str, first: int, every: int) -> Row:
    """`our_row`, with how many weights the network has."""
    size = clip(f"{name.partition('/')[0]}/1")[0][0].size
    scheme, _ = scheme_of(settings.scheme, settings.preset, size, form=settings.form)
    assert isinstance(scheme, (WeightSteps, LatentSteps))
    return {**our_row(name, settings, codec, first, every), "weights": n_parameters(scheme.network())}


def whole_row(name: str, preset: str, n_bytes: int, crf: float) -> Row:
    """A clip as one network that takes about so many bytes."""
    frames, rate = clip(name)
    arch = arch_near(n_bytes, frames[0].size, len(frames))
    made = partial(encode_whole, frames, rate, crf, arch, preset)
    row = coded_row(name, frames, f"whole {preset}", crf, made)
    return {**row, "arch": arch.numbers, "weights": arch.n_parameters(frames[0].size)}


def coded_row(name: str, frames: list[Frame], codec: str, crf: float, coded: Callable[[], bytes]) -> Row:
    """What `coded` made of frames."""
    kept: list[bytes] = []
    found: list[Frame] = []

    def written() -> bytes:
        kept.append(coded())
        return kept[0]

    def read(data: bytes) -> list[Frame]:
        found.extend(decode(data))
        return found

    point = measured(codec, crf, frames, written, read)
    chunks = list(ClipReader(io.BytesIO(kept[0])))
    return {
        "clip": name, "frames": len(frames), **dataclasses.asdict(point),
        "keys": [index for index, chunk in enumerate(chunks) if chunk.key],
        "sizes": [chunk.length for chunk in chunks],
        "lumas": [round(luma_psnr(a, b), 3) for a, b in zip(found, frames, strict=True)],
    }  # fmt: skip
