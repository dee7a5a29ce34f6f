"""Mixtures and cut-out: laws of single transforms, and batches by index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plisse.core.batch import Batch, BatchList
from plisse.data.mixing import CutOut, MixUp, Transformed, transformed
from plisse.errors import InputError


def images(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def test_a_mixture_keeps_the_mean_of_the_batch_and_is_between_two_samples() -> None:
    batch = Batch(images(), torch.arange(8))
    mixed = MixUp()(batch, np.random.default_rng(0))
    torch.testing.assert_close(mixed.inputs.mean(0), batch.inputs.mean(0), rtol=1e-4, atol=1e-5)
    assert mixed.target is None
    low, high = batch.inputs.amin(0), batch.inputs.amax(0)
    assert ((mixed.inputs >= low - 1e-5) & (mixed.inputs <= high + 1e-5)).all()


def test_mixtures_draw_from_alpha() -> None:
    ones = Batch(torch.eye(2).reshape(2, 2, 1, 1))
    for alpha, spread in ((100.0, 0.3), (0.05, 0.95)):
        shares = [float(MixUp(alpha)(ones, np.random.default_rng(seed)).inputs[0, 0]) for seed in range(60)]
        assert (max(shares) - min(shares) > 0.9) is (alpha < 1), spread


def test_cut_out_sets_squares_of_the_size_to_zero() -> None:
    batch = Batch(torch.ones(64, 2, 12, 12), torch.arange(64))
    cut = CutOut(size=0.5)(batch, np.random.default_rng(0))
    missing = (cut.inputs == 0).sum((2, 3))  # [N, C]
    assert torch.equal(missing[:, 0], missing[:, 1])
    assert int(missing.max()) == 36
    assert int(missing.min()) >= 9
    assert torch.equal(cut.target, batch.target)
    assert bool((CutOut(size=1.0, holes=9)(batch, np.random.default_rng(0)).inputs == 0).any())


def test_any_index_gives_the_same_batch_every_time() -> None:
    plain = BatchList((Batch(images()), Batch(images() + 1)))
    both = Transformed(plain, (MixUp(), CutOut()), seed=3)
    assert len(both) == 2
    last = both[5].inputs
    assert torch.equal(both[5].inputs, last)
    assert not torch.equal(both[3].inputs, last)
    assert [batch.inputs.shape for batch in both] == [(8, 3, 10, 10)] * 2
    assert torch.equal(plain[1].inputs, images() + 1)
    assert transformed(plain, ()) is plain


@pytest.mark.parametrize(
    "make", [lambda: MixUp(0.0), lambda: MixUp(float("nan")), lambda: CutOut(0), lambda: CutOut(1, 1.5)]
)
def test_values_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError):
        make()


def test_inputs_that_do_not_fit_are_refused() -> None:
    draw = np.random.default_rng(0)
    with pytest.raises(InputError, match="floats"):
        MixUp()(Batch({"ids": torch.arange(4)}), draw)
    with pytest.raises(InputError, match="images"):
        CutOut()(Batch(torch.zeros(3, 4)), draw)
