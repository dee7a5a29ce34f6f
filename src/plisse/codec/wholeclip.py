"""A whole clip as one network from the number of a frame to the frame (in the manner of NeRV, Chen et al.
2021), for comparison.

frame_t = G(L_0 + sum over k = 1 ... K of L_k cos(pi k (t + 1/2) / T)), where G is the frame generator and
L_k, latents [C, h, w], are learned with it: L_0 is what stays, L_k what changes in waves. All of it is fitted
to all T frames with its bits in the loss and coded as a key network is. Any frame is drawn alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor, nn

from plisse.bitstream.bytesreader import BytesReader, varint
from plisse.codec.fit import default_qsteps, fit_change
from plisse.codec.pictures import Planes, as_bytes, as_units, rendered, shuffled
from plisse.codec.scheme import State, check_crf, weight_at
from plisse.codec.stream import Header, chunk_bytes, end_bytes, header_bytes
from plisse.codec.threads import one_thread
from plisse.codec.weightcoder import key_bytes, read_key, step_weights
from plisse.data.frames import Frame
from plisse.errors import FormatError, InputError
from plisse.networks.coordinate import FrameGenerator

NAME = "whole"
STEPS = {"fast": 600, "medium": 2500, "slow": 8000}
"""Training steps, each of which looks at one frame."""
LEARNING_RATE = 8e-3
WIDEST, MOST_WAVES, MOST_DOUBLINGS, MOST_PARAMETERS, MOST_FRAMES = 64, 64, 6, 1 << 24, 1 << 16
BITS_PER_PARAMETER = 4.8
"""About what a parameter takes in a file, for choosing a width."""


@dataclass(frozen=True)
class WholeArch:
    """width: channels. doublings: from latents to half the frame. waves: K above."""

    width: int
    doublings: int
    waves: int

    def __post_init__(self) -> None:
        bounds = ((self.width, WIDEST), (self.doublings, MOST_DOUBLINGS), (self.waves, MOST_WAVES))
        if not all(1 <= value <= most for value, most in bounds):
            raise InputError(f"a network of {self.numbers}", expected=f"1 to {[most for _, most in bounds]}")

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.width, self.doublings, self.waves

    def n_parameters(self, size: tuple[int, int]) -> int:
        """Of a network for frames of `size`."""
        rows, columns = (-(-((side + 1) // 2) // 2**self.doublings) for side in size)
        body = self.doublings * (36 * self.width**2 + 4 * self.width) + 54 * self.width + 6
        return (1 + self.waves) * self.width * rows * columns + body


class ClipGenerator(nn.Module):
    """Called with the number of a frame; gives its planes, 0 to 1."""

    def __init__(self, arch: WholeArch, size: tuple[int, int], n_frames: int) -> None:
        super().__init__()
        half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        self.generator = FrameGenerator(*half, arch.width, arch.doublings, outputs=6)
        self.waves = nn.Parameter(0.1 * torch.randn(arch.waves, *self.generator.latent.shape[1:]))
        self.size, self.n_frames = size, n_frames

    def forward(self, index: int) -> Planes:
        phase = math.pi * (index + 0.5) / self.n_frames
        waves = torch.tensor([math.cos(k * phase) for k in range(1, len(self.waves) + 1)])
        latent = self.generator.latent + torch.einsum("k,kchw->chw", waves.to(self.waves), self.waves)
        made: Tensor = torch.func.functional_call(self.generator, {"latent": latent}, ())
        return shuffled(made, self.size)


@dataclass(frozen=True, eq=False)
class WholeState:
    """A frame of a clip; it is drawn when somebody looks at it."""

    network: ClipGenerator
    weights: dict[str, Tensor]
    index: int

    @cached_property
    def planes(self) -> Planes:
        return as_bytes(rendered(self.network, self.weights, self.index))


@dataclass(frozen=True)
class WholeClip:
    """A scheme. The key frame carries the network and how many frames it knows; steps carry nothing."""

    arch: WholeArch
    size: tuple[int, int]

    def __post_init__(self) -> None:
        found = self.arch.n_parameters(self.size)
        if found > MOST_PARAMETERS:
            raise InputError(f"a network of {found} parameters", expected=f"at most {MOST_PARAMETERS}")

    def network(self, n_frames: int, seed: int = 0) -> ClipGenerator:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return ClipGenerator(self.arch, self.size, n_frames)

    def encode(self, planes: Planes, before: State | None, crf: float, seed: int) -> tuple[bytes, State]:
        raise InputError("a frame alone", expected="all frames of a clip, for encode_whole")

    def encode_all(self, frames: Sequence[Planes], crf: float, steps: int, seed: int) -> bytes:
        """The payload of the key frame."""
        check_crf(crf)
        network = self.network(len(frames), seed)
        start = {name: p.detach().clone() for name, p in network.named_parameters()}
        zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        fitted = fit_change(
            network, [((index,), as_units(planes)) for index, planes in enumerate(frames)], zeros, start,
            default_qsteps(network), weight=weight_at(crf), steps=steps, lr=LEARNING_RATE, seed=seed,
            ramp=True,
        )  # fmt: skip
        return varint(len(frames)) + key_bytes(network, fitted)

    def decode(self, payload: bytes, before: State | None, offset: int, crf: float = 0.0) -> WholeState:
        if before is not None:
            assert isinstance(before, WholeState)
            if payload or before.index + 1 >= before.network.n_frames:
                raise FormatError("a frame beyond the clip", offset=offset, expected="an end")
            return WholeState(before.network, before.weights, before.index + 1)
        reader = BytesReader(payload)
        n_frames = reader.varint(MOST_FRAMES)
        if not n_frames:
            raise FormatError("a network of no frames", offset=offset, expected="1 or more")
        network = self.network(n_frames)
        symbols, exponents = read_key(network, reader, offset)
        base = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        return WholeState(network, step_weights(network, base, symbols, exponents), 0)

    def resized(self, state: State, size: tuple[int, int]) -> Planes:
        raise InputError("another size from a convolutional network", expected="siren or fourier")


def encode_whole(
    frames: Sequence[Frame], rate: Fraction, crf: float, arch: WholeArch, preset: str = "fast", seed: int = 0
) -> bytes:
    """A clip as bytes; `plisse.codec.video.decode` reads them. All frames are held in memory.

    crf: the weight of bits in the loss, as for other schemes. Raises InputError for no frames or frames of
    several sizes, or an unknown preset.
    """
    if not frames or len({frame.size for frame in frames}) > 1 or len(frames) > MOST_FRAMES:
        raise InputError(f"{len(frames)} frames", expected=f"1 to {MOST_FRAMES} of one size")
    if preset not in STEPS:
        raise InputError(f"preset {preset!r}", expected=", ".join(STEPS))
    scheme, colour = WholeClip(arch, frames[0].size), frames[0].colour
    rate = Fraction(rate).limit_denominator(1 << 16)
    out = io.BytesIO()
    out.write(header_bytes(Header(*frames[0].size, rate, colour, NAME, arch.numbers)))
    with one_thread():
        planes = [frame.with_chroma("420").planes for frame in frames]
        payload = scheme.encode_all(planes, crf, STEPS[preset], seed)
        state: WholeState | None = None
        for index, frame in enumerate(frames):
            state = scheme.decode(b"" if index else payload, state, 0)
            time = None if frame.time == index / rate else frame.time
            out.write(chunk_bytes(index == 0, b"" if index else payload, crf, state.planes, time))
    out.write(end_bytes(len(frames), True))
    return out.getvalue()


def arch_near(n_bytes: float, size: tuple[int, int], n_frames: int) -> WholeArch:
    """A network whose file takes about `n_bytes`: the latents' shorter side is about ten, there is a wave for
    every two frames, and the width is what fits.

    >>> arch_near(3000, (144, 176), 8)
    WholeArch(width=4, doublings=3, waves=4)
    """
    doublings = min(max(round(math.log2(min(size) / 20)), 1), MOST_DOUBLINGS)
    waves = min(max(n_frames // 2, 1), 16)
    fitting = [
        width
        for width in range(2, WIDEST + 1)
        if WholeArch(width, doublings, waves).n_parameters(size) * BITS_PER_PARAMETER / 8 <= n_bytes
    ]
    return WholeArch(max(fitting, default=2), doublings, waves)
