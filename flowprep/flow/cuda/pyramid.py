"""What TV-L1 and Brox flow share: frames and their derivatives at every level, flow carried from level to level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import DTypeLike

from flowprep.flow.cuda.images import SEARCHERS, Slopes, Tables, low_and_high, resampled, tables
from flowprep.flow.taps import Taps, gaussian, same

Sampling = Callable[[int, int], Taps]  # from n_in to n_out samples
Allocator = Callable[[tuple[int, ...], DTypeLike], Any]  # makes a C-contiguous device array

PADDING = 256  # bytes that an array may take more than it holds


class Pyramid:
    """The levels for batches of frames of one size, finest first, and the ways between them.

    Of at most F frames there are, on the device, float32, once :meth:`place` has been called

        grey[k]     (F, H, W)     grey levels at level k
        slopes[k]   (F, C, H, W)  their derivatives
        low, high   (F,)          range of the grey levels of the frames themselves

    No method waits for the device, but that :meth:`place` uploads tables.
    """

    grey: list[Any]
    slopes: list[Any]
    low: Any
    high: Any

    def __init__(
        self,
        sizes: list[tuple[int, int]],
        down: Sampling,
        up: Sampling,
        growth: float,
        presmoothing: float,
        slopes: Slopes,
    ) -> None:
        self.sizes = sizes
        height, width = sizes[0]
        if presmoothing > 0:
            self._top = tables(gaussian(height, presmoothing), gaussian(width, presmoothing))
        else:
            self._top = tables(same(height), same(width))
        self._down, self._up = [], []
        for fine, coarse in pairwise(sizes):
            self._down.append(tables(down(fine[0], coarse[0]), down(fine[1], coarse[1])))
            self._up.append(tables(up(coarse[0], fine[0]), up(coarse[1], fine[1]), growth))
        self._slopes = [[tables(rows(h), columns(w)) for rows, columns in slopes] for h, w in sizes]

    def bytes_needed(self) -> tuple[int, int]:
        """Bytes of device memory whatever the number of frames, and for each frame."""
        planes = 1 + len(self._slopes[0])
        every = [self._top, *self._down, *self._up, *(table for level in self._slopes for table in level)]
        arrays = [array for table in every for array in table]
        fixed = sum(array.nbytes for array in arrays) + PADDING * (len(arrays) + 2 * len(self.sizes) + 2)
        return fixed, 4 * (sum(planes * height * width for height, width in self.sizes) + 2)

    def place(self, frames: int, stream: Any, array: Allocator = cuda.device_array) -> None:
        """Take device memory for at most ``frames`` frames, by calling ``array(shape, dtype)``. Once only."""

        def upload(table: Tables) -> Tables:
            copies = Tables(*(array(part.shape, part.dtype) for part in table))
            for copy, part in zip(copies, table, strict=True):
                copy.copy_to_device(part, stream=stream)
            return copies

        self._top = upload(self._top)
        self._down, self._up = ([upload(table) for table in ways] for ways in (self._down, self._up))
        self._slopes = [[upload(table) for table in level] for level in self._slopes]
        planes = len(self._slopes[0])
        self.grey = [array((frames, *size), np.float32) for size in self.sizes]
        self.slopes = [array((frames, planes, *size), np.float32) for size in self.sizes]
        self._slope = [[level[:, c] for c in range(planes)] for level in self.slopes]
        self.low, self.high = (array((frames,), np.float32) for _ in range(2))

    def build(self, frames: Any, count: int, stream: Any) -> None:
        """Fill all levels from the first ``count`` frames (F, H, W), uint8 or float32, on the device."""
        low_and_high[count, SEARCHERS, stream](frames, self.low, self.high)
        source, table = frames, self._top
        for k in range(len(self.sizes)):
            resampled(source, table, self.grey[k], count, stream)
            for way, slope in zip(self._slopes[k], self._slope[k], strict=True):
                resampled(self.grey[k], way, slope, count, stream)
            if k + 1 < len(self.sizes):
                source, table = self.grey[k], self._down[k]

    def carry(self, k: int, coarse: Any, fine: Any, count: int, stream: Any) -> None:
        """The first ``count`` planes of flow at level k + 1, ``coarse`` (N, h, w), to level k, ``fine`` (N, H, W)."""
        resampled(coarse, self._up[k], fine, count, stream)
