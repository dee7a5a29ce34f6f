"""Clips: what is decoded is what the encoder had; streams break off, go on, and start in the middle."""

import io
import itertools
import warnings
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from clips import moving, small_networks

from plisse.codec.rate import Rate
from plisse.codec.stream import ClipReader, frame_check
from plisse.codec.video import Settings, decode, encode, encode_file, encode_to, is_cut, open_clip
from plisse.data.quality import luma_psnr
from plisse.data.video import open_video
from plisse.data.video_out import write_video
from plisse.errors import BudgetError, FormatError, InputError

RATE = Fraction(25)
TINY = Settings("warp", "fast", Rate(crf=30))
SCHEMES = ("warp", "conv", "siren", "fourier")


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """A few training steps, so that networks are coded, if not well."""
    small_networks(monkeypatch, width=6, depth=2, key_steps=12, step_steps=6)


def decoded(data: bytes, **options):
    return list(decode(data, **options))


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize(
    ("scheme", "latents"), [("warp", True), *itertools.product(SCHEMES[1:], (True, False))]
)
def test_decoded_frames_are_those_of_the_encoder(scheme, latents):
    frames, qualities = moving(3), []
    out = io.BytesIO()
    settings = replace(TINY, scheme=scheme, latents=latents)
    encode_to(out, frames, RATE, settings, lambda coded: qualities.append(coded.quality))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decoded(out.getvalue())
    assert [frame.time for frame in found] == [frame.time for frame in frames]
    measured = [luma_psnr(a, b) for a, b in zip(found, frames, strict=True)]
    assert measured == pytest.approx(qualities)
    assert encode(frames, RATE, settings) == out.getvalue()


def test_quality_follows_the_number_and_motion_is_cheap():
    frames = moving(4, 64, 96)
    fine, coarse = (encode(frames, RATE, replace(TINY, rate=Rate(crf=crf))) for crf in (20, 36))
    assert len(fine) > 2 * len(coarse)
    qualities = [luma_psnr(a, b) for a, b in zip(decoded(fine), frames, strict=True)]
    assert min(qualities) > 38
    chunks = list(ClipReader(io.BytesIO(fine)))
    assert all(chunk.length < chunks[0].length / 2 for chunk in chunks[1:])


@pytest.mark.parametrize(("height", "width"), [(17, 31), (16, 16), (33, 50)])
def test_odd_sizes(height, width):
    frames = moving(2, height, width)
    found = decoded(encode(frames, RATE, TINY))
    assert found[1].size == (height, width)
    assert luma_psnr(found[1], frames[1]) > 28


def test_key_frames_come_at_intervals_and_at_cuts():
    frames = moving(5)
    other = [replace(f, planes=(255 - f.planes[0], *f.planes[1:])) for f in moving(2, seed=3)]
    keys = [
        c.key for c in ClipReader(io.BytesIO(encode(frames + other, RATE, replace(TINY, key_interval=3))))
    ]
    assert keys == [True, False, False, True, False, True, False]
    assert is_cut(frames[4].planes[0], other[0].planes[0])
    assert not is_cut(frames[0].planes[0], frames[1].planes[0])


def test_every_frame_alone_without_stepping():
    data = encode(moving(3), RATE, replace(TINY, stepping=False))
    assert [chunk.key for chunk in ClipReader(io.BytesIO(data))] == [True] * 3


def test_decoding_begins_anywhere():
    data = encode(moving(6), RATE, replace(TINY, key_interval=2))
    whole = decoded(data)
    for start in range(7):
        assert all(map(same, decoded(data, start=start), whole[start:]))
        assert len(decoded(data, start=start)) == len(whole[start:])


def test_frames_come_before_the_rest_has_arrived():
    data = encode(moving(3), RATE, TINY)
    chunks = list(ClipReader(io.BytesIO(data)))

    class Arriving(io.RawIOBase):
        at, limit = 0, chunks[1].offset

        def read(self, size=-1):
            piece = data[self.at : min(self.at + size, self.limit)]
            assert piece, "read beyond what is there"
            self.at += len(piece)
            return piece

    stream = Arriving()
    assert next(decode(stream)).size == (32, 48)
    assert stream.at == chunks[1].offset


def test_a_stream_that_breaks_off_gives_its_whole_frames():
    data = encode(moving(3), RATE, TINY)
    whole, chunks = decoded(data), list(ClipReader(io.BytesIO(data)))
    with pytest.warns(UserWarning, match="breaks off"):
        found = decoded(data[: chunks[2].offset + 5])
    assert len(found) == 2
    assert all(map(same, found, whole))


