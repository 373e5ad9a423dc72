"""Residual networks of 18 to 152 layers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from flowprep.train.nets.network import Trunk, scaled

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # in each stage
CHANNELS = (64, 128, 256, 512)
BOTTLENECKS = 50  # layers from which on the blocks are bottlenecks


class ResNet(Trunk):
    """Table 1 of He et al. 2016, its layers named as in torchvision's ``resnet18`` to ``resnet152``.

    As there, the stride of a bottleneck is that of its 3x3 convolution ("version 1.5"); in the paper its first has it.
    Dropout, which the paper has none of, is that of the features.
    """

    last_layer = "fc"

    def __init__(self, layers: int, channels: int, width: float, dropout: float) -> None:
        block = Bottleneck if layers >= BOTTLENECKS else Basic
        filters = [scaled(base, width) for base in CHANNELS]
        outputs = [count * block.expansion for count in filters]
        blocks = BLOCKS[layers]
        super().__init__(outputs[3])
        self.conv1 = nn.Conv2d(channels, filters[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(filters[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, blocks[0], filters[0], filters[0], stride=1)
        self.layer2 = _stage(block, blocks[1], outputs[0], filters[1], stride=2)
        self.layer3 = _stage(block, blocks[2], outputs[1], filters[2], stride=2)
        self.layer4 = _stage(block, blocks[3], outputs[2], filters[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Shapes are those of width 1 and crops of 224 px; e is 1, or 4 with bottlenecks.
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, 56, 56)
        x = self.layer1(x)  # (B, 64e, 56, 56)
        x = self.layer2(x)  # (B, 128e, 28, 28)
        x = self.layer3(x)  # (B, 256e, 14, 14)
        x = self.layer4(x)  # (B, 512e, 7, 7)
        features: torch.Tensor = self.dropout(self.avgpool(x).flatten(1))  # (B, 512e)
        return features


class Block(nn.Module):
    """y = relu(F(x) + W x) (He et al. 2016, eq. 1 and 2); W is the identity wherever F keeps the shape of x."""

    expansion: ClassVar[int]  # channels of y, as a multiple of the block's filters

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        outputs = filters * self.expansion
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.residual(x) + self.downsample(x))
        return y

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """F(x)."""
        raise NotImplementedError


class Basic(Block):
    """F of two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__(inputs, filters, stride)
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y: torch.Tensor = self.bn2(self.conv2(x))
        return y


class Bottleneck(Block):
    """F of a 3x3 convolution between two of 1x1, the last of which makes four times as many channels."""

    expansion = 4

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__(inputs, filters, stride)
        outputs = filters * self.expansion
        self.conv1 = nn.Conv2d(inputs, filters, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv3 = nn.Conv2d(filters, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        y: torch.Tensor = self.bn3(self.conv3(x))
        return y


def _stage(block: type[Block], count: int, inputs: int, filters: int, stride: int) -> nn.Sequential:
    """``count`` blocks, the first of which has the stride."""
    first = block(inputs, filters, stride)
    return nn.Sequential(first, *(block(filters * block.expansion, filters, 1) for _ in range(count - 1)))
