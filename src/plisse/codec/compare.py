"""Rate and distortion of a clip under this codec and under H.264 and H.265, all from decoded frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plisse.codec.rate import Rate
from plisse.codec.video import Settings, decode, encode
from plisse.data.frames import Frame, halved
from plisse.data.quality import luma_psnr, ms_ssim, rgb_psnr, ssim, yuv_psnr
from plisse.errors import InputError

if TYPE_CHECKING:
    import av

CODECS = {"x264": "libx264", "x265": "libx265"}
SEI = {"x264": (6,), "x265": (39, 40)}
"""Kinds of units that describe the encoder and that no decoder needs: up to 2 KB in every stream."""
SMALL_SIDE = 160
"""Up to here the coarsest of the five scales of MS-SSIM has no window."""


@dataclass(frozen=True)
class Point:
    """One clip at one quality. bytes: of the stream; bpp: bits per pixel and frame. psnr: means over frames,
    of luma, of RGB, and (6 Y + U + V) / 8, in dB. ssim: of luma; ms_ssim too, where sides have 161 pixels or
    more. seconds: of encoding and of decoding."""

    codec: str
    crf: float
    bytes: int
    bpp: float
    luma: float
    rgb: float
    yuv: float
    ssim: float
    encode_s: float
    decode_s: float
    ms_ssim: float | None = None


@dataclass(frozen=True)
class Way:
    """A codec at one quality: a clip to bytes, and back."""

    name: str
    crf: float
    coded: Callable[[], bytes]
    undone: Callable[[bytes], list[Frame]]


def measured(
    name: str,
    crf: float,
    frames: Sequence[Frame],
    coded: Callable[[], bytes],
    undone: Callable[[bytes], list[Frame]],
) -> Point:
    """Encode, decode, and look at what came out."""
    return tried(Way(name, crf, coded, undone), frames)[0]


def tried(way: Way, frames: Sequence[Frame]) -> tuple[Point, list[Frame]]:
    """What came out, measured, and the decoded frames."""
    began = time.perf_counter()
    data = way.coded()
    between = time.perf_counter()
    found = way.undone(data)
    ended = time.perf_counter()
    if len(found) != len(frames):
        raise InputError(f"{len(found)} frames from {way.name}", expected=f"{len(frames)}")
    height, width = frames[0].size
    pairs = list(zip(found, frames, strict=True))
    luma, rgb, yuv = (
        sum(measure(a, b) for a, b in pairs) / len(pairs) for measure in (luma_psnr, rgb_psnr, yuv_psnr)
    )
    alike = sum(ssim(a.planes[0], b.planes[0]) for a, b in pairs) / len(pairs)
    scales = None
    if min(height, width) > SMALL_SIDE:
        scales = sum(ms_ssim(a.planes[0], b.planes[0]) for a, b in pairs) / len(pairs)
    bpp = 8 * len(data) / (len(frames) * height * width)
    spent = between - began, ended - between
    return Point(way.name, way.crf, len(data), bpp, luma, rgb, yuv, alike, *spent, scales), found


def ours(frames: Sequence[Frame], rate: Fraction, settings: Settings, name: str = "") -> Point:
    """A clip under this codec."""
    return tried(our_way(frames, rate, settings, name), frames)[0]


def our_way(frames: Sequence[Frame], rate: Fraction, settings: Settings, name: str = "") -> Way:
    """This codec. Raises InputError for settings without a constant quality number."""
    crf = settings.rate.crf
    if crf is None:
        raise InputError(f"{settings.rate}", expected="a constant quality number")
    name = name or f"{settings.scheme} {settings.preset}"
    return Way(name, crf, lambda: encode(frames, rate, settings), lambda data: list(decode(data)))


def conventional(
    frames: Sequence[Frame], rate: Fraction, codec: str, crf: float, preset: str = "slow"
) -> Point:
    """A clip under x264 or x265 (through PyAV): the raw stream, without what describes the encoder."""
    return tried(their_way(frames, rate, codec, crf, preset), frames)[0]


def their_way(frames: Sequence[Frame], rate: Fraction, codec: str, crf: float, preset: str = "slow") -> Way:
    """x264 or x265."""
    return Way(
        f"{codec} {preset}", crf,
        lambda: raw_stream(frames, rate, codec, crf, preset), lambda data: _undone(data, codec, frames),
    )  # fmt: skip


def raw_stream(frames: Sequence[Frame], rate: Fraction, codec: str, crf: float, preset: str) -> bytes:
    """Bytes of an H.264 or H.265 stream. Raises InputError where PyAV has no such encoder."""
    context = _context(codec, "w")
    context.height, context.width = sides = _fitting(frames[0].size, codec)
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", rate, 1 / rate
    context.thread_count = 1
    quiet = {"x265-params": "info=0:log-level=none:pools=1:frame-threads=1"} if codec == "x265" else {}
    context.options = {"preset": preset, "crf": f"{crf:g}", **quiet}
    parts = [bytes(p) for i, f in enumerate(frames) for p in context.encode(_picture(f, sides, i, 1 / rate))]
    parts += [bytes(packet) for packet in context.encode(None)]
    return b"".join(_without_sei(b"".join(parts), codec))


def _context(codec: str, way: str) -> Any:
    import av

    name = CODECS.get(codec) if way == "w" else {"x264": "h264", "x265": "hevc"}.get(codec)
    if name is None or (way == "w" and name not in av.codecs_available):
        raise InputError(f"codec {codec!r}", expected=" or ".join(CODECS), hint="a build of PyAV with it")
    create: Any = av.CodecContext.create
    return create(name, way)


def _fitting(size: tuple[int, int], codec: str) -> tuple[int, int]:
    """Sides that the encoder takes: even, and 64 or more for x265, which else writes beyond its memory."""
    least = 64 if codec == "x265" else 2
    height, width = (max(side + side % 2, least) for side in size)
    return height, width


def _picture(frame: Frame, sides: tuple[int, int], index: int, tick: Fraction) -> av.VideoFrame:
    """A frame whose borders are repeated to the right and below, up to `sides`."""
    import av

    picture = av.VideoFrame(sides[1], sides[0], "yuv420p")
    for target, plane in zip(picture.planes, frame.with_chroma("420").planes, strict=True):
        missing = target.height - plane.shape[0], target.width - plane.shape[1]
        rows = np.zeros((target.height, target.line_size), np.uint8)
        rows[:, : target.width] = np.pad(plane.numpy(), [(0, n) for n in missing], mode="edge")
        target.update(rows.tobytes())
    picture.pts, picture.time_base = index, tick
    return picture


def _without_sei(data: bytes, codec: str) -> Iterator[bytes]:
    """Units of a stream, but for those that describe the encoder."""
    for unit in data.split(b"\0\0\1")[1:]:
        body = unit.rstrip(b"\0")
        kind = body[0] & 31 if codec == "x264" else body[0] >> 1 & 63
        if kind not in SEI[codec]:
            yield b"\0\0\1" + body


def _undone(data: bytes, codec: str, frames: Sequence[Frame]) -> list[Frame]:
    context = _context(codec, "r")
    pictures: list[av.VideoFrame] = []
    for packet in context.parse(data):
        pictures += context.decode(packet)
    for packet in context.parse(b""):
        pictures += context.decode(packet)
    pictures += context.decode(None)
    return [replace(f, planes=_planes(p, f.size)) for f, p in zip(frames, pictures, strict=True)]


def _planes(picture: Any, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The upper left part of a picture."""
    found = []
    for plane, (height, width) in zip(picture.planes, (size, halved(size), halved(size)), strict=False):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        found.append(torch.from_numpy(rows[:height, :width].copy()))
    return found[0], found[1], found[2]


