"""Residual networks (He, Zhang, Ren and Sun 2016): the small CIFAR form and ResNet-18."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plisse.errors import InputError


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class PadShortcut(nn.Module):
    """A shortcut without weights ("option A"): every `stride`-th row and column, and zero channels added,
    half of them before and half after. [N, C, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(shortcut + self.bn2(self.conv2(out)))


def padded_block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    """A block whose shortcut has no weights."""
    same = inputs == outputs and stride == 1
    return BasicBlock(inputs, outputs, stride, None if same else PadShortcut(inputs, outputs, stride))


def projected_block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    """A block whose shortcut is a 1x1 convolution where the width changes ("option B")."""
    if inputs == outputs and stride == 1:
        return BasicBlock(inputs, outputs, stride, None)
    convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return BasicBlock(inputs, outputs, stride, nn.Sequential(convolution, nn.BatchNorm2d(outputs)))


class CifarResNet(nn.Module):
    """6 n + 2 layers for images of about 32 x 32 pixels: n blocks each of 16, 32 and 64 channels.

    [N, channels, H, W] to logits [N, classes].
    """

    def __init__(self, blocks: int, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        initialize(self)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [padded_block(outputs, outputs, 1) for _ in range(blocks - 1)]
        return nn.Sequential(padded_block(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # [N, 16, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # [N, 64, H / 4, W / 4]
        return self.linear(torch.flatten(self.pool(x), 1))


class ResNet18(nn.Module):
    """Four stages of two blocks with 64, 128, 256 and 512 channels; 11.7 M parameters with 1,000 classes.

    stem: "imagenet" (7x7 convolution with stride 2 and max-pooling, for images of 224 x 224 pixels) or
    "small" (3x3 convolution, for 32 to 64 pixels). [N, channels, H, W] to logits [N, classes]. The tensors
    are named as in torchvision.
    """

    def __init__(self, classes: int = 1000, channels: int = 3, stem: str = "imagenet") -> None:
        super().__init__()
        if stem not in ("imagenet", "small"):
            raise InputError(f"stem {stem!r}", expected="imagenet or small")
        small = stem == "small"
        self.conv1 = conv3x3(channels, 64) if small else nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(projected_block(64, 64, 1), projected_block(64, 64, 1))
        self.layer2 = nn.Sequential(projected_block(64, 128, 2), projected_block(128, 128, 1))
        self.layer3 = nn.Sequential(projected_block(128, 256, 2), projected_block(256, 256, 1))
        self.layer4 = nn.Sequential(projected_block(256, 512, 2), projected_block(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # [N, 64, H / 4, W / 4], small: [N, 64, H, W]
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [N, 512, H / 32, W / 32], small: H / 8
        return self.fc(torch.flatten(self.avgpool(x), 1))


def initialize(model: nn.Module) -> None:
    """Convolutions from a normal distribution that keeps the energy of what flows back (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet20(classes: int = 10, channels: int = 3) -> nn.Module:
    """ResNet-20 for CIFAR: 0.27 M parameters, 41 M MACs at 32 x 32.

    >>> resnet20()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return CifarResNet(3, classes, channels)


def resnet56(classes: int = 10, channels: int = 3) -> nn.Module:
    """ResNet-56 for CIFAR: 0.85 M parameters, 126 M MACs at 32 x 32."""
    return CifarResNet(9, classes, channels)


def resnet18(classes: int = 1000, channels: int = 3, stem: str = "imagenet") -> nn.Module:
    """ResNet-18; see `ResNet18`."""
    return ResNet18(classes, channels, stem)
