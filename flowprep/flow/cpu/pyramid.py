"""What TV-L1 and Brox flow share: levels of a pyramid, frames prepared at each, flow carried from level to level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flowprep.flow.cpu.images import image_length
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.resampling import Resampling
from flowprep.flow.cpu.stripes import aligned, blocks, existing_pixels, from_stripes, pitch, to_stripes
from flowprep.flow.taps import Taps, gaussian

Sampling = Callable[[int, int], Taps]  # from n_in to n_out samples


FLAT = 1e-9  # grey levels: a range that is not stretched


class Frame:
    """A frame at every level: where pairs start from (planes in stripes) and what they look into (sampled images)."""

    def __init__(self, pyramid: Pyramid, planes: int, channels: int) -> None:
        levels = pyramid.levels
        self.sources = [aligned(level.height * level.n * planes * LANES) for level in levels]
        self.images = [aligned(image_length(level.height, level.width, channels)) for level in levels]
        self.low = self.high = 0.0  # grey levels


def stretch(first: Frame, second: Frame) -> float:
    """The factor that stretches the grey levels of both frames together to a range of 255; 1 if they are constant."""
    span = max(first.high, second.high) - min(first.low, second.low)
    return 255 / span if span > FLAT else 1.0


class Level:
    """The geometry of one pyramid level."""

    def __init__(self, height: int, width: int, *, even: bool) -> None:
        self.height, self.width = height, width
        self.pixels = height * width
        self.pitch = pitch(width)
        self.n = blocks(width, even=even)
        self.exists = existing_pixels(width, self.n)
        self.has_right = existing_pixels(width - 1, self.n)
        self.has_left = self.exists.copy()
        self.has_left[0] = 0


class Pyramid:
    """The levels for frames of one size, finest first, and the ways between them. Planes lie in workspace of its own.

    Single-threaded: one object a thread.
    """

    def __init__(
        self,
        sizes: list[tuple[int, int]],
        down: Sampling,
        up: Sampling,
        growth: float,
        presmoothing: float,
        *,
        even: bool,
    ) -> None:
        self.levels = [Level(*size, even=even) for size in sizes]
        self._down, self._up = [], []
        for fine, coarse in pairwise(self.levels):
            rows, columns = down(fine.height, coarse.height), down(fine.width, coarse.width)
            self._down.append(Resampling(fine.width, coarse.height, coarse.width, rows, columns))
            rows, columns = up(coarse.height, fine.height), up(coarse.width, fine.width)
            self._up.append(Resampling(coarse.width, fine.height, fine.width, rows, columns, growth))
        top = self.levels[0]
        self._smoothing = None
        if presmoothing > 0:
            rows, columns = gaussian(top.height, presmoothing), gaussian(top.width, presmoothing)
            self._smoothing = Resampling(top.width, top.height, top.width, rows, columns)
        self._planes = [aligned(top.height * top.pitch) for _ in range(2)]

    def planes(
        self, frame: NDArray[np.uint8] | NDArray[np.float32], use: Callable[[int, NDArray[np.float32]], None]
    ) -> None:
        """Call ``use(k, plane)`` for each level k of a frame (H, W); the plane is valid until ``use`` returns."""
        plane, other = self._planes
        top = self.levels[0]
        plane.reshape(top.height, top.pitch)[:, : top.width] = frame
        if self._smoothing:
            self._smoothing(plane, other)
            plane, other = other, plane
        for k in range(len(self.levels)):
            if k > 0:
                self._down[k - 1](plane, other)
                plane, other = other, plane
            use(k, plane)

    def carry(
        self,
        k: int,
        source: NDArray[np.float32],
        source_row: int,
        target: NDArray[np.float32],
        target_row: int,
        block: int,
    ) -> None:
        """One plane of flow from level k + 1 to level k, both in stripes of the given block and row lengths."""
        coarse, fine = self.levels[k + 1], self.levels[k]
        plane, other = self._planes
        from_stripes(source, plane, coarse.height, coarse.width, coarse.pitch, coarse.n, block, source_row)
        self._up[k](plane, other)
        to_stripes(other, target, fine.height, fine.width, fine.pitch, fine.n, block, target_row)

    def finish(
        self, source: NDArray[np.float32], row: int, block: int, scale: float, target: NDArray[np.float32]
    ) -> None:
        """One plane of flow at the finest level, times ``scale``, as ``target`` (H, W)."""
        top = self.levels[0]
        plane = self._planes[0]
        from_stripes(source, plane, top.height, top.width, top.pitch, top.n, block, row)
        np.multiply(plane.reshape(top.height, top.pitch)[:, : top.width], np.float32(scale), out=target)
