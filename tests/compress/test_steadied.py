"""Training of networks without norms, such as folded ones, has its gradients clipped."""

from __future__ import annotations

import pytest
from torch import nn

from plisse.compress.compress import compress
from plisse.compress.finetune import FineTune
from plisse.compress.fold import FoldBatchNorm
from plisse.compress.spend import FOLDED_CLIP, Training
from plisse.networks.open import open_model
from plisse.train.tasks import open_task


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.RMSNorm(3)])
def test_a_network_with_norms_is_trained_as_asked(norm: nn.Module) -> None:
    training = Training(FineTune(5))
    assert training.steadied(nn.Sequential(nn.Conv2d(3, 3, 1), norm)) is training


def test_one_without_is_clipped_unless_the_caller_did() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    assert clip_of(Training(FineTune(5)).steadied(bare)) == FOLDED_CLIP
    assert clip_of(Training(FineTune(5, clip=0.3)).steadied(bare)) == 0.3
    assert Training(None).steadied(bare).step is None


def clip_of(training: Training) -> float | None:
    assert training.step is not None
    return training.step.clip


def test_a_folding_recipe_leads_to_clipped_training() -> None:
    network, task = open_model("digits_cnn"), open_task("digits")
    result = compress(network, task, recipe=FoldBatchNorm(), finetune_steps=1)
    assert "clip=1.0" in result.steps[-1].name
