"""The adaptive coder: numbers come back, in few bytes, alike on every machine."""

import math

import numpy as np
import pytest
from numba import njit

from plisse.codec import adaptive
from plisse.codec.adaptive import Model, Tape, code_number
from plisse.errors import FormatError


@njit(cache=True)
def code_all(values, state, data, chances, counts, weights):
    before = 0
    for i in range(values.size):
        values[i] = code_number(
            values[i], 0, 1 + min(abs(before), 3), 5, state, data, chances, counts, weights
        )
        before = values[i]


def coded(values: np.ndarray) -> bytes:
    tape, model = Tape.to_write(values.size), Model.fresh(6)
    code_all(values.copy(), tape.state, tape.data, model.chances, model.counts, model.weights)
    return tape.finished()


def decoded(data: bytes, n: int) -> tuple[np.ndarray, Tape]:
    tape, model, found = Tape.to_read(data), Model.fresh(6), np.zeros(n, np.int64)
    code_all(found, tape.state, tape.data, model.chances, model.counts, model.weights)
    return found, tape


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 10000.0])
def test_numbers_come_back_near_their_entropy(scale):
    values = np.round(np.random.default_rng(0).laplace(0, scale, 4000)).astype(np.int64)
    data = coded(values)
    found, tape = decoded(data, values.size)
    assert (found == values).all()
    tape.check_end(data, 0)
    ideal = math.log2(2 * math.e * max(scale, 0.5)) * values.size / 8
    assert len(data) < 1.1 * ideal + 40


@pytest.mark.parametrize("values", [[0], [1], [-1], [0] * 300, [1 << 20, -(1 << 20), 0, 8, 9, -10]])
def test_small_and_large_numbers(values):
    numbers = np.array(values, np.int64)
    data = coded(numbers)
    assert (decoded(data, numbers.size)[0] == numbers).all()
    assert len(data) < 4 + 7 * len(values) ** 0.5 + len(values) / 20


def test_bytes_stay_as_they_are():
    values = (np.arange(64) * 37 % 11 - 5).astype(np.int64)
    assert coded(values).hex() == GOLDEN


def test_bytes_that_are_left_over_are_found():
    values = np.arange(20, dtype=np.int64)
    data = coded(values) + b"0123456789"
    with pytest.raises(FormatError, match="coded bytes"):
        decoded(data, values.size)[1].check_end(data, 0)


def test_tables_do_not_depend_on_the_last_bits_of_exp_and_log():
    """Every entry is far from the middle of two whole numbers."""
    exact = [65536 / (1 + math.exp(-d / 256)) for d in range(-2048, 2048)]
    logs = [256 * math.log(p / (4096 - p)) for p in range(1, 4096)]
    assert min(abs(abs(x % 1) - 0.5) for x in exact if x % 1) > 1e-7
    assert min(abs(x % 1 - 0.5) for x in logs) > 1e-7
    assert adaptive.LOGIT[2048] == 0
    assert adaptive.LOGISTIC[2048] == 32768


GOLDEN = "03163c8fa222551d1a6da9f6b7f32c16ab9e0c8c11d5240236551d"
