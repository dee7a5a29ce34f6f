"""Laws of motion, cosines and latents."""

import numpy as np
import pytest

from plisse.codec import latents
from plisse.codec.adaptive import Model, Tape
from plisse.codec.motion import (
    UNIT,
    analysed,
    diagonals,
    enlarged,
    moved_chroma,
    moved_luma,
    search,
    synthesised,
)
from plisse.codec.refine import added, start


def image(seed: int = 0, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("n", [8, 16])
def test_cosines_invert_and_keep_energy(n):
    plane = image().astype(np.float64)
    coefficients = analysed(plane, n)
    assert np.allclose(synthesised(coefficients, n), plane)
    assert np.square(coefficients).sum() == pytest.approx(np.square(plane).sum())
    assert np.abs(analysed(np.full((32, 48), 5.0), n)[..., 1:]).max() < 1e-12


def test_diagonals_visit_every_place_once_and_low_frequencies_first():
    order = diagonals(8)
    assert sorted(order.tolist()) == list(range(64))
    sums = [place // 8 + place % 8 for place in order]
    assert sums == sorted(sums)


def test_whole_pixels_move_exactly():
    plane, vectors = image(), np.zeros((4, 6, 2), np.int64)
    vectors[..., 0], vectors[..., 1] = 4 * 2, -4 * 3
    out = np.zeros((32, 48), np.int32)
    moved_luma(enlarged(plane), vectors, out)
    assert (out[:-2, 3:] == plane[2:, :-3].astype(np.int32) * UNIT).all()
    half = np.zeros((16, 24), np.int32)
    vectors[...] = 8
    moved_chroma(enlarged(plane[:16, :24]), vectors, half)
    assert (half[:-1, :-1] == plane[1:16, 1:24].astype(np.int32) * UNIT).all()


def test_a_far_vector_stays_inside():
    vectors = np.full((4, 6, 2), 32767, np.int64)
    out, plane = np.zeros((32, 48), np.int32), image()
    moved_luma(enlarged(plane), vectors, out)
    assert abs(int(out[5, 5]) - int(plane[-1, -1]) * UNIT) <= 200 * UNIT


def test_search_finds_the_motion():
    plane = image(1, 64, 64)
    shifted = np.roll(plane, (-3, 2), (0, 1))
    vectors, split = np.zeros((8, 8, 2), np.int64), np.zeros((4, 4), np.int64)
    wide = shifted.astype(np.int32) * UNIT
    search(wide, enlarged(plane), np.zeros_like(vectors), 6, 10.0 * UNIT**2, vectors, split)
    assert (vectors[2:6, 2:6] == (12, -8)).all()
    assert not split[1:3, 1:3].any()


def test_vectors_come_back():
    draw = np.random.default_rng(0)
    split = draw.integers(0, 2, (3, 4)).astype(np.int64)
    vectors = draw.integers(-40, 40, (6, 8, 2)).astype(np.int64)
    for row in range(3):
        for column in range(4):
            if not split[row, column]:
                block = vectors[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                block[...] = block[0, 0]
    past = np.zeros_like(vectors)
    tape, model = Tape.to_write(500), Model.fresh(latents.N_CONTEXTS)
    arrays = (tape.state, tape.data, model.chances, model.counts, model.weights)
    latents.code_vectors(vectors.copy(), split.copy(), past, latents.MOTION, *arrays)
    tape, model = Tape.to_read(tape.finished()), Model.fresh(latents.N_CONTEXTS)
    arrays = (tape.state, tape.data, model.chances, model.counts, model.weights)
    found, cut = np.zeros_like(vectors), np.zeros_like(split)
    latents.code_vectors(found, cut, past, latents.MOTION, *arrays)
    assert (found == vectors).all()
    assert (cut == split).all()


def test_the_refiner_does_not_see_brightness_and_scales_with_the_step():
    plane = image().astype(np.float64)
    assert np.allclose(added(plane + 40, 8.0, start()), added(plane, 8.0, start()), atol=1e-4)
    twice = added(128 + 2 * (plane - 128), 16.0, start())
    assert np.allclose(twice, 2 * added(plane, 8.0, start()), atol=1e-9)
