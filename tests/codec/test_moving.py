"""Weight steps that move the frame before: what motion leaves to them, any size, files of both kinds."""

import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from clips import moving, small_networks

from plisse.codec.moving import Motion, find_motion, moved_planes, no_vectors
from plisse.codec.pictures import Arch
from plisse.codec.rate import Rate
from plisse.codec.stream import ClipReader, Header, header_bytes
from plisse.codec.video import Settings, decode, encode
from plisse.codec.weightstep import WeightSteps
from plisse.data.frames import Colour, to_bytes
from plisse.data.quality import luma_psnr
from plisse.errors import FormatError

RATE = Fraction(25)
SETTINGS = Settings("siren", "fast", Rate(crf=28), latents=False)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks that are trained for a moment."""
    small_networks(monkeypatch, width=8, depth=2, key_steps=60, step_steps=15)


def step_bytes(data: bytes) -> int:
    return sum(chunk.length for chunk in ClipReader(io.BytesIO(data)) if not chunk.key)


def mean_quality(data: bytes, frames: list) -> float:
    return float(np.mean([luma_psnr(a, b) for a, b in zip(decode(data), frames, strict=True)]))


@pytest.mark.parametrize("scheme", ["siren", "conv"])
def test_motion_makes_steps_better(short: None, scheme: str) -> None:
    """At one quality number, whose key frames are finer where steps copy from them."""
    frames = moving(4, 48, 64)
    with_motion, without = (
        encode(frames, RATE, replace(SETTINGS, scheme=scheme, motion=motion)) for motion in (True, False)
    )
    assert mean_quality(with_motion, frames) > mean_quality(without, frames) + 1


def test_a_step_of_no_weights_is_the_frame_before_moved() -> None:
    """Training of no steps leaves weights where they are."""
    scheme = WeightSteps(Arch("conv", 4, 3), (32, 48), key_steps=40, step_steps=1, motion=True)
    first, second = (frame.planes for frame in moving(2))
    _, key = scheme.encode(first, None, 40, 0)
    vectors, split = find_motion(second[0].numpy(), key.planes[0].numpy(), no_vectors((32, 48)), 12, 64.0)
    _, state = scheme.encode(second, key, 40, 0)
    assert state.motion is not None
    assert np.array_equal(state.motion.vectors, vectors)
    assert np.array_equal(state.motion.split, split)
    assert not state.memory.sizes.any()
    for made, wanted in zip(state.planes, moved_planes(key.planes, vectors), strict=True):
        assert torch.equal(made, to_bytes(wanted))


def test_frames_of_their_own_size_are_nearly_those_of_the_clip(short: None) -> None:
    frames = moving(4, 48, 64)
    data = encode(frames, RATE, SETTINGS)
    for made, scaled in zip(decode(data), decode(data, size=(48, 64)), strict=True):
        assert luma_psnr(made, scaled) > 50
    large = list(decode(data, size=(96, 128)))
    assert [frame.size for frame in large] == [(96, 128)] * 4
    halved = torch.nn.functional.avg_pool2d(large[3].planes[0].double()[None, None], 2)[0, 0]
    whole = list(decode(data))[3].planes[0]
    assert float((halved - whole).abs().mean()) < 6
    assert torch.equal(next(decode(data, 3, (96, 128))).planes[0], large[3].planes[0])


def test_without_motion_clips_are_as_they_were(short: None) -> None:
    data = encode(moving(2), RATE, replace(SETTINGS, motion=False))
    assert ClipReader(io.BytesIO(data)).header.numbers == (8, 2)
    alone = encode(moving(2), RATE, replace(SETTINGS, stepping=False))
    assert ClipReader(io.BytesIO(alone)).header.numbers == (8, 2)
    assert ClipReader(io.BytesIO(encode(moving(2), RATE, SETTINGS))).header.numbers == (8, 2, 1)


def test_key_frames_are_finer_where_steps_copy_from_them(short: None) -> None:
    def crfs(**options: bool) -> list[float]:
        data = encode(moving(2), RATE, replace(SETTINGS, **options))
        return [chunk.crf for chunk in ClipReader(io.BytesIO(data))]

    assert crfs() == [24, 28]
    assert crfs(motion=False) == [28, 28]
    assert crfs(stepping=False) == [28, 28]


@pytest.mark.parametrize("numbers", [(6, 2, 0), (6, 2, 3), (6, 2, 1, 1), (6,)])
def test_other_numbers_are_refused(numbers: tuple[int, ...]) -> None:
    header = header_bytes(Header(32, 48, RATE, Colour(), "siren", numbers))
    with pytest.raises(FormatError, match="width, depth, and 1 or 2"):
        list(decode(header))


def test_a_model_of_motion_lives_on() -> None:
    """Reading a motion does not change what was read before."""
    still = Motion.still((32, 48))
    following = still.searched(*(frame.planes[0] for frame in reversed(moving(2))), 4, 8.0)
    assert following.past is still.vectors
    assert not still.vectors.any()
    assert following.vectors.any()
