"""Targets of bits per pixel: key frames are searched the right way, clips come near, minima are true."""

import io
from fractions import Fraction
from math import log2

import pytest
from clips import moving

from plisse.codec.rate import Controller, Rate
from plisse.codec.stream import ClipReader
from plisse.codec.video import Settings, encode
from plisse.errors import BudgetError

RATE = Fraction(25)
SIZE = (48, 64)
PIXELS = SIZE[0] * SIZE[1]


def coded(bpp: float, n_frames: int, key_interval: int) -> tuple[float, list[float]]:
    """Bits per pixel of the file, and the quality numbers of its key frames."""
    settings = Settings("warp", "fast", Rate(bpp=bpp), key_interval)
    data = encode(moving(n_frames, *SIZE), RATE, settings)
    keys = [chunk.crf for chunk in ClipReader(io.BytesIO(data)) if chunk.key]
    return 8 * len(data) / n_frames / PIXELS, keys


@pytest.mark.parametrize(("n_frames", "key_interval"), [(1, 250), (12, 250), (12, 6)])
def test_clips_come_near_their_targets(n_frames, key_interval):
    targets = (0.6, 1.2, 2.4) if n_frames == 1 else (0.25, 0.5, 1.0)
    found = [coded(bpp, n_frames, key_interval) for bpp in targets]
    for bpp, (reached, _) in zip(targets, found, strict=True):
        assert reached == pytest.approx(bpp, rel=0.25 if n_frames == 1 else 0.15)
    keys = [each[0] for _, each in found]
    assert keys[0] > keys[1] + 3 > keys[2] + 6


def key_bytes(crf: float) -> int:
    """As encoders behave: twice the bytes for 6 less; 4096 at 0."""
    return round(4096 * 2 ** (-crf / 6))


@pytest.mark.parametrize("share", [1, 0.5, 1 / 8, 1 / 64])
def test_the_search_finds_the_quality_number(share):
    controller = Controller(Rate(bpp=share * 4096 * 8 / 1000), pixels=1000, key_interval=1)
    assert controller.for_key(lambda crf: (key_bytes(crf), 30.0)) == pytest.approx(-6 * log2(share), abs=0.75)


@pytest.mark.parametrize(("total", "frames_per_key"), [(None, 250), (10, 10), (500, 250), (300, 150)])
def test_the_least_is_that_of_the_coarsest_key_frames(total, frames_per_key):
    controller = Controller(Rate(bpp=1e-5), pixels=1000, key_interval=250, total=total)
    with pytest.raises(BudgetError, match="key frame alone") as error:
        controller.for_key(lambda crf: (key_bytes(crf), 30.0))
    assert error.value.closest == pytest.approx(8 * key_bytes(51) / 1000 / frames_per_key, abs=1e-4)


def test_a_target_beside_the_least_is_met_or_refused():
    least = 8 * key_bytes(51) / 1000
    for bpp, met in ((0.9 * least, False), (1.01 * least, True)):
        controller = Controller(Rate(bpp=bpp), pixels=1000, key_interval=1)
        if met:
            assert controller.for_key(lambda crf: (key_bytes(crf), 30.0)) == pytest.approx(51, abs=0.5)
        else:
            with pytest.raises(BudgetError):
                controller.for_key(lambda crf: (key_bytes(crf), 30.0))


def test_key_frames_get_less_of_many_bits():
    shares = []
    for bpp in (0.25, 0.5, 2.0):
        controller = Controller(Rate(bpp=bpp), pixels=4096, key_interval=8)
        crf = controller.for_key(lambda crf: (key_bytes(crf), 30.0))
        shares.append(key_bytes(crf) / (bpp * 4096 / 8))
    assert shares == pytest.approx([3.69, 3.69, 1.41], rel=0.1)
