"""What a network at a point shares with its subspace."""

from __future__ import annotations

import torch
from torch import nn

from plisse.adapt.elastic import Point
from plisse.adapt.sparsity import measure_thresholds, sparsity_subspace
from plisse.adapt.subspace import with_ancestors

HALF = Point("sparsity", 0.5)


def made() -> nn.Module:
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    inner = nn.Sequential(shared, nn.ReLU())
    return nn.Sequential(nn.Linear(6, 6), inner, nn.Sequential(nn.ReLU(), shared), nn.Linear(6, 2))


def test_all_names_of_a_layer_that_stands_in_two_places_count() -> None:
    assert with_ancestors(made(), ["1.0"]) == {"", "1", "1.0", "2", "2.1"}
    assert with_ancestors(made(), []) == {""}


def test_layers_that_no_point_changes_are_shared_at_rest_and_copied_in_training() -> None:
    subspace = sparsity_subspace(made(), sparsities=(0.5, 0.0))
    measure_thresholds(subspace)
    model = subspace.wrapped.model
    trained = subspace.train().materialised(HALF)
    assert trained[0] is not model[0]
    assert not trained[3].training
    assert model[3].training
    rested = subspace.eval().materialised(HALF)
    assert rested[0] is model[0]
    assert rested[1][0] is not model[1][0]
    assert rested[1][1] is model[1][1]
    assert rested[1][0] is rested[2][1]
    assert int(rested[1][0].weight.count_nonzero()) == 18
    assert int(model[1][0].weight.count_nonzero()) == 36


def test_both_ways_compute_the_same_and_leave_the_subspace_as_it_was() -> None:
    subspace = sparsity_subspace(made(), sparsities=(0.5, 0.0))
    inputs = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    dense = subspace(inputs)
    found = [subspace.train(training).materialised(HALF)(inputs) for training in (True, False)]
    assert torch.equal(*found)
    subspace.select(subspace.space.largest)
    assert torch.equal(subspace(inputs), dense)
    assert not torch.allclose(found[0], dense)
