"""Small clips, written once and kept: their symbols, which every machine must read, and their frames."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plisse.codec.presets import scheme_of
from plisse.codec.stream import ClipReader
from plisse.codec.video import decode

HERE = Path(__file__).parent
SYMBOLS = {
    "warp": "7a1b338df67490a4",
    "siren": "7fa1ae5d2b381d64",
    "conv": "8aedbf0d5693e049",
    "moving": "a0a330c76cee3af2",
    "latents": "fd5c7e7be5107dba",
    "whole": "2f05894ad2600a74",
}
"""SHA-256, first 16 digits: of motion and latents, or of weights."""
FRAMES = {
    "warp": "fae54e7b2583d7c8",
    "siren": "4b24ddf217f40c38",
    "conv": "60d0d93152e955eb",
    "moving": "43eefef3fadceb1b",
    "latents": "9537b9da6b5c674b",
    "whole": "90f61e7ae3a4614c",
}


def digest(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def integers(state: Any) -> list[np.ndarray[Any, Any]]:
    """What a frame says: whole numbers, or sums of whole numbers times powers of two in float32."""
    weights = [weight.numpy() for weight in state.weights.values()]
    if hasattr(state, "vectors"):
        return [state.vectors, *(latent.q for latent in state.latents), *weights]
    motion, residual = getattr(state, "motion", None), getattr(state, "residual", None)
    latents = [] if residual is None else [latent.q for latent in residual.latents]
    return weights if motion is None else [motion.vectors, motion.split, *latents, *weights]


@pytest.mark.parametrize("scheme", SYMBOLS)
def test_symbols_of_a_kept_clip(scheme: str) -> None:
    with open(HERE / f"clip-v1-{scheme}.bin", "rb") as file:
        reader = ClipReader(file)
        decoder, _ = scheme_of(reader.header.scheme, "", reader.header.size, reader.header.numbers)
        state, found = None, []
        for chunk in reader:
            state = decoder.decode(chunk.payload, None if chunk.key else state, 0, chunk.crf)
            found += integers(state)
    assert reader.end is not None
    assert reader.end.complete
    assert digest(found) == SYMBOLS[scheme]


@pytest.mark.parametrize("scheme", FRAMES)
def test_frames_of_a_kept_clip(scheme: str) -> None:
    """Computed in float64, rounded to 8 bits: machines could differ only within 1e-9 or so of a half."""
    data = (HERE / f"clip-v1-{scheme}.bin").read_bytes()
    assert len(data) < 900
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = list(decode(data))
    assert len(frames) == 4
    assert len({digest([frame.planes[0].numpy()]) for frame in frames}) > 1
    assert digest(plane.numpy() for frame in frames for plane in frame.planes) == FRAMES[scheme]


def test_a_kept_clip_is_decoded_from_the_middle() -> None:
    data = (HERE / "clip-v1-warp.bin").read_bytes()
    whole, rest = list(decode(data)), list(decode(data, start=3))
    assert len(rest) == 1
    assert torch.equal(whole[3].planes[0], rest[0].planes[0])
