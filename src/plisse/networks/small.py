"""A network small enough to train while one waits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plisse.networks.resnet import initialize


class DigitsCNN(nn.Module):
    """Two convolutions and two linear layers for 8 x 8 images; [N, channels, 8, 8] to logits [N, classes]."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(64 * 2 * 2, 128)
        self.fc2 = nn.Linear(128, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.bn1(self.conv1(x))))  # [N, 32, 4, 4]
        x = self.pool(self.relu(self.bn2(self.conv2(x))))  # [N, 64, 2, 2]
        return self.fc2(self.relu(self.fc1(torch.flatten(x, 1))))


def digits_cnn(classes: int = 10, channels: int = 1) -> nn.Module:
    """A network of 53,098 parameters for the digits task.

    >>> digits_cnn()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return DigitsCNN(classes, channels)
