"""Applying tables of taps (flow/taps.py) to planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowprep.flow.cpu.compiling import kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.rearranging import transpose
from flowprep.flow.cpu.simd import load, splat, store
from flowprep.flow.cpu.stripes import aligned, pitch
from flowprep.flow.taps import Taps


class Resampling:
    """From planes of one size to planes of another."""

    def __init__(self, width_in: int, height: int, width: int, rows: Taps, columns: Taps, scale: float = 1.0) -> None:
        """``rows``: how rows are made of rows; ``columns``: how each is made along itself; ``scale``: of the values."""
        self._size = (pitch(width_in), pitch(width), height, width)
        self._rows = (rows.start, (rows.weights * scale).astype(np.float32))
        self._columns = (columns.start, columns.weights.astype(np.float32))
        self._scratch = [aligned(LANES * pitch(side)) for side in (width_in, width_in, width)]

    def __call__(self, plane: NDArray[np.float32], target: NDArray[np.float32]) -> None:
        """Fill ``target`` from ``plane``, both one-dimensional and aligned; ``target`` has room for LANES rows at
        least."""
        resample(plane, target, *self._size, *self._rows, *self._columns, *self._scratch)


@kernel
def resample(
    plane, target, pitch_in, pitch_out, height, width, row_start, row_weights, start, weights, rows, turned, result
):
    """LANES rows at a time: made of whole rows first, then turned, so that steps along a row take whole vectors too."""
    row_taps, taps = row_weights.shape[1], weights.shape[1]
    for group in range(0, height, LANES):
        top = max(0, min(group, height - LANES))
        for i in range(LANES):
            y = min(top + i, height - 1)
            source = row_start[y] * pitch_in
            for x in range(0, pitch_in, LANES):
                value = splat(row_weights[y, 0]) * load(plane, source + x)
                for t in range(1, row_taps):
                    value = value + splat(row_weights[y, t]) * load(plane, source + t * pitch_in + x)
                store(rows, i * pitch_in + x, value)
        for x in range(0, pitch_in, LANES):
            transpose(rows, x, pitch_in, turned, x * LANES, LANES)
        for x in range(width):
            source = start[x] * LANES
            value = splat(weights[x, 0]) * load(turned, source)
            for t in range(1, taps):
                value = value + splat(weights[x, t]) * load(turned, source + t * LANES)
            store(result, x * LANES, value)
        for x in range(0, width, LANES):
            transpose(result, x * LANES, LANES, target, top * pitch_out + x, pitch_out)
