"""Pure functions of benchmarks/video: what is computed from rows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from benchmarks.video.decoding import digest
from benchmarks.video.files import against_ideal
from benchmarks.video.ideal import Meter, ideal
from benchmarks.video.jobs import PARTS, SMALL
from benchmarks.video.tables import derived, front, gain, own_networks, saving, section, step_share
from plisse.codec.compare import Point
from plisse.data.frames import Frame


def point(n_bytes: int, luma: float, codec: str = "conv fast steps") -> Point:
    return Point(codec, 28.0, n_bytes, n_bytes / 1000, luma, luma - 2, luma, 0.9, 1.0, 1.0)


def row(part: str, n_bytes: int, luma: float, codec: str, **more: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(point(n_bytes, luma, codec))
    return {"part": part, "key": f"{codec} {n_bytes}", "clip": "a/8", **fields, **more}


def curve(*pairs: tuple[int, float]) -> list[Point]:
    return [point(n_bytes, luma) for n_bytes, luma in pairs]


def test_half_the_bytes_save_half() -> None:
    assert saving([(1000, 30), (2000, 33)], [(500, 30), (1000, 33)]) == pytest.approx(-50)


def test_no_saving_without_common_quality() -> None:
    assert saving([(1000, 30), (2000, 33)], [(500, 20), (1000, 23)]) is None


def test_a_front_has_no_point_that_costs_more_and_shows_less() -> None:
    assert front([(300, 32), (100, 30), (200, 29), (300, 33)]) == [(100, 30), (300, 33)]


def test_gain_at_equal_bytes() -> None:
    others, points = curve((100, 30), (400, 34)), curve((200, 33.5), (800, 37.5))
    assert gain(others, points) == pytest.approx(1.5)
    assert gain(others, curve((500, 30), (800, 34))) is None


def test_share_of_a_step_is_at_equal_quality() -> None:
    steps = {"sizes": [1000, 90, 110], "lumas": [31.0, 29.0, 31.0], "keys": [0]}
    alone = [(400.0, 28.0), (1600.0, 32.0)]
    assert step_share(steps, alone) == pytest.approx(100 / 800)
    assert step_share(steps, alone[:1]) is None


def test_networks_of_their_own_are_frames_alone_and_first_frames() -> None:
    """A first frame belongs to the number that it was coded at, which is finer than that of its clip."""
    steps = {"codec": "conv medium steps", "crf": 27, "sizes": [1000, 10], "lumas": [31.0, 30.0]}
    still = {**steps, "codec": "conv medium still"}
    alone = {"codec": "conv medium alone", "crf": 23, "sizes": [600, 800], "lumas": [30.0, 32.0]}
    found = own_networks([steps, still, alone, {**alone, "codec": "siren medium alone"}], "conv")
    assert found == {("medium", "alone", 23): (pytest.approx(800), pytest.approx(31))}


def test_bytes_over_ideal_bits() -> None:
    frames = [{"key": True, "bits": 800.0, "payload": 110}, {"key": False, "bits": 80.0, "payload": 11}]
    found = against_ideal(frames, 132)
    assert found["key_over_ideal"] == pytest.approx(1.1)
    assert found["step_over_ideal"] == pytest.approx(1.1)
    assert found["file_over_ideal"] == pytest.approx(1.2)
    assert against_ideal(frames[:1], 120)["step_over_ideal"] is None


def test_a_meter_counts_what_the_model_believed() -> None:
    meter = Meter()
    listening = meter.decision(lambda bit, chance, state, data: bit)
    listening(1, 1 << 14, None, None)
    assert meter.bits == pytest.approx(2)
    listening(0, 1 << 14, None, None)
    assert meter.bits == pytest.approx(2 + math.log2(4 / 3))


def test_nothing_is_metered_in_compiled_coders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    with pytest.raises(RuntimeError, match="compiled"):
        ideal("clip.plv")


def test_digests_tell_frames_apart() -> None:
    planes = (torch.zeros(4, 4), torch.zeros(2, 2), torch.ones(2, 2))
    y, u, v = (plane.to(torch.uint8) for plane in planes)
    one, other = digest([Frame((y, u, v))]), digest([Frame((y, v, u))])
    assert one["frames"] == other["frames"] == 1
    assert one["digest"] != other["digest"]


def rows() -> list[dict[str, Any]]:
    found = [row("codecs", 100 * 2**i, 27 + 3 * i, "x264 slow") for i in range(3)]
    found += [row("warp", 110 * 2**i, 27 + 3 * i, "warp medium") for i in range(3)]
    for i in range(2):
        lumas = {"keys": [0], "weights": 1000, "sizes": [400 * 2**i, 100 * 2**i], "lumas": [29.0 + 2 * i] * 2}
        whole = {"keys": [0], "weights": 1000, "sizes": [600 * 2**i], "lumas": [29.0 + 2 * i], "crf": i}
        found.append({**row("networks", 500 * 2**i, 29 + 2 * i, "conv fast steps", **lumas), "crf": i + 4})
        found.append({**row("networks", 600 * 2**i, 29 + 2 * i, "conv fast alone"), **whole})
        found.append({**row("networks", 500 * 2**i, 28 + 2 * i, "siren fast steps", **lumas), "crf": i + 4})
    file = {"identical": True, "frames": 2, "key_over_ideal": 1.01, "step_over_ideal": None}
    found.append(
        {"part": "files", "key": "f", "clip": "a/2", "codec": "conv", "file_over_ideal": 1.1, **file}
    )
    speeds = {"warp fps 1": 20.0, "warp spread 1": 0.1, "warp fps 2": 30.0, "warp spread 2": 0.1}
    return [*found, {"part": "speed", "key": "s", "clip": "a/8", "codec": "fast", "frames": 8, **speeds}]


def test_derived_figures() -> None:
    found = derived(rows())
    warp = next(r for r in found["ratios"] if r["codec"] == "warp medium")
    assert warp["x264 slow luma"] == pytest.approx(1.1)
    assert warp["x265 slow luma"] is None
    steps = found["stepping"][0]
    assert steps["bd_rate"] == pytest.approx(-50)
    assert steps["shares"] == pytest.approx([0.2, 0.2])
    assert steps["shares_same_number"] == [None, None], "no network of its own was coded at these numbers"
    assert steps["key_bits_per_weight"][0] == pytest.approx(3.2)
    assert found["equal_bytes"][0]["luma"] == pytest.approx(-1)


def test_tables_show_every_row() -> None:
    text = section({"rows": rows(), **derived(rows())})
    for words in (
        "| a/8 | warp medium | 27.0 to 33.0 | 1.10 | 1.10 | - |",
        "-50 % | 0.20 to 0.20 (2 of 2) | - |",
        "siren fast steps is -1.0 dB",
    ):
        assert words in text
    assert "| a/2 | conv | 2 | yes | 1.010 | - | 1.100 |" in text
    assert "| warp fast | 20.0 | 30.0 |" in text


def test_rows_have_names_of_their_own() -> None:
    keys = [key for part in PARTS.values() for key, _ in part(SMALL)]
    assert len(keys) == len(set(keys))
