"""A batch as it leaves the loader: small integers, and what turns them into pixels.

Converting on the processor would cost more than decoding, and four times the memory traffic to the device. So flips,
the factors of resized crops, mean flow, jitter and normalisation are folded into three numbers for each channel, and
one formula

    v = (levels - zero) * scale - mean

finishes a batch wherever it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Batch:
    """B inputs of C channels: 2L of flow (u1, v1, u2, ...) or 3 of RGB."""

    levels: NDArray[Any]  # (B, C, h, w) uint8, uint16, int8 or int16, as stored; RGB: uint8
    scale: NDArray[np.float32]  # (B, C) px per level; RGB: 1, or the jitter's factor
    zero: NDArray[np.float32]  # (B, C) level of 0 px
    mean: NDArray[np.float32]  # (B, C) px, to be subtracted
    labels: NDArray[np.int64]  # (B,) number of the class
    videos: NDArray[np.int64]  # (B,) number of the video among the sampler's clips
    frames: NDArray[np.int64]  # (B,) frame that the stack is of
    position: tuple[int, int] = (0, 0)  # epoch, and number of the batch in it
    damaged: tuple[str, ...] = ()  # ids of videos whose samples were damaged, and replaced

    @classmethod
    def around(cls, levels: NDArray[Any]) -> Batch:
        """A batch to be filled, with ``levels`` (B, C, h, w)."""
        size, channels = levels.shape[:2]
        scale, zero, mean = np.empty((3, size, channels), np.float32)
        labels, videos, frames = np.empty((3, size), np.int64)
        return cls(levels, scale, zero, mean, labels, videos, frames)

    def __len__(self) -> int:
        return len(self.levels)

    def numpy(self) -> NDArray[np.float32]:
        """The batch in px (flow) or in levels of 0 to 255 (RGB, which jitter may lead out of that range); normalised,
        if the loader normalises. (B, C, h, w) float32.
        """
        values = self.levels.astype(np.float32)
        values -= self.zero[:, :, None, None]
        values *= self.scale[:, :, None, None]
        values -= self.mean[:, :, None, None]
        return values
