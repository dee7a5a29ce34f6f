"""The network of the paper's structured setting: a pre-activation bottleneck ResNet-20 for CIFAR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """x or its projection, plus three convolutions, each behind a norm and a ReLU (He et al. 2016)."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inner
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(inner), nn.Conv2d(inner, outputs, 1, bias=False)
        changes = inputs != outputs or stride != 1
        self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.projection is None else self.projection(active)
        inner = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return shortcut + self.conv3(F.relu(self.bn3(inner)))


class PreResNet(nn.Module):
    """9 n + 2 layers with n blocks of 16, 32 and 64 inner channels. [N, 3, H, W] to logits [N, classes]."""

    def __init__(self, blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        layers, inputs = [], 16
        for inner, stride in ((16, 1), (32, 2), (64, 2)):
            for number in range(blocks):
                layers.append(Bottleneck(inputs, inner, 1 if number else stride))
                inputs = 4 * inner
        self.blocks = nn.Sequential(*layers)
        self.bn, self.linear = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.conv(x))))  # [N, 256, H / 4, W / 4]
        return self.linear(x.mean((2, 3)))


def preresnet20() -> nn.Module:
    """cPreResNet20: 0.22 M parameters, 33.7 M MACs at 32 x 32."""
    return PreResNet()
