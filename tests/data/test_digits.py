from __future__ import annotations

import numpy as np

from plisse.data.digits import read_digits


def test_parts_are_disjoint_by_position_and_complete() -> None:
    train, test = read_digits(seed=1)
    assert (len(train), len(test)) == (1200, 597)
    assert train.pixels.max() == 16
    counts = np.bincount(np.concatenate([train.labels, test.labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_seed_decides() -> None:
    first, again, other = (read_digits(seed)[0].pixels for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
