from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx, nn

from plisse.data.cifar10 import read_test
from plisse.data.images import ImageBatches
from plisse.errors import InputError
from plisse.networks.open import open_model
from plisse.networks.resnet import PadShortcut, ResNet18, resnet18, resnet20, resnet56
from plisse.networks.small import digits_cnn


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "expected"),
    [(resnet20(), 269_722), (resnet56(), 853_018), (resnet18(), 11_689_512), (digits_cnn(), 53_098)],
)
def test_parameters_as_published(model: nn.Module, expected: int) -> None:
    assert n_parameters(model) == expected


def test_the_pad_shortcut_takes_every_second_and_centres_channels() -> None:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    out = PadShortcut(4, 8, 2)(x)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert out.square().sum() == x[:, :, ::2, ::2].square().sum(), "what is added is zero"


@pytest.mark.parametrize("model", [resnet20(), resnet18(classes=7, stem="small"), digits_cnn()])
def test_networks_can_be_traced(model: nn.Module) -> None:
    channels, side = (1, 8) if model.conv1.in_channels == 1 else (3, 32)
    x = torch.randn(2, channels, side, side)
    assert torch.equal(fx.symbolic_trace(model.eval())(x), model(x))


def test_the_small_stem_keeps_resolution() -> None:
    small, large = ResNet18(10, stem="small").eval(), ResNet18(10).eval()
    x = torch.randn(1, 3, 32, 32)
    assert small.conv1(x).shape[-1] == 32
    assert large.maxpool(large.conv1(x)).shape[-1] == 8
    assert small(x).shape == large(x).shape == (1, 10)
    assert large.layer2[0].downsample[0].kernel_size == (1, 1)
    with pytest.raises(InputError, match="imagenet or small"):
        ResNet18(stem="tiny")


def test_options_change_ends() -> None:
    assert resnet20(classes=100, channels=1)(torch.zeros(1, 1, 32, 32)).shape == (1, 100)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("name", "correct"), [("resnet20", 932), ("resnet56", 943)])
def test_stored_weights_score_what_was_measured(data_root: Path, name: str, correct: int) -> None:
    model = open_model(name, data_root / "models" / f"cifar10_{name}.safetensors")
    with torch.inference_mode():
        hits = [
            int((model(batch.inputs).argmax(-1) == batch.target).sum())
            for batch in ImageBatches(read_test(data_root / "cifar10"))
        ]
    assert sum(hits) == correct
