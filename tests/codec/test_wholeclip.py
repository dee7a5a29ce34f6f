"""A clip as one network: frames come out alone and in order, damage and hostile headers are refused."""

import io
import warnings
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from clips import moving

from plisse.codec import wholeclip
from plisse.codec.presets import scheme_of
from plisse.codec.stream import ClipReader, chunk_bytes, end_bytes, header_bytes
from plisse.codec.video import decode
from plisse.codec.wholeclip import WholeArch, WholeClip, WholeState, arch_near, encode_whole
from plisse.data.quality import luma_psnr
from plisse.errors import FormatError, InputError

RATE, ARCH = Fraction(25), WholeArch(4, 2, 2)


@pytest.fixture(scope="module")
def frames():
    return moving(4)


@pytest.fixture(scope="module")
def data(frames):
    patch = pytest.MonkeyPatch()
    patch.setattr(wholeclip, "STEPS", {"fast": 90})
    yield encode_whole(frames, RATE, 24, ARCH)
    patch.undo()


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


def test_one_network_holds_all_frames(data, frames):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(decode(data))
    assert [frame.time for frame in found] == [frame.time for frame in frames]
    flat = replace(
        frames[0], planes=tuple(torch.full_like(p, int(p.float().mean())) for p in frames[0].planes)
    )
    for a, b in zip(found, frames, strict=True):
        assert luma_psnr(a, b) > luma_psnr(flat, b) + 3
    assert not same(found[0], found[3])
    chunks = list(ClipReader(io.BytesIO(data)))
    assert [chunk.key for chunk in chunks] == [True, False, False, False]
    assert [len(chunk.payload) for chunk in chunks[1:]] == [0, 0, 0]


def test_any_frame_is_drawn_alone(data, monkeypatch):
    whole, seen = list(decode(data)), []
    real = wholeclip.rendered
    monkeypatch.setattr(wholeclip, "rendered", lambda *a: seen.append(a[-1]) or real(*a))
    found = next(decode(data, start=2))
    assert same(found, whole[2])
    assert seen == [2]


def test_the_file_is_made_again(frames, monkeypatch):
    monkeypatch.setattr(wholeclip, "STEPS", {"fast": 4})
    assert encode_whole(frames, RATE, 24, ARCH) == encode_whole(frames, RATE, 24, ARCH)


def test_times_are_kept(frames, monkeypatch):
    monkeypatch.setattr(wholeclip, "STEPS", {"fast": 2})
    timed = [replace(f, time=Fraction(t * t, 30)) for t, f in enumerate(frames)]
    assert [f.time for f in decode(encode_whole(timed, RATE, 40, ARCH))] == [f.time for f in timed]


def test_parameters_are_counted():
    for arch, size in ((ARCH, (32, 48)), (WholeArch(3, 3, 1), (33, 50))):
        network = WholeClip(arch, size).network(5)
        assert arch.n_parameters(size) == sum(p.numel() for p in network.parameters())
    few, many = (arch_near(n, (144, 176), 8).n_parameters((144, 176)) for n in (2000, 8000))
    assert 2.5 < many / few < 5


def test_bad_input(frames):
    for make in (
        lambda: encode_whole([], RATE, 28, ARCH),
        lambda: encode_whole([*frames, *moving(1, 48, 48)], RATE, 28, ARCH),
        lambda: encode_whole(frames, RATE, 28, ARCH, "slower"),
        lambda: encode_whole(frames, RATE, 60, ARCH),
        lambda: WholeArch(0, 2, 2),
        lambda: WholeArch(4, 9, 2),
        lambda: WholeClip(WholeArch(64, 1, 64), (4096, 4096)),
        lambda: WholeClip(ARCH, (32, 48)).encode(frames[0].planes, None, 28, 0),
    ):
        with pytest.raises(InputError):
            make()


def test_damage_is_refused(data, frames):
    chunks, header = list(ClipReader(io.BytesIO(data))), ClipReader(io.BytesIO(data)).header
    planes = frames[0].planes

    def stream(payloads):
        parts = [chunk_bytes(index == 0, p, 24, planes) for index, p in enumerate(payloads)]
        return b"".join([header_bytes(header), *parts, end_bytes(len(parts), True)])

    key = chunks[0].payload
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for payloads in ([key] + [b""] * 4, [key, b"x"], [b"\0" + key[1:]], [key[:-3]], [key + b"\0"], [b""]):
            with pytest.raises(FormatError):
                list(decode(stream(payloads)))
        assert len(list(decode(stream([key, b""])))) == 2
    for numbers in ((64, 1, 64), (4, 2), (4, 2, 0), (4, 2, 2, 2)):
        with pytest.raises(FormatError):
            scheme_of("whole", "", (4096, 4096), numbers)
    with pytest.raises(InputError):
        scheme_of("whole", "fast", (32, 48))


def test_a_frame_is_what_its_number_says(data):
    scheme, _ = scheme_of("whole", "", (32, 48), ARCH.numbers)
    key = next(iter(ClipReader(io.BytesIO(data))))
    state = scheme.decode(key.payload, None, 0, 24)
    assert isinstance(state, WholeState)
    third = scheme.decode(b"", scheme.decode(b"", state, 0, 24), 0, 24)
    assert all(torch.equal(a, b) for a, b in zip(third.planes, list(decode(data))[2].planes, strict=True))