def test_frames_that_round_otherwise_are_told(monkeypatch):
    data = encode(moving(2), RATE, TINY)
    monkeypatch.setattr("plisse.codec.reading.frame_check", lambda planes: frame_check(planes) ^ 1)
    with pytest.warns(UserWarning, match="not the frame that the encoder saw"):
        decoded(data)


@pytest.mark.parametrize("scheme", ["warp", "siren"])
@pytest.mark.parametrize("rate", [Rate(crf=30), Rate(psnr=25)], ids=["crf", "psnr"])
def test_an_interrupted_file_is_whole_and_goes_on_to_the_same_bytes(tmp_path, scheme, rate):
    write_video(tmp_path / "in.y4m", moving(5), 25)
    video, settings = open_video(tmp_path / "in.y4m"), replace(TINY, scheme=scheme, rate=rate)
    if scheme == "siren":
        settings = replace(settings, rate=Rate(crf=30))
    whole, part = tmp_path / "whole.plv", tmp_path / "part.plv"
    assert encode_file(video, whole, settings) == 5
    count = itertools.count(1)

    def stop(coded):
        if next(count) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_file(video, part, settings, report=stop)
    assert len(list(open_clip(part).frames())) == 3
    assert encode_file(video, part, settings, resume=True) == 5
    assert part.read_bytes() == whole.read_bytes()
    assert encode_file(video, part, settings, resume=True) == 5


def test_going_on_with_other_settings_or_a_cut_file(tmp_path):
    write_video(tmp_path / "in.y4m", moving(3), 25)
    video, path = open_video(tmp_path / "in.y4m"), tmp_path / "out.plv"
    encode_file(video, path, TINY)
    whole = path.read_bytes()
    with pytest.raises(
        InputError,
        match="scheme warp, no network; expected scheme siren, a network of 6 and 2 with motion and latents",
    ):
        encode_file(video, path, replace(TINY, scheme="siren"), resume=True)
    path.write_bytes(whole[:-20])
    encode_file(video, path, TINY, resume=True)
    assert path.read_bytes() == whole


def test_times_are_kept():
    frames = [replace(f, time=Fraction(t * t, 30)) for t, f in enumerate(moving(3))]
    assert [f.time for f in decoded(encode(frames, RATE, TINY))] == [f.time for f in frames]


def test_coordinate_networks_give_any_size():
    data = encode(moving(2), RATE, replace(TINY, scheme="siren"))
    found = decoded(data, size=(64, 96))
    assert found[0].size == (64, 96)
    with pytest.raises(InputError, match="another size"):
        decoded(encode(moving(1), RATE, TINY), size=(64, 96))


def test_rate_targets_are_met():
    frames = moving(6, 48, 64)
    for target in (30.0, 36.0):
        found = decoded(encode(frames, RATE, replace(TINY, rate=Rate(psnr=target))))
        mean = sum(luma_psnr(a, b) for a, b in zip(found, frames, strict=True)) / 6
        assert mean == pytest.approx(target, abs=0.8)
    data = encode(moving(12, 48, 64), RATE, replace(TINY, rate=Rate(bpp=0.25), key_interval=6))
    assert len(data) * 8 / (12 * 48 * 64) == pytest.approx(0.25, rel=0.25)


def test_rates_out_of_reach_say_the_closest():
    with pytest.raises(BudgetError) as error:
        encode(moving(2), RATE, replace(TINY, scheme="conv", latents=False, rate=Rate(psnr=60)))
    assert 5 < error.value.closest < 50
    with pytest.raises(BudgetError, match="key frame alone"):
        encode(moving(2), RATE, replace(TINY, rate=Rate(bpp=0.001), key_interval=2))


def test_bad_settings():
    for make in (
        lambda: Rate(),
        lambda: Rate(crf=20, bpp=1),
        lambda: Rate(crf=float("nan")),
        lambda: Rate(crf=60),
        lambda: Rate(bpp=0),
        lambda: Rate(psnr=200),
        lambda: Settings(key_interval=0),
        lambda: Settings("warp", motion=False),
        lambda: encode([], RATE),
        lambda: encode(moving(1), RATE, Settings("mpeg")),
        lambda: encode(moving(1), RATE, Settings("warp", "slower")),
        lambda: encode(moving(1, 8, 8), RATE),
        lambda: encode(moving(1) + moving(1, 48, 48), RATE, TINY),
    ):
        with pytest.raises(InputError):
            make()
    with pytest.raises(FormatError):
        decoded(b"no clip at all")
    with pytest.raises(InputError, match="no file"):
        open_clip("/nowhere/x.plv")
