"""Networks for tests: all layers, few channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from flowprep.config import NetConfig
from flowprep.train.nets import Network, build

CROP = 32
FAMILIES = ["cnn-m-2048", "vgg16", "resnet18"]


def tiny(name: str = "cnn-m-2048", channels: int = 4, classes: tuple[int, ...] = (5,), **config: Any) -> Network:
    torch.manual_seed(1)
    return build(NetConfig(name, **{"width": 0.05, "init": "he", **config}), channels, classes, CROP)


def inputs(channels: int = 4, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, CROP, CROP, generator=torch.Generator().manual_seed(2))


def layers(network: Network) -> Iterator[nn.Conv2d | nn.Linear]:
    """What has weights of its own."""
    return (layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
