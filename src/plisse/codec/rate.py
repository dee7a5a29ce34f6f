"""Which quality number a frame gets: a constant one, or what a target of PSNR or bits per pixel asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from plisse.codec.pictures import Planes
from plisse.codec.scheme import COARSEST, FINEST, check_crf
from plisse.data.quality import psnr
from plisse.errors import BudgetError, InputError

Trial = Callable[[float], tuple[int, float]]
"""Quality number -> bytes and luma PSNR of a frame coded with it."""

MAX_TRIALS = 6
CLOSE_DB, CLOSE_SHARE = 0.3, 0.08
KEY_RATIO, MIDDLE_BPP = 6.0, 0.5
"""A key frame is given so many times the bytes of a step; fewer above so many bits per pixel, where steps
cost nearly as much."""


@dataclass(frozen=True)
class Rate:
    """One of: crf, a constant quality number (0 finest to 51); psnr, of luma in dB; bpp, bits per pixel."""

    crf: float | None = None
    psnr: float | None = None
    bpp: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.crf, self.psnr, self.bpp)) != 1:
            raise InputError(
                f"crf {self.crf}, psnr {self.psnr}, bpp {self.bpp}", expected="exactly one of them"
            )
        if self.crf is not None:
            check_crf(self.crf)
        if self.psnr is not None and not 10 <= self.psnr <= 70:
            raise InputError(f"{self.psnr:g} dB", expected="10 to 70")
        if self.bpp is not None and not 0 < self.bpp < math.inf:
            raise InputError(f"{self.bpp:g} bits per pixel", expected="a number above 0")


@dataclass
class Controller:
    """Quality numbers frame by frame. What it knows comes from `seen` alone, so that a file can be gone on
    with. total: frames of the clip; None where nobody knows."""

    rate: Rate
    pixels: int
    key_interval: int
    key_offset: float = 0.0
    crf: float = 30.0
    spent: float = 0.0
    n_frames: int = 0
    total: int | None = None

    def for_step(self) -> float:
        return _quarters(self.rate.crf if self.rate.crf is not None else self.crf)

    def for_key(self, trial: Trial) -> float:
        """Searches on trials of the frame itself. Raises BudgetError, with the closest, where nothing comes
        near."""
        if self.rate.crf is not None:
            return _quarters(self.rate.crf - self.key_offset)
        low, high, crf = FINEST - 0.25, COARSEST + 0.25, _quarters(self.crf)
        best, miss, reached = crf, math.inf, (0, 0.0)
        for _ in range(MAX_TRIALS):
            n_bytes, quality = trial(crf)
            off = self._off(n_bytes, quality)
            if abs(off) < abs(miss):
                best, miss, reached = crf, off, (n_bytes, quality)
            if abs(off) < 1:
                break
            low, high = (low, crf) if off < 0 else (crf, high)
            change = off * (CLOSE_DB if self.rate.psnr is not None else 0.6)
            following = _quarters(crf + change)
            following = following if low < following < high else _quarters((low + high) / 2)
            if following == crf or high - low <= 0.25:
                break
            crf = following
        self._check(best, miss, reached)
        return best

    def _off(self, n_bytes: int, quality: float) -> float:
        """How far a key frame is off, in units of what counts as close; above 0 where it may be coarser."""
        if self.rate.psnr is not None:
            return (quality - self.rate.psnr) / CLOSE_DB
        assert self.rate.bpp is not None
        wanted = self.rate.bpp * self.pixels / 8 * self._key_share()
        return math.log2(n_bytes / wanted) / CLOSE_SHARE

    @property
    def group(self) -> int:
        """Frames from key frame to key frame, at most as many as the clip has."""
        return self.key_interval if self.total is None else max(1, min(self.key_interval, self.total))

    def _key_share(self) -> float:
        """Bytes of a key frame over those of a frame on average."""
        assert self.rate.bpp is not None
        ratio = KEY_RATIO / max(1.0, self.rate.bpp / MIDDLE_BPP)
        return ratio * self.group / (ratio + self.group - 1)

    def _keys_per_frame(self) -> float:
        """At least so many of the frames are key frames."""
        return 1 / self.group if not self.total else math.ceil(self.total / self.key_interval) / self.total

    def _check(self, crf: float, miss: float, reached: tuple[int, float]) -> None:
        n_bytes, quality = reached
        if self.rate.psnr is not None and miss < -5:
            raise BudgetError(
                f"a target of {self.rate.psnr:g} dB", expected=f"at most {quality:.1f} dB from this network",
                hint="a slower preset", closest=round(quality, 2),
            )  # fmt: skip
        if self.rate.bpp is not None and crf == COARSEST and miss >= 1:
            least = n_bytes * 8 / self.pixels * self._keys_per_frame()
            if least > self.rate.bpp:
                raise BudgetError(
                    f"a target of {self.rate.bpp:g} bits per pixel",
                    expected=f"more than {least:.3g}: the key frame alone takes them",
                    hint="rarer key frames, or a faster preset with a smaller network",
                    closest=round(least, 4),
                )

    def seen(self, key: bool, n_bytes: int, quality: float, crf: float) -> None:
        """A frame was coded with `crf`; the next ones make up for what is off."""
        self.n_frames += 1
        base = crf + self.key_offset if key and self.rate.psnr is None else crf
        if self.rate.psnr is not None:
            self.crf = _bounded(base + 0.8 * (quality - self.rate.psnr))
        elif self.rate.bpp is not None:
            per_frame = self.rate.bpp * self.pixels / 8
            self.spent += n_bytes
            ahead = self.spent - per_frame * self.n_frames
            wanted = max(per_frame - ahead / max(4, self.group / 2), 0.2 * per_frame)
            change = 0.0 if key else 4 * math.log2(n_bytes / wanted)
            self.crf = _bounded(base + min(max(change, -2), 2))


def luma_quality(made: Planes, target: Planes) -> float:
    """PSNR of luma in dB, at most 100."""
    return min(psnr(made[0], target[0]), 100.0)


def _bounded(crf: float) -> float:
    return min(max(crf, FINEST), COARSEST)


def _quarters(crf: float) -> float:
    return round(_bounded(crf) * 4) / 4
