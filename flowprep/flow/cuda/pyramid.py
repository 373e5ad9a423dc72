"""What TV-L1 and Brox flow share: frames and their derivatives at every level, flow carried from level to level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import DTypeLike

from flowprep.flow.cuda.images import SEARCHERS, Slopes, Table, low_and_high, resampling, table_of
from flowprep.flow.cuda.launch import Launch
from flowprep.flow.cuda.memory import Arena, padded
from flowprep.flow.taps import Taps, gaussian, same

Sampling = Callable[[int, int], Taps]  # from n_in to n_out samples
Allocator = Callable[[tuple[int, ...], DTypeLike], Any]  # makes a C-contiguous device array


class PyramidTables:
    """How the levels for frames of one size are made, finest first, and the ways between them: tables on the host."""

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
        if presmoothing > 0:  # along columns, then along rows: together they would be a square of taps
            down_columns = table_of(gaussian(height, presmoothing), same(width))
            self.top = [down_columns, table_of(same(height), gaussian(width, presmoothing))]
        else:
            self.top = [table_of(same(height), same(width))]
        self.down, self.up = [], []
        for fine, coarse in pairwise(sizes):
            self.down.append(table_of(down(fine[0], coarse[0]), down(fine[1], coarse[1])))
            self.up.append(table_of(up(coarse[0], fine[0]), up(coarse[1], fine[1]), growth))
        self.slopes = [[table_of(rows(h), columns(w)) for rows, columns in slopes] for h, w in sizes]

    def bytes_needed(self) -> tuple[int, int]:
        """Bytes of device memory for the tables, and for each frame."""
        every = [*self.top, *self.down, *self.up, *(table for level in self.slopes for table in level)]
        planes = 1 + len(self.slopes[0])
        frame = 4 * (sum(planes * height * width for height, width in self.sizes) + 2)
        return sum(padded(array.nbytes) for table in every for array in table), frame


class Pyramid:
    """The levels of a batch of frames. Of at most F frames there are, on the device, float32

    grey[k]     (F, H, W)     grey levels at level k
    slopes[k]   (C, F, H, W)  their derivatives
    low, high   (F,)          range of the grey levels of the frames themselves
    """

    def __init__(self, made: PyramidTables, frames: Any, stream: Any, array: Allocator = cuda.device_array) -> None:
        """``frames`` (F, H, W) uint8 or float32 on the device. Memory for levels comes from ``array(shape, dtype)``;
        tables get memory of their own, which stays as it is. All is enqueued on ``stream``."""
        self._stream = stream
        memory = Arena()
        memory.clear(made.bytes_needed()[0])
        self._sent = np.zeros(memory.size, np.uint8)  # stays while it is copied from

        def placed(table: Table) -> Table:
            return Table(*(place(part) for part in table))

        def place(part: Any) -> Any:
            self._sent[memory.used : memory.used + part.nbytes] = part.ravel().view(np.uint8)
            return memory.array(part.shape, part.dtype)

        self._up = [placed(table) for table in made.up]
        count, planes = len(frames), len(made.slopes[0])
        self.grey = [array((count, *size), np.float32) for size in made.sizes]
        self.slopes = [array((planes, count, *size), np.float32) for size in made.sizes]
        self.low, self.high = (array((count,), np.float32) for _ in range(2))
        self._building = [Launch(low_and_high, (1, 1, 1), (SEARCHERS, 1), stream, frames, self.low, self.high)]
        for k, (grey, slopes) in enumerate(zip(self.grey, self.slopes, strict=True)):
            source, ways = (self.grey[k - 1], [made.down[k - 1]]) if k else (frames, made.top)
            for way in ways[:-1]:
                self._building.append(resampling(source, placed(way), slopes[0], stream))
                source = slopes[0]
            self._building.append(resampling(source, placed(ways[-1]), grey, stream))
            for way, slope in zip(made.slopes[k], slopes, strict=True):
                self._building.append(resampling(grey, placed(way), slope, stream))
        memory.fill(self._sent, stream)

    def build(self, count: int) -> None:
        """Enqueue: all levels of the first ``count`` frames."""
        for launch in self._building:
            launch(count)

    def carrying(self, k: int, coarse: Any, fine: Any) -> Launch:
        """Flow of pairs from level k + 1, ``coarse`` (2 P, h, w), to level k, ``fine`` (2 P, H, W)."""
        return resampling(coarse, self._up[k], fine, self._stream, planes=2)
