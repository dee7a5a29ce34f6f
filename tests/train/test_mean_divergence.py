"""The mean of a task's divergence over batches."""

from __future__ import annotations

import pytest
import torch

from plisse.core.batch import Batch, BatchList
from plisse.errors import InputError
from plisse.train.task import classification, mean_divergence, outputs_on

INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
BATCHES = BatchList(tuple(Batch(part) for part in INPUTS.split(8)))
TASK = classification("made", INPUTS, BATCHES, BATCHES, BATCHES)


def test_batches_of_equal_size_give_what_all_samples_give() -> None:
    one, other = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    reference, outputs = outputs_on(one, BATCHES), outputs_on(other, BATCHES)
    whole = float(TASK.divergence(torch.cat(reference), torch.cat(outputs)))
    assert mean_divergence(TASK, reference, outputs) == pytest.approx(whole, rel=1e-5)
    assert mean_divergence(TASK, reference, outputs) > 0
    assert mean_divergence(TASK, reference, reference) == pytest.approx(0, abs=1e-6)


def test_no_batch_and_unequal_numbers_of_batches_are_refused() -> None:
    with pytest.raises(InputError, match="no calibration batch"):
        mean_divergence(TASK, [], [])
    with pytest.raises(ValueError, match="shorter"):
        mean_divergence(TASK, [INPUTS, INPUTS], [INPUTS])
