"""Names of schemes and presets, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass

from plisse.codec.latentstep import LatentSteps
from plisse.codec.moving import REACH
from plisse.codec.pictures import KINDS, Arch
from plisse.codec.scheme import LATENTS, MOTION, Scheme
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

COARSE: dict[str, dict[str, Preset]] = {
    "conv": {
        "fast": Preset(8, 4, 600, 50),
        "medium": Preset(12, 4, 2000, 150),
        "slow": Preset(12, 4, 2500, 300),
    },
    "siren": {
        "fast": Preset(20, 3, 300, 50),
        "medium": Preset(28, 3, 600, 120),
        "slow": Preset(28, 3, 1500, 250),
    },
    "fourier": {
        "fast": Preset(20, 2, 300, 50),
        "medium": Preset(28, 2, 600, 120),
        "slow": Preset(28, 2, 1500, 250),
    },
}
"""With latents, which tell what is fine."""


def scheme_of(
    name: str,
    preset: str,
    size: tuple[int, int],
    numbers: tuple[int, ...] | None = None,
    form: int = LATENTS,
) -> tuple[Scheme, tuple[int, ...]]:
    """The scheme of a name and a preset, or, for a decoder, of the numbers in a header; and these numbers.
    form: what a step of a network is, PLAIN, MOTION or LATENTS."""
    if numbers is not None:
        return _decoder(name, size, numbers), numbers
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}", expected=", ".join(PRESETS))
    if name == "warp":
        return Warp(size, preset), ()
    if name not in KINDS:
        raise InputError(f"scheme {name!r}", expected=", ".join(("warp", *KINDS)))
    chosen = (COARSE if form == LATENTS else NETWORKS)[name][preset]
    arch = Arch(name, chosen.width, chosen.depth)
    network = WeightSteps(arch, size, chosen.key_steps, chosen.step_steps, form == MOTION, REACH[preset])
    scheme = LatentSteps(network, preset) if form == LATENTS else network
    return scheme, (chosen.width, chosen.depth, *([form] if form else []))


def _decoder(name: str, size: tuple[int, int], numbers: tuple[int, ...]) -> Scheme:
    if name == "warp":
        if numbers:
            raise FormatError(f"numbers {numbers} of warp", offset=0, expected="none")
        return Warp(size)
    try:
        if name == NAME:
            return WholeClip(WholeArch(*numbers), size)
        width, depth, *rest = numbers
        if rest not in ([], [MOTION], [LATENTS]):
            raise ValueError(rest)
        network = WeightSteps(Arch(name, width, depth), size, motion=rest == [MOTION])
        return LatentSteps(network) if rest == [LATENTS] else network
    except (TypeError, ValueError, InputError) as error:
        raise FormatError(
            f"a network {name} of {numbers}",
            offset=0,
            expected="width, depth, and 1 or 2 for motion, latents",
        ) from error
