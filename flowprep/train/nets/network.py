"""What all networks have in common: a trunk and its heads, their width, and the weights at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import nn

from flowprep.errors import UsageError

RGB = 3  # channels of inputs in colour
GAUSSIAN_STD = 0.01


class Trunk(nn.Module):
    """All layers but the last: inputs (B, C, crop, crop) to features (B, outputs), float32."""

    last_layer: ClassVar[str]  # name that published weights have for the layer that heads replace

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs


class Network(nn.Module):
    """A trunk, and for each task a linear head on the same features (two-stream paper, section 4).

    Called with inputs (B, C, crop, crop) float32 it returns a list of logits, (B, classes[i]) float32 of head i.
    """

    def __init__(self, trunk: Trunk, classes: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(_head(trunk.outputs, count) for count in classes)
        self.frozen = False  # whether the heads alone learn

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = self.features(x)
        return [head(features) for head in self.heads]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the heads see, (B, F): in training after dropout."""
        features: torch.Tensor = self.trunk(x)
        return features

    @property
    def first_layer(self) -> nn.Conv2d:
        """The convolution that reads the inputs; its weights are (filters, C, height, width)."""
        return next(layer for layer in self.trunk.modules() if isinstance(layer, nn.Conv2d))

    def last_layer_only(self) -> None:
        """From now on the heads alone learn. Dropout goes on in training; statistics of batch normalisation stay."""
        self.trunk.requires_grad_(False)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            for layer in self.trunk.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        return self


def initialise(module: nn.Module, init: str) -> None:
    """Draw all weights of convolutions and linear layers anew; their biases become 0.

    init: "gaussian", N(0, 0.01), as networks of the two-stream paper's time were begun: for CNN-M-2048 in its full
        width. "he", of variance 2 / inputs of a unit, keeps the spread of activations through any number of layers with
        ReLU, narrow or wide (He et al. 2015, eq. 10): for all others that begin without a file of weights.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if init == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.normal_(layer.weight, std=GAUSSIAN_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _head(inputs: int, classes: int) -> nn.Linear:
    head = nn.Linear(inputs, classes)
    initialise(head, "gaussian")
    return head


def scaled(channels: int, width: float) -> int:
    """``channels`` of a hidden layer times ``width``: a multiple of 4, at least 4."""
    return max(4, 4 * round(channels * width / 4))


def check_crop(net: str, crop: int, smallest: int) -> None:
    """Raises UsageError where inputs of ``crop`` px leave nothing for the last layers of ``net``."""
    if crop < smallest:
        raise UsageError(f"data.crop {crop}: {net} takes inputs of {smallest} px and more.")
