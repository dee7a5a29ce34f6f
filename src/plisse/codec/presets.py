"""Names of schemes and presets, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass

from plisse.codec.moving import REACH
from plisse.codec.pictures import KINDS, Arch
from plisse.codec.scheme import Scheme
from plisse.codec.warp import Warp
from plisse.codec.weightstep import WeightSteps
from plisse.codec.wholeclip import NAME, WholeArch, WholeClip
from plisse.errors import FormatError, InputError

PRESETS = ("fast", "medium", "slow")


@dataclass(frozen=True)
class Preset:
    """Width and depth of the network; training steps for a key network and for a weight step."""

    width: int
    depth: int
    key_steps: int
    step_steps: int


NETWORKS: dict[str, dict[str, Preset]] = {
    "conv": {
        "fast": Preset(6, 4, 300, 50),
        "medium": Preset(12, 4, 2000, 150),
        "slow": Preset(12, 4, 2500, 300),
    },
    "siren": {
        "fast": Preset(20, 3, 300, 50),
        "medium": Preset(40, 4, 1600, 120),
        "slow": Preset(40, 4, 3000, 250),
    },
    "fourier": {
        "fast": Preset(20, 2, 300, 50),
        "medium": Preset(32, 2, 800, 120),
        "slow": Preset(40, 3, 2000, 250),
    },
}


def scheme_of(
    name: str,
    preset: str,
    size: tuple[int, int],
    numbers: tuple[int, ...] | None = None,
    motion: bool = True,
) -> tuple[Scheme, tuple[int, ...]]:
    """The scheme of a name and a preset, or, for a decoder, of the numbers in a header; and these numbers.
    motion: weight steps add to the frame before, moved."""
    if numbers is not None:
        return _decoder(name, size, numbers), numbers
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}", expected=", ".join(PRESETS))
    if name == "warp":
        return Warp(size, preset), ()
    if name not in KINDS:
        raise InputError(f"scheme {name!r}", expected=", ".join(("warp", *KINDS)))
    chosen = NETWORKS[name][preset]
    arch = Arch(name, chosen.width, chosen.depth)
    scheme = WeightSteps(arch, size, chosen.key_steps, chosen.step_steps, motion, REACH[preset])
    return scheme, (chosen.width, chosen.depth, *([1] if motion else []))


def _decoder(name: str, size: tuple[int, int], numbers: tuple[int, ...]) -> Scheme:
    if name == "warp":
        if numbers:
            raise FormatError(f"numbers {numbers} of warp", offset=0, expected="none")
        return Warp(size)
    try:
        if name == NAME:
            return WholeClip(WholeArch(*numbers), size)
        width, depth, *rest = numbers
        if rest not in ([], [1]):
            raise ValueError(rest)
        return WeightSteps(Arch(name, width, depth), size, motion=bool(rest))
    except (TypeError, ValueError, InputError) as error:
        raise FormatError(
            f"a network {name} of {numbers}", offset=0, expected="width, depth and motion"
        ) from error
