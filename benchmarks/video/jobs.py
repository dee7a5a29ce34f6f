"""What is measured, row by row: a name and what gives the row."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.video.clips import FILES, Row, conventional_row, network_row, our_row, whole_row
from benchmarks.video.files import SCHEMES, identical_row, speed_row
from benchmarks.video.memory import memory_row
from plisse.codec.rate import Rate
from plisse.codec.video import Settings

Job = tuple[str, Callable[[], Row]]


def done(part: str, key: str, job: Callable[[], Row]) -> Row:
    """The row of a job, with the processor time that it took, here and in processes that it started. (Here,
    as a process that is spawned cannot import `__main__`.)"""
    torch.set_num_threads(1)
    began = sum(os.times()[:4])
    row = job()
    return {"part": part, "key": key, **row, "cpu_s": round(sum(os.times()[:4]) - began, 2)}


@dataclass(frozen=True)
class Extent:
    """How much is measured. frames: of each clip for `warp`, None for all. network_frames, presets: of
    networks alone. every: so many-th frame is coded as a network of its own, for comparison. file_preset: of
    files that are looked at in other ways. whole_bytes: about what clips of networks with steps take, at
    WHOLE_CRFS."""

    frames: int | None
    network_clips: tuple[str, ...]
    network_frames: int
    presets: tuple[str, ...]
    every: int
    file_preset: str
    whole_bytes: tuple[int, ...]

    def whole(self, name: str) -> str:
        return name if self.frames is None else f"{name}/{self.frames}"

    def few(self, name: str) -> str:
        return f"{name}/{self.network_frames}"


SMALL = Extent(30, ("carphone",), 8, ("medium",), 4, "fast", (9000, 6700, 5200, 11700))
LARGE = Extent(
    None, ("carphone", "foreman", "bunny-180"), 32, ("slow",), 1, "medium", (36000, 27000, 21000, 47000)
)
CODEC_CRFS = (16, 20, 24, 28, 32, 36, 40)
WARP_CRFS = (27, 32, 37, 22)
NETWORK_CRFS = (27, 31, 35, 39, 23)
COARSE_CRFS = (43, 47)
STILL_CRFS = (27, 35)
WHOLE_CRFS = (27, 31, 35, 23)
NETWORKS = ("conv", "siren")


def codec_jobs(extent: Extent) -> Iterator[Job]:
    """x264 and x265, preset slow, on every piece of a clip that something else is measured on."""
    for name in (*map(extent.whole, FILES), *map(extent.few, extent.network_clips)):
        for codec in ("x264", "x265"):
            for crf in CODEC_CRFS:
                yield f"{name} {codec} {crf}", partial(conventional_row, name, codec, crf)


def warp_jobs(extent: Extent) -> Iterator[Job]:
    """The medium preset on every clip, the others on two."""
    for preset, names in (("medium", FILES), ("fast", ("carphone", "foreman")), ("slow", ("carphone",))):
        for crf in WARP_CRFS:
            for name in map(extent.whole, names):
                settings = Settings("warp", preset, Rate(crf=crf))
                yield f"{name} warp {preset} {crf}", partial(our_row, name, settings, f"warp {preset}")


def network_jobs(extent: Extent) -> Iterator[Job]:
    """Both paradigms: steps, then every so many-th frame, but for the first, as a network of its own with its
    latents (the first is one in a clip with steps). The latter are coarser, too, so that each step has
    networks of its own on both sides of its quality."""
    for preset in extent.presets:
        yield from _networks(extent, "steps", preset, NETWORK_CRFS)
    for preset in extent.presets:
        yield from _networks(extent, "alone", preset, NETWORK_CRFS + COARSE_CRFS)


def slow_jobs(extent: Extent) -> Iterator[Job]:
    """The same, trained for longer."""
    yield from _networks(extent, "steps", "slow", NETWORK_CRFS)
    yield from _networks(extent, "alone", "slow", NETWORK_CRFS)


def weight_jobs(extent: Extent) -> Iterator[Job]:
    """Networks that draw all of a frame: their weights step, and nothing but motion is beside them."""
    for preset in (*extent.presets, "slow"):
        yield from _networks(extent, "weights", preset, NETWORK_CRFS)
        coarse = COARSE_CRFS if preset in extent.presets else ()
        yield from _networks(extent, "plain", preset, NETWORK_CRFS + coarse)


def still_jobs(extent: Extent) -> Iterator[Job]:
    """Weight steps that move nothing, as published."""
    for preset in extent.presets:
        yield from _networks(extent, "still", preset, STILL_CRFS)


FORMS: dict[str, dict[str, bool]] = {
    "steps": {},
    "alone": {"stepping": False},
    "weights": {"latents": False},
    "plain": {"latents": False, "stepping": False},
    "still": {"latents": False, "motion": False},
}
"""Words for what networks are measured as."""


def _networks(extent: Extent, word: str, preset: str, crfs: tuple[int, ...]) -> Iterator[Job]:
    alone = word in ("alone", "plain")
    first, every = (extent.every, extent.every) if alone else (0, 1)
    for crf in crfs:
        for name in map(extent.few, extent.network_clips):
            for scheme in NETWORKS:
                settings = Settings(scheme, preset, Rate(crf=crf), **FORMS[word])  # type: ignore[arg-type]
                codec = f"{scheme} {preset} {word}"
                yield f"{name} {codec} {crf}", partial(network_row, name, settings, codec, first, every)


def whole_jobs(extent: Extent) -> Iterator[Job]:
    """All frames of a clip as one network, as large as what weight steps take."""
    for preset in extent.presets:
        for name in map(extent.few, extent.network_clips):
            for crf, n_bytes in zip(WHOLE_CRFS, extent.whole_bytes, strict=True):
                job = partial(whole_row, name, preset, n_bytes, crf)
                yield f"{name} whole {preset} {crf}", job


def file_jobs(extent: Extent) -> Iterator[Job]:
    """Files of 2 and of 30 frames."""
    for scheme in SCHEMES:
        for n_frames in (2, 30):
            name = f"carphone/{n_frames}"
            yield f"{name} {scheme} file", partial(identical_row, scheme, name, extent.file_preset)


def speed_jobs(extent: Extent) -> Iterator[Job]:
    name = "carphone/8"
    yield f"{name} speed", partial(speed_row, name, extent.file_preset)


def memory_jobs(extent: Extent) -> Iterator[Job]:
    """Clips of 1080p, each twice as long as the one before."""
    for n_frames in (2, 4, 8):
        yield f"1080p/{n_frames} memory", partial(memory_row, n_frames, extent.file_preset)


PARTS: dict[str, Callable[[Extent], Iterator[Job]]] = {
    "codecs": codec_jobs,
    "warp": warp_jobs,
    "networks": network_jobs,
    "slow": slow_jobs,
    "weights": weight_jobs,
    "still": still_jobs,
    "whole": whole_jobs,
    "files": file_jobs,
    "speed": speed_jobs,
    "memory": memory_jobs,
}

ASKED = ("slow", "weights", "still", "memory")
"""Parts that are measured where they are asked for only."""
