"""CNN-M-2048, the network of both streams in the two-stream paper."""

from __future__ import annotations

from functools import reduce

import torch
from torch import nn
from torch.nn import functional

from flowprep.train.nets.network import RGB, Trunk, check_crop, scaled

SMALLEST = 17  # px, the crop of which conv2 has one place


class CNNM2048(Trunk):
    """CNN-M-2048 of Chatfield et al. 2014 (table 1), as in figure 1 of Simonyan and Zisserman 2014.

    Inputs of flow, that is of other than 3 channels, go without the second normalisation (section 5 there). The layers
    are named as in the published Caffe model, whose filters read B, G, R: reverse those of conv1 for RGB.
    """

    last_layer = "fc8"

    def __init__(self, channels: int, crop: int, width: float, dropout: float) -> None:
        check_crop("cnn-m-2048", crop, SMALLEST)
        filters1, filters2, filters = (scaled(count, width) for count in (96, 256, 512))
        units6, units7 = scaled(4096, width), scaled(2048, width)
        super().__init__(units7)
        side1 = (crop - 7) // 2 + 1
        side2 = (_pooled(side1) - 3) // 2 + 1
        side5 = _pooled(side2)
        self.conv1 = nn.Conv2d(channels, filters1, 7, stride=2)
        self.norm1 = LocalResponseNorm()
        self.pool1 = _pool(side1)
        self.conv2 = nn.Conv2d(filters1, filters2, 5, stride=2, padding=1)
        self.norm2 = LocalResponseNorm() if channels == RGB else nn.Identity()
        self.pool2 = _pool(side2)
        self.conv3 = nn.Conv2d(filters2, filters, 3, padding=1)
        self.conv4 = nn.Conv2d(filters, filters, 3, padding=1)
        self.conv5 = nn.Conv2d(filters, filters, 3, padding=1)
        self.pool5 = _pool(side5)
        self.fc6 = nn.Linear(filters * _pooled(side5) ** 2, units6)
        self.fc7 = nn.Linear(units6, units7)
        self.relu = nn.ReLU(inplace=True)
        self.dropout6 = nn.Dropout(dropout)
        self.dropout7 = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Shapes are those of width 1 and crops of 224 px.
        x = self.pool1(self.norm1(self.relu(self.conv1(x))))  # (B, 96, 54, 54)
        x = self.pool2(self.norm2(self.relu(self.conv2(x))))  # (B, 256, 13, 13)
        x = self.relu(self.conv3(x))  # (B, 512, 13, 13)
        x = self.relu(self.conv4(x))
        x = self.pool5(self.relu(self.conv5(x)))  # (B, 512, 6, 6)
        x = x.flatten(1)  # (B, 18432)
        x = self.dropout6(self.relu(self.fc6(x)))  # (B, 4096)
        features: torch.Tensor = self.dropout7(self.relu(self.fc7(x)))  # (B, 2048)
        return features


class LocalResponseNorm(nn.Module):
    """b_i = a_i / (k + alpha * sum_j a_j^2)^beta over the n channels j about i (Krizhevsky et al. 2012, section 3.3).

    n = 5, k = 2, alpha = 1e-4 for each square, beta = 0.75: their numbers, and those of the published weights. PyTorch
    has a layer of that name, which divides its alpha by n and takes several times as long.
    """

    n, k, alpha = 5, 2.0, 1e-4

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        channels = a.shape[1]
        squares = functional.pad(a * a, (0, 0, 0, 0, self.n // 2, self.n // 2))
        energy = reduce(torch.add, (squares[:, first : first + channels] for first in range(self.n)))
        base = self.k + self.alpha * energy
        return a * torch.rsqrt(base * base.sqrt())  # base ** -0.75 in much less time


def _pool(side: int) -> nn.MaxPool2d:
    """3x3 with stride 2, where a window may hang over the border, as Caffe has it; on a smaller map, all of that."""
    return nn.MaxPool2d(min(3, side), stride=2, ceil_mode=True)


def _pooled(side: int) -> int:
    """Side of what ``_pool(side)`` makes of a map."""
    return max(side // 2, 1)
