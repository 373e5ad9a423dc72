"""Inputs about zero with a spread of one, as networks that were trained on ImageNet expect RGB."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import UsageError


@dataclass(frozen=True)
class Normalisation:
    """Inputs become (x - mean) / std; x is in px (flow) or in levels of [0, 255] (RGB).

    mean, std: one number for all channels, or one for each of u and v, or of R, G and B. Empty: 0, or 1.

    Mirroring, as training and ten_crops do it, takes a mean of u to its negative: for flow leave that mean at 0.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, values, valid in (("mean", self.mean, math.isfinite), ("std", self.std, _positive)):
            if not isinstance(values, tuple) or not all(valid(value) for value in values):
                raise UsageError(f"{name} {values}: give a tuple of {'positive ' * (name == 'std')}numbers.")

    def check(self, channels: str) -> None:
        """Raises UsageError where the numbers do not fit inputs of ``channels``, "uv" or "RGB"."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, len(channels)):
                raise UsageError(f"{name} {values}: give one number, or one for each of {', '.join(channels)}.")

    def fold(self, scale: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        """Let ``scale`` and ``mean`` (B, C), in place, normalise what (levels - zero) * scale - mean was before."""
        channels = scale.shape[1]
        std = np.resize(self.std or (1.0,), channels)
        scale /= std
        mean += np.resize(self.mean or (0.0,), channels)
        mean /= std


def _positive(value: float) -> bool:
    return 0 < value < math.inf


IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # RGB of its training images
