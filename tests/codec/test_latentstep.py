"""Networks with latents: what a frame is made of, what its first byte says, and files of this form."""

import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from clips import moving, small_networks

from plisse.codec.latentstep import LatentSteps
from plisse.codec.moving import REACH, moved_blocks
from plisse.codec.pictures import Arch, Planes, as_units, difference, rendered
from plisse.codec.rate import Rate
from plisse.codec.residual import cut_planes
from plisse.codec.scheme import qstep_at, weight_at
from plisse.codec.stream import ClipReader
from plisse.codec.video import Settings, decode, encode
from plisse.codec.weightstep import NetworkState, WeightSteps, left_over
from plisse.data.quality import luma_psnr
from plisse.errors import FormatError, InputError

RATE = Fraction(25)
SETTINGS = Settings("siren", "medium", Rate(crf=28))
SIZE = (32, 48)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks that are trained for a moment."""
    small_networks(monkeypatch, width=8, depth=2, key_steps=60, step_steps=15)


def scheme(kind: str = "siren", preset: str = "medium") -> LatentSteps:
    return LatentSteps(WeightSteps(Arch(kind, 6, 2), SIZE, key_steps=40, step_steps=12), preset)


def cost(data: bytes, crf: float) -> float:
    """J of all frames."""
    frames = zip(decode(data), moving(4, 48, 64), strict=True)
    pairs = [pair for a, b in frames for pair in zip(a.planes, b.planes, strict=True)]
    error = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    return error + weight_at(crf) * 8 * len(data)


def same(a: NetworkState, b: NetworkState) -> bool:
    weights = all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    return weights and all(torch.equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize("kind", ["siren", "conv"])
def test_latents_pay(short: None, kind: str) -> None:
    with_latents, without = (
        cost(encode(moving(4, 48, 64), RATE, replace(SETTINGS, scheme=kind, latents=latents)), 28)
        for latents in (True, False)
    )
    assert with_latents < 0.8 * without


def test_a_frame_is_network_motion_and_latents() -> None:
    coder, (first, second) = scheme(), (frame.planes for frame in moving(2))
    _, key = coder.encode(first, None, 30, 0)
    assert key.residual is not None
    drawn = rendered(coder.network(), key.weights, SIZE)
    guesses = [255 * plane.numpy() for plane in drawn]
    assert_sum(key, guesses)
    _, state = coder.encode(second, key, 34, 0)
    assert state.motion is not None
    assert state.motion.vectors.any()
    assert_sum(state, moved_blocks(key.planes, state.motion.vectors))
    assert state.weights is key.weights


def assert_sum(state: NetworkState, guesses: list[np.ndarray]) -> None:
    assert state.residual is not None
    pairs = zip(guesses, state.residual.added, strict=True)
    whole = [plane + added[: plane.shape[0], : plane.shape[1]] for plane, added in pairs]
    assert all(map(torch.equal, cut_planes(whole, SIZE), state.planes))
    assert any(added.any() for added in state.residual.added)


@pytest.mark.parametrize("kind", ["siren", "conv"])
def test_weights_may_step_as_well(kind: str) -> None:
    """What is read is what was written, weights, picture, and what the next frame is coded with."""
    coder, (first, second, third) = scheme(kind), (frame.planes for frame in moving(3))
    _, key = coder.encode(first, None, 30, 0)
    assert key.motion is not None
    motion = key.motion.searched(second[0], key.planes[0], 6, qstep_at(34))
    step = coder.coarse.fitted_step(left_over(as_units(second), key, motion), key, 15, 0)
    assert step[0].any()
    payload, state, _ = coder._tried(second, key, 34, 16, motion, step)
    assert payload[0] == 3
    assert same(coder.decode(payload, key, 0, 34), state)
    assert not torch.equal(difference(state.drawn, key.drawn)[0], torch.zeros(SIZE, dtype=torch.float64))
    following, _ = coder.encode(third, state, 34, 0)
    assert same(
        coder.decode(following, state, 0, 34),
        coder.decode(following, coder.decode(payload, key, 0, 34), 0, 34),
    )


def test_slow_steps_weights_only_where_that_costs_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REACH, "slow", REACH["medium"])
    coder, (first, second) = scheme(preset="slow"), (frame.planes for frame in moving(2))
    _, key = coder.encode(first, None, 30, 0)
    plain, _ = scheme().encode(second, key, 34, 0)
    tried: list[float] = []
    real = LatentSteps._tried

    def watched(self: LatentSteps, *args: object, **options: object) -> tuple[bytes, NetworkState, float]:
        found = real(self, *args, **options)  # type: ignore[arg-type]
        tried.append(found[2])
        return found

    monkeypatch.setattr(LatentSteps, "_tried", watched)
    payload, _ = coder.encode(second, key, 34, 0)
    assert len(tried) == 3
    assert bool(payload[0] & 2) == (tried[2] < min(tried[:2]))
    assert payload[0] & 2 or payload == plain


def test_another_size_is_the_network_drawn_there_and_the_rest_enlarged(short: None) -> None:
    frames = moving(4, 48, 64)
    data = encode(frames, RATE, SETTINGS)
    for made, scaled in zip(decode(data), decode(data, size=(48, 64)), strict=True):
        assert luma_psnr(made, scaled) > 50
    large = list(decode(data, size=(96, 128)))
    assert [frame.size for frame in large] == [(96, 128)] * 4
    for frame, made in zip(large, decode(data), strict=True):
        halved = torch.nn.functional.avg_pool2d(frame.planes[0].double()[None, None], 2)[0, 0]
        assert float((halved - made.planes[0]).abs().mean()) < 2.5, "nothing piles up"
    assert torch.equal(next(decode(data, 3, (96, 128))).planes[0], large[3].planes[0])
    with pytest.raises(InputError, match="another size"):
        list(decode(encode(frames[:1], RATE, replace(SETTINGS, scheme="conv")), size=(96, 128)))


def test_a_key_network_is_fitted_once_for_all_trials_of_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    coder, (first, second) = scheme(), (frame.planes for frame in moving(2))
    fitted: list[float] = []
    real = WeightSteps.key_payload

    def watched(self: WeightSteps, planes: Planes, crf: float, seed: int) -> bytes:
        fitted.append(crf)
        return real(self, planes, crf, seed)

    monkeypatch.setattr(WeightSteps, "key_payload", watched)
    payloads = [coder.encode(first, None, crf, 0)[0] for crf in (20, 30, 40, 46)]
    assert fitted == [43, 46]
    assert len(set(payloads)) == 4
    assert scheme().encode(first, None, 30, 0)[0] == payloads[1]
    coder.encode(second, None, 46, 0)
    coder.encode(second, None, 46, 1)
    assert fitted[2:] == [43, 46, 46]


def test_headers_tell_the_form(short: None) -> None:
    def numbers(**options: bool) -> tuple[int, ...]:
        data = encode(moving(2), RATE, replace(SETTINGS, **options))
        return ClipReader(io.BytesIO(data)).header.numbers

    assert numbers() == (8, 2, 2)
    assert numbers(stepping=False) == (8, 2, 2)
    assert numbers(latents=False) == (8, 2, 1)
    assert numbers(motion=False) == (8, 2)
    with pytest.raises(InputError, match="warp without latents"):
        replace(SETTINGS, scheme="warp", latents=False)


@pytest.mark.parametrize("form", [2, 3, 4, 255, None])
def test_forms_that_key_frames_do_not_have_are_refused(form: int | None) -> None:
    coder, first = scheme(), moving(1)[0].planes
    payload, _ = coder.encode(first, None, 30, 0)
    damaged = b"" if form is None else bytes([form]) + payload[1:]
    with pytest.raises(FormatError, match="unknown form"):
        coder.decode(damaged, None, 0, 30)
