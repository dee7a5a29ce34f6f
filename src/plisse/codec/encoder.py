"""Frame after frame to chunks: what is a key frame, which quality number it gets, what is carried on."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from plisse.codec.pictures import Planes
from plisse.codec.rate import Controller, Rate, luma_quality
from plisse.codec.scheme import LATENTS, MOTION, PLAIN, Scheme, State
from plisse.codec.stream import Chunk, Header, chunk_bytes
from plisse.data.frames import Frame
from plisse.errors import InputError

MIDDLE = Rate(crf=28.0)
CUT = 20.0
"""Mean difference of luma, averaged over 8 x 8 pixels, from which on a frame begins a scene."""


@dataclass(frozen=True)
class Settings:
    """scheme: "warp", "conv", "siren" or "fourier". preset: fast, medium or slow. rate: quality or target.
    key_interval: at most so many frames from key frame to key frame. scene_cuts: key frames where the picture
    changes as a whole. stepping: false makes every frame a key frame. motion, latents: what steps of
    networks have beside weights (see `plisse.codec.weightstep`, `latentstep`); latents come with motion only.
    `warp` always has both."""

    scheme: str = "warp"
    preset: str = "medium"
    rate: Rate = MIDDLE
    key_interval: int = 250
    scene_cuts: bool = True
    stepping: bool = True
    motion: bool = True
    latents: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.key_interval < 1:
            raise InputError(f"a key-frame interval of {self.key_interval}", expected="1 or more")
        if self.scheme == "warp" and not (self.motion and self.latents):
            lacking = "latents" if self.motion else "motion"
            raise InputError(
                f"warp without {lacking}", expected="conv, siren or fourier", hint="--scheme siren"
            )

    @property
    def form(self) -> int:
        """What networks are coded as: PLAIN, MOTION or LATENTS. Without steps there is no motion."""
        if self.motion and self.latents:
            return LATENTS
        return MOTION if self.motion and self.stepping else PLAIN

    @property
    def groups_alone(self) -> bool:
        """Whether nothing goes from one key frame to the next. Bits per pixel bind the whole clip."""
        return self.rate.bpp is None


@dataclass(frozen=True)
class Coded:
    """What became of a frame. bytes: of its chunk. quality: PSNR of luma in dB."""

    index: int
    key: bool
    bytes: int
    crf: float
    quality: float


class Encoder:
    """State after the last frame, and what chooses the next."""

    def __init__(self, header: Header, scheme: Scheme, settings: Settings, index: int = 0) -> None:
        self.header, self.scheme, self.settings = header, scheme, settings
        self.controller = self._fresh()
        self.state: State | None = None
        self.last: Tensor | None = None
        self.index, self.since_key = index, 0

    def _fresh(self) -> Controller:
        pixels = self.header.height * self.header.width
        copied = self.settings.stepping  # where no frame copies from another, none needs to be finer
        offset = getattr(self.scheme, "key_offset", 0.0) if copied else 0.0
        return Controller(self.settings.rate, pixels, self.settings.key_interval, offset)

    def chunk(self, frame: Frame) -> tuple[bytes, Coded]:
        """The next frame as bytes."""
        if frame.size != self.header.size:
            raise InputError(
                f"frame {self.index} of {frame.size}", expected=f"{self.header.size} as the first"
            )
        planes = frame.with_chroma("420").planes
        key, seed = (
            is_key(self.last, planes[0], self.since_key, self.settings),
            self.settings.seed + self.index,
        )
        before = None if key else self.state
        if key and self.settings.groups_alone:
            self.controller = self._fresh()
        tried: dict[float, tuple[bytes, State]] = {}

        def trial(crf: float) -> tuple[int, float]:
            tried[crf] = self.scheme.encode(planes, before, crf, seed)
            return len(tried[crf][0]), luma_quality(tried[crf][1].planes, planes)

        crf = self.controller.for_key(trial) if key else self.controller.for_step()
        payload, state = tried.get(crf) or self.scheme.encode(planes, before, crf, seed)
        time = None if frame.time == self.index / self.header.rate else frame.time
        data = chunk_bytes(key, payload, crf, state.planes, time)
        coded = self._moved(planes, state, key, len(data), crf)
        return data, coded

    def replay(self, frame: Frame, chunk: Chunk) -> None:
        """A frame that is in the file already."""
        before = None if chunk.key else self.state
        if chunk.key and self.settings.groups_alone:
            self.controller = self._fresh()
        state = self.scheme.decode(chunk.payload, before, chunk.payload_offset, chunk.crf)
        self._moved(frame.with_chroma("420").planes, state, chunk.key, chunk.length, chunk.crf)

    def _moved(self, planes: Planes, state: State, key: bool, n_bytes: int, crf: float) -> Coded:
        quality = luma_quality(state.planes, planes)
        self.controller.seen(key, n_bytes, quality, crf)
        coded = Coded(self.index, key, n_bytes, crf, quality)
        self.state, self.last = state, planes[0]
        self.since_key = 1 if key else self.since_key + 1
        self.index += 1
        return coded


def is_key(last: Tensor | None, luma: Tensor, since_key: int, settings: Settings) -> bool:
    """Whether a frame begins a group. last: luma of the frame before. since_key: frames from the last key
    frame on. Only originals matter, so that groups are known before anything is coded."""
    if last is None or not settings.stepping or since_key >= settings.key_interval:
        return True
    return settings.scene_cuts and is_cut(last, luma)


def is_cut(before: Tensor, after: Tensor) -> bool:
    """Whether a scene begins: luma [H, W] differs even when averaged over 8 x 8 pixels."""
    a, b = (F.avg_pool2d(x.float()[None, None], 8, ceil_mode=True) for x in (before, after))
    return float((a - b).abs().mean()) > CUT