def at_equal_bytes(curve: Sequence[Point], n_bytes: float, of: str = "luma") -> float | None:
    """Quality at so many bytes, between measured points (logarithm of bytes, linear); None outside."""
    points = sorted((np.log(point.bytes), getattr(point, of)) for point in curve)
    logs, qualities = [p[0] for p in points], [p[1] for p in points]
    if not logs or not logs[0] <= np.log(n_bytes) <= logs[-1]:
        return None
    return float(np.interp(np.log(n_bytes), logs, qualities))


def at_equal_quality(curve: Sequence[Point], quality: float, of: str = "rgb") -> float | None:
    """Bytes at a quality in dB, between measured points (logarithm of bytes, linear); None outside."""
    points = sorted((getattr(point, of), np.log(point.bytes)) for point in curve)
    qualities, logs = [p[0] for p in points], [p[1] for p in points]
    if not qualities or not qualities[0] <= quality <= qualities[-1]:
        return None
    return float(np.exp(np.interp(quality, qualities, logs)))


def ratio(ours: Sequence[Point], theirs: Sequence[Point], of: str = "rgb") -> float | None:
    """Our bytes over theirs at equal quality, geometric mean over our points that lie within their curve."""
    logs = []
    for point in ours:
        other = at_equal_quality(theirs, getattr(point, of), of)
        if other is not None:
            logs.append(np.log(point.bytes / other))
    return float(np.exp(np.mean(logs))) if logs else None


def crf_of(settings: Settings, crf: float) -> Settings:
    """The same settings at another quality number."""
    return replace(settings, rate=Rate(crf=crf))
