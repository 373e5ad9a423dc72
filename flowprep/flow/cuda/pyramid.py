"""What TV-L1 and Brox flow share: frames and their derivatives at every level, flow carried from level to level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import DTypeLike

from flowprep.flow.cuda.images import SEARCHERS, Slopes, Tables, low_and_high, resampling, tables
from flowprep.flow.cuda.launch import Launch
from flowprep.flow.cuda.memory import ALIGNED, Arena, padded
from flowprep.flow.taps import Taps, gaussian, same

Sampling = Callable[[int, int], Taps]  # from n_in to n_out samples
Allocator = Callable[[tuple[int, ...], DTypeLike], Any]  # makes a C-contiguous device array


class Pyramid:
    """The levels for batches of frames of one size, finest first, and the ways between them.

    Of at most F frames there are, on the device, float32, once :meth:`place` has been called

        grey[k]     (F, H, W)     grey levels at level k
        slopes[k]   (C, F, H, W)  their derivatives
        low, high   (F,)          range of the grey levels of the frames themselves

    What is enqueued is on the stream that :meth:`place` was given. No method waits for the device.
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
        fixed = self._bytes_of_tables() + ALIGNED * (2 * len(self.sizes) + 2)
        return fixed, 4 * (sum(planes * height * width for height, width in self.sizes) + 2)

    def _bytes_of_tables(self) -> int:
        every = [self._top, *self._down, *self._up, *(table for level in self._slopes for table in level)]
        return sum(padded(array.nbytes) for table in every for array in table)

    def place(self, frames: Any, stream: Any, array: Allocator = cuda.device_array) -> None:
        """Take device memory, by calling ``array(shape, dtype)``, for all that ``frames`` has room for: (F, H, W) uint8
        or float32 on the device. Tables get memory of their own, which stays as it is. Once only."""
        memory = Arena()
        memory.clear(self._bytes_of_tables())

        def upload(table: Tables) -> Tables:
            copies = Tables(*(memory.array(part.shape, part.dtype) for part in table))
            for copy, part in zip(copies, table, strict=True):
                copy.copy_to_device(part, stream=stream)
            return copies

        self._sent = self._top, self._down, self._up, self._slopes  # stays while it is copied from
        self._top = upload(self._top)
        self._down, self._up = ([upload(table) for table in ways] for ways in (self._down, self._up))
        self._slopes = [[upload(table) for table in level] for level in self._slopes]
        count, planes = len(frames), len(self._slopes[0])
        self.grey = [array((count, *size), np.float32) for size in self.sizes]
        self.slopes = [array((planes, count, *size), np.float32) for size in self.sizes]
        self.low, self.high = (array((count,), np.float32) for _ in range(2))
        self._building = [Launch(low_and_high, (1, 1, 1), (SEARCHERS, 1), stream, frames, self.low, self.high)]
        for k, (grey, slopes) in enumerate(zip(self.grey, self.slopes, strict=True)):
            source, table = (self.grey[k - 1], self._down[k - 1]) if k else (frames, self._top)
            self._building.append(resampling(source, table, grey, stream))
            for c, way in enumerate(self._slopes[k]):
                self._building.append(resampling(grey, way, slopes[c], stream))

    def build(self, count: int) -> None:
        """Enqueue: all levels of the first ``count`` frames."""
        for launch in self._building:
            launch(count)

    def carrying(self, k: int, coarse: Any, fine: Any, stream: Any) -> Launch:
        """Flow of pairs from level k + 1, ``coarse`` (2 P, h, w), to level k, ``fine`` (2 P, H, W)."""
        return resampling(coarse, self._up[k], fine, stream, planes=2)
