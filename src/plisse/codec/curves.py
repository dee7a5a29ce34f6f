"""A clip under every codec at several rates: what `plisse video compare` shows.

Beside ours stand x264 and x265, coordinate networks of one frame each (COIN, Dupont et al. 2021), and one
network of the whole clip (NeRV, Chen et al. 2021). Networks are made as large as our files are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from plisse.codec.compare import Point, Way, at_equal_bytes, crf_of, our_way, ratio, their_way, tried
from plisse.codec.encoder import Settings
from plisse.codec.fanout import fanned
from plisse.codec.pictures import Arch, build, n_parameters
from plisse.codec.presets import NETWORKS
from plisse.codec.rate import Rate
from plisse.codec.video import decode, encode_with
from plisse.codec.weightstep import WeightSteps
from plisse.codec.wholeclip import BITS_PER_PARAMETER, arch_near, encode_whole
from plisse.data.frames import Frame
from plisse.errors import InputError

OUR_CRFS, THEIR_CRFS = (24.0, 28.0, 32.0, 36.0), (12.0, 16.0, 20.0, 24.0, 28.0, 32.0, 36.0)
CODECS, NETS = ("x264", "x265"), ("coin", "whole")
AGAINST = (*CODECS, *NETS)
NAMES = {"coin": "a network per frame", "whole": "one network for the clip"}
SIREN_DEPTH = 3


@dataclass(frozen=True, eq=False)
class Curve:
    """A codec at several rates. frames: one decoded frame for each point."""

    name: str
    points: tuple[Point, ...]
    frames: tuple[Frame, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Of a clip of n_frames. original: the frame of number `index`, which all curves show. curves: ours
    first."""

    n_frames: int
    rate: Fraction
    index: int
    original: Frame
    curves: tuple[Curve, ...]

    def ratios(self, of: str = "luma") -> dict[str, float | None]:
        """Our bytes over those of each other curve at equal quality; None where they share none."""
        first, *others = self.curves
        return {curve.name: ratio(first.points, curve.points, of) for curve in others}

    def gaps(self, of: str = "luma") -> dict[str, list[float | None]]:
        """For each other curve, its quality less ours at the bytes of each of our points."""
        first, *others = self.curves
        return {curve.name: [_gap(curve, point, of) for point in first.points] for curve in others}


def _gap(curve: Curve, point: Point, of: str) -> float | None:
    found = at_equal_bytes(curve.points, point.bytes, of)
    return None if found is None else found - getattr(point, of)


def compare_clip(
    frames: Sequence[Frame],
    rate: Fraction,
    settings: Settings = Settings(),
    against: Sequence[str] = AGAINST,
    jobs: int = 1,
    backend: str = "loky",
    said: Callable[[str], None] = lambda words: None,
) -> Comparison:
    """Measure all curves, from decoded files. against: of "x264", "x265", "coin", "whole". The settings' rate
    does not matter. said: called with words when a point is done.

    Raises InputError for no frames, unknown names, and codecs that PyAV was built without.
    """
    if not frames or not set(against) <= set(AGAINST):
        raise InputError(f"{len(frames)} frames, {tuple(against)}", expected=f"frames, and of {AGAINST}")
    index = len(frames) // 2
    look = partial(_looked, frames, rate, index=index)
    ways: list[Callable[..., Way]] = [partial(our_way, settings=crf_of(settings, crf)) for crf in OUR_CRFS]
    first = _measured(look, {"ours": ways}, jobs, backend, said)["ours"]
    others: dict[str, list[Callable[..., Way]]] = {}
    for name in against:
        if name in CODECS:
            others[name] = [partial(their_way, codec=name, crf=crf) for crf in THEIR_CRFS]
        else:
            made = coin_way if name == "coin" else whole_way
            others[name] = [partial(made, like=point, preset=settings.preset) for point in first.points]
    found = _measured(look, others, jobs, backend, said)
    return Comparison(len(frames), rate, index, frames[index], (first, *found.values()))


def _looked(
    frames: Sequence[Frame], rate: Fraction, way: Callable[..., Way], index: int
) -> tuple[Point, Frame]:
    point, found = tried(way(frames, rate), frames)
    return point, found[index]


def _measured(
    look: Callable[..., tuple[Point, Frame]],
    ways: dict[str, list[Callable[..., Way]]],
    jobs: int,
    backend: str,
    said: Callable[[str], None],
) -> dict[str, Curve]:
    tasks = [partial(look, way=way) for each in ways.values() for way in each]
    results = iter(_told(fanned(tasks, jobs, backend), len(tasks), said))
    curves = {}
    for key, each in ways.items():
        found = [next(results) for _ in each]
        points, frames = tuple(point for point, _ in found), tuple(frame for _, frame in found)
        curves[key] = Curve(points[0].codec, points, frames)
    for _ in results:
        pass
    return curves


def _told(
    results: Iterable[tuple[Point, Frame]], count: int, said: Callable[[str], None]
) -> Iterable[tuple[Point, Frame]]:
    for number, (point, frame) in enumerate(results):
        said(f"{point.codec}, crf {point.crf:g}: {point.bytes:,} bytes ({number + 1} of {count})")
        yield point, frame


def coin_way(frames: Sequence[Frame], rate: Fraction, like: Point, preset: str) -> Way:
    """A sine network for each frame alone, together about as many bytes as `like`."""
    size, steps = frames[0].size, NETWORKS["siren"][preset].key_steps
    bits = 8 * like.bytes / len(frames)
    widths = [w for w in range(4, 65) if _siren_parameters(w) * BITS_PER_PARAMETER <= bits]
    arch = Arch("siren", max(widths, default=4), SIREN_DEPTH)
    settings = Settings("siren", preset, Rate(crf=like.crf), stepping=False)
    scheme = WeightSteps(arch, size, steps)
    return Way(
        NAMES["coin"], like.crf,
        lambda: encode_with(frames, rate, settings, scheme, (arch.width, arch.depth)),
        lambda data: list(decode(data)),
    )  # fmt: skip


def _siren_parameters(width: int) -> int:
    return n_parameters(build(Arch("siren", width, SIREN_DEPTH), (16, 16)))


def whole_way(frames: Sequence[Frame], rate: Fraction, like: Point, preset: str) -> Way:
    """One network for all frames, of about as many bytes as `like`."""
    arch = arch_near(like.bytes, frames[0].size, len(frames))
    return Way(
        NAMES["whole"], like.crf,
        lambda: encode_whole(frames, rate, like.crf, arch, preset), lambda data: list(decode(data)),
    )  # fmt: skip
