from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plisse.compress.prune.channels import choose_channels
from plisse.compress.prune.cutting import cut_channels, mask_channels
from plisse.compress.prune.groups import channel_graph
from plisse.compress.prune.importance import group_scores
from plisse.compress.prune.mask import nm_mask, unstructured_masks
from plisse.compress.prune.patterns import Gradual
from plisse.cost.macs import count_macs
from plisse.networks.resnet import resnet18, resnet20


def scores(sizes: list[int], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {str(i): torch.rand(size, generator=generator) for i, size in enumerate(sizes)}


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.999), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_sparsity_is_exact_to_one_weight(sparsity: float, sizes: list[int], seed: int) -> None:
    table, n = scores(sizes, seed), sum(sizes)
    masks = unstructured_masks(table, sparsity, "global")
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * n)
    for name, mask in unstructured_masks(table, sparsity, "layer").items():
        assert int((~mask).sum()) == round(sparsity * table[name].numel())


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.999), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_global_masks_keep_the_largest(sparsity: float, sizes: list[int], seed: int) -> None:
    table = scores(sizes, seed)
    masks = unstructured_masks(table, sparsity, "global")
    kept = torch.cat([table[name][mask] for name, mask in masks.items()])
    cut = torch.cat([table[name][~mask] for name, mask in masks.items()])
    assert not len(cut) or not len(kept) or kept.min() >= cut.max()


def test_ties_are_cut_exactly_too() -> None:
    masks = unstructured_masks({"a": torch.ones(10), "b": torch.ones(10)}, 0.5, "global")
    assert sum(int(mask.sum()) for mask in masks.values()) == 10


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 16)])
def test_exactly_n_of_m_stay_and_they_are_the_largest(n: int, m: int) -> None:
    score = torch.rand(6, 4, 2, 2, generator=torch.Generator().manual_seed(n * m))
    mask = nm_mask(score, n, m)
    assert mask is not None
    groups, kept = score.reshape(-1, m), mask.reshape(-1, m)
    assert (kept.sum(1) == n).all()
    best = groups.masked_fill(~kept, 0).sum(1)
    torch.testing.assert_close(best, groups.topk(n, dim=1).values.sum(1))


@pytest.mark.parametrize("build", [resnet20, resnet18])
def test_cutting_channels_equals_masking_them(build) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    model, x = build(), torch.randn(2, 3, 32, 32)
    model.train()(torch.randn(8, 3, 32, 32))  # statistics of its own
    model.eval()
    graph = channel_graph(model, x)
    cuts = choose_channels(group_scores("magnitude", model, graph.groups), 0.6)
    smaller, masked = cut_channels(model, graph.groups, cuts), mask_channels(model, graph.groups, cuts)
    with torch.no_grad():
        whole, left = model(x), smaller(x)
        torch.testing.assert_close(left, masked(x), rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    assert not torch.allclose(left, whole, rtol=1e-2)
    assert count_macs(smaller, x) < 0.75 * count_macs(masked, x)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1), st.lists(st.integers(2, 40), min_size=1, max_size=4), st.integers(1, 8))
def test_the_share_of_channels_is_kept_as_asked(keep: float, sizes: list[int], round_to: int) -> None:
    table = scores(sizes, 5)
    for name, gone in choose_channels(table, keep, round_to=round_to).items():
        size = len(table[name])
        stay = size - len(gone)
        assert stay % round_to == 0 or stay == size
        assert abs(stay - keep * size) <= max(round_to, 0.1 * size + round_to)
        left = [float(table[name][c]) for c in range(size) if c not in gone]
        assert min(left) >= max((float(table[name][c]) for c in gone), default=0.0)


def test_global_choice_keeps_the_share_overall_and_a_tenth_of_each_group() -> None:
    table = {"strong": 10 + torch.rand(40), "weak": torch.rand(40)}
    gone = choose_channels(table, 0.5, scope="global")
    assert sum(map(len, gone.values())) == 40
    assert (len(gone["strong"]), len(gone["weak"])) == (4, 36)


def test_the_order_of_channels_does_not_matter() -> None:
    torch.manual_seed(2)
    model, x = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)), torch.randn(4, 5)
    order = torch.randperm(12)
    moved = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        moved[0].weight.copy_(model[0].weight[order])
        moved[0].bias.copy_(model[0].bias[order])
        moved[2].weight.copy_(model[2].weight[:, order])
        moved[2].bias.copy_(model[2].bias)
        pruned = []
        for net in (model, moved):
            groups = channel_graph(net, x).groups
            cuts = choose_channels(group_scores("magnitude", net, groups), 0.5)
            pruned.append(cut_channels(net, groups, cuts)(x))
    torch.testing.assert_close(pruned[0], pruned[1])


def test_the_gradual_schedule_rises_from_nothing_to_the_end_ever_slower() -> None:
    schedule = Gradual(steps=100)
    values = [schedule.sparsity(step, 0.9) for step in range(101)]
    gains = [after - before for before, after in pairwise(values)]
    assert values[0] == 0.0
    assert values[75] == values[100] == pytest.approx(0.9)
    assert all(a >= b - 1e-12 for a, b in pairwise(gains))
