"""VGG-16."""

from __future__ import annotations

import torch
from torch import nn

from flowprep.train.nets.network import Trunk, check_crop, scaled

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions, up to each pooling
SMALLEST = 2 ** len(STAGES)  # px, the crop of which the last pooling leaves one place
POOLED = 7  # side of what the first fully connected layer takes


class VGG16(Trunk):
    """Configuration D of Simonyan and Zisserman 2015 (table 1), its layers named as in torchvision's ``vgg16``.

    Of crops other than 224 px the last map is averaged over 7x7 areas, as there, so that weights fit crops of any size.
    """

    last_layer = "classifier.6"

    def __init__(self, channels: int, crop: int, width: float, dropout: float) -> None:
        check_crop("vgg16", crop, SMALLEST)
        units = scaled(4096, width)
        super().__init__(units)
        layers: list[nn.Module] = []
        for base, convolutions in STAGES:
            filters = scaled(base, width)
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=True)]
                channels = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED)
        self.classifier = nn.Sequential(
            nn.Linear(channels * POOLED**2, units),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(units, units),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Shapes are those of width 1 and crops of 224 px.
        x = self.avgpool(self.features(x))  # (B, 512, 7, 7)
        features: torch.Tensor = self.classifier(x.flatten(1))  # (B, 4096)
        return features
