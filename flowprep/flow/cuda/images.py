"""Planes of frames and of flow: other sizes, derivatives, the range of grey levels.

Whatever is linear and separable is one kernel with two tables of taps (flow/taps.py): a change of size, smoothing, the
conversion of frames to float32 (:func:`same`), and derivatives, whose rules at borders only move weight to pixels that
exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int32, uint8

from flowprep.flow.cuda.device import SIMULATED, inline, kernel, pixels
from flowprep.flow.cuda.launch import Launch
from flowprep.flow.taps import (
    CENTRAL,
    FOURTH_ORDER,
    SECOND,
    Taps,
    border_mirrored_as_ncv,
    border_repeated,
    composed,
    derivative,
    same,
)

SEARCHERS = 8 if SIMULATED else 512  # threads that look for the extremes of a frame

ZERO, ONE = np.float32(0), np.float32(1)
RANGE = np.float32(255)  # grey levels
FLAT = np.float32(1e-9)  # grey levels: a range that is not stretched


@kernel
def resample(source, row_start, row_weights, start, weights, target):
    """Planes ``target`` (N, H, W) from planes ``source`` (N, h, w), by one table for the rows and one along them."""
    x, y = cuda.grid(2)
    n = cuda.blockIdx.z
    if x < target.shape[2] and y < target.shape[1]:
        top, left = row_start[y], start[x]
        value = ZERO
        for i in range(row_weights.shape[1]):
            line = ZERO
            for j in range(weights.shape[1]):
                line += weights[x, j] * np.float32(source[n, top + i, left + j])
            value += row_weights[y, i] * line
        target[n, y, x] = value


@kernel
def rest(flow):
    """No motion: ``flow`` (P, 2, H, W)."""
    x, y = cuda.grid(2)
    if x < flow.shape[3] and y < flow.shape[2]:
        flow[cuda.blockIdx.z, 0, y, x] = ZERO
        flow[cuda.blockIdx.z, 1, y, x] = ZERO


@kernel(threads=SEARCHERS)
def low_and_high(frames, low, high):
    """The least and the greatest grey level of each frame (a block): frames (F, H, W), low and high (F,)."""
    n, thread = cuda.blockIdx.z, cuda.threadIdx.x
    frame, length = frames[n].flat, frames.shape[1] * frames.shape[2]
    lows = cuda.shared.array(SEARCHERS, float32)
    highs = cuda.shared.array(SEARCHERS, float32)
    least = greatest = np.float32(frame[min(thread, length - 1)])
    for i in range(thread, length, SEARCHERS):
        level = np.float32(frame[i])
        least, greatest = min(least, level), max(greatest, level)
    lows[thread], highs[thread] = least, greatest
    cuda.syncthreads()
    half = SEARCHERS // 2
    while half > 0:
        if thread < half:
            lows[thread] = min(lows[thread], lows[thread + half])
            highs[thread] = max(highs[thread], highs[thread + half])
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        low[n], high[n] = lows[0], highs[0]


@inline
def stretch(low, high, first, second):
    """The factor that stretches the grey levels of two frames together to a range of 255; 1 if they are constant."""
    span = max(high[first], high[second]) - min(low[first], low[second])
    return RANGE / span if span > FLAT else ONE


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernels of this module are launched with."""
    frames, levels = uint8[:, :, ::1], float32[:, :, ::1]
    tables = (int32[::1], float32[:, ::1]) * 2
    ranges = (float32[::1], float32[::1])
    return {
        resample: [(frames, *tables, levels), (levels, *tables, levels)],
        rest: [(float32[:, :, :, ::1],)],
        low_and_high: [(frames, *ranges), (levels, *ranges)],
    }


# Tables

TapsFor = Callable[[int], Taps]  # for n samples
Slopes = Sequence[tuple[TapsFor, TapsFor]]  # how planes of derivatives are made: of rows, and along rows


class Table(NamedTuple):
    """How planes are made of planes: the arguments of :func:`resample` between its planes."""

    row_start: Any  # (H,) int32
    row_weights: Any  # (H, taps) float32
    start: Any  # (W,) int32
    weights: Any  # (W, taps) float32


def table_of(rows: Taps, columns: Taps, factor: float = 1.0) -> Table:
    """``rows``: how rows are made of rows; ``columns``: how each is made along itself; ``factor``: on the values."""
    return Table(
        np.ascontiguousarray(rows.start, np.int32),
        np.ascontiguousarray(rows.weights * factor, np.float32),
        np.ascontiguousarray(columns.start, np.int32),
        np.ascontiguousarray(columns.weights, np.float32),
    )


def resampling(source: Any, table: Table, target: Any, stream: Any, planes: int = 1) -> Launch:
    """:func:`resample` for ``target`` (N, H, W), ``planes`` of which are one image; all on the device."""
    _, height, width = target.shape
    return Launch(resample, *pixels(height, width, planes), stream, source, *table, target)


def _twice(once: TapsFor, n: int) -> Taps:
    return composed(once(n), once(n), n)


_central = partial(derivative, stencil=CENTRAL, border=border_repeated)
_second = partial(derivative, stencil=SECOND, border=border_repeated)
_ncv = partial(derivative, stencil=FOURTH_ORDER, border=border_mirrored_as_ncv)
_ncv_twice = partial(_twice, _ncv)

GRADIENT: Slopes = ((same, _central), (_central, same))  # Ix, Iy
# Ix, Iy, Ixx, Ixy, Iyy
IPOL_SLOPES: Slopes = (*GRADIENT, (same, _second), (_central, _central), (_second, same))
NCV_SLOPES: Slopes = ((same, _ncv), (_ncv, same), (same, _ncv_twice), (_ncv, _ncv), (_ncv_twice, same))
