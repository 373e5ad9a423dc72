"""What is read off fields while they lie on the GPU: their statistics, and their levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import boolean, cuda, float32, float64, int8, int16, int32, uint8, uint16

from flowprep.flow.cuda.device import SIMULATED, kernel, product

THREADS = 4 if SIMULATED else 512
LARGEST = np.float32(np.finfo(np.float32).max)
INFINITY = np.float32(np.inf)
ZERO_64 = np.float64(0)
TO_WHOLE = np.float32(1.5 * 2**23)  # added to less than 2^22, it leaves no bit for what is behind the point


@kernel(threads=THREADS, exact=True)
def statistics(flow, out):
    """Mean (summed in float64), minimum and maximum of each plane of ``flow`` (P, 2, H * W): ``out`` (P, 2, 3).

    Not a number, all three, where a value is none or infinite. A block for each plane; always added in one order.
    """
    component, pair, thread = cuda.blockIdx.x, cuda.blockIdx.z, cuda.threadIdx.x
    sums = cuda.shared.array(THREADS, float64)
    lows = cuda.shared.array(THREADS, float32)
    highs = cuda.shared.array(THREADS, float32)
    bad = cuda.shared.array(THREADS, int32)
    total, low, high, wrong = ZERO_64, INFINITY, -INFINITY, 0
    for i in range(thread, flow.shape[2], THREADS):
        value = flow[pair, component, i]
        if not abs(value) <= LARGEST:
            wrong = 1
        total += float64(value)
        low, high = min(low, value), max(high, value)
    sums[thread], lows[thread], highs[thread], bad[thread] = total, low, high, wrong
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half:
            sums[thread] += sums[thread + half]
            lows[thread] = min(lows[thread], lows[thread + half])
            highs[thread] = max(highs[thread], highs[thread + half])
            bad[thread] |= bad[thread + half]
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        out[pair, component, 0] = float32(math.nan) if bad[0] else float32(sums[0] / flow.shape[2])
        out[pair, component, 1] = float32(math.nan) if bad[0] else lows[0]
        out[pair, component, 2] = float32(math.nan) if bad[0] else highs[0]


@kernel(exact=True)
def to_levels(flow, inverse, before, after, down, lowest, highest, levels):
    """``levels`` (P, 2, H, W) of ``flow`` (P, 2, H, W), as flow.batch.Coding says.

    Images are planes, two for each pair. Where it rounds down, ``after`` is 0 and ``lowest`` not negative, so that
    cutting off is rounding down.
    """
    x, y = cuda.grid(2)
    pair, component = cuda.blockIdx.z // 2, cuda.blockIdx.z % 2
    if x < flow.shape[3] and y < flow.shape[2]:
        zero = after[pair, component]
        level = product(flow[pair, component, y, x], inverse[pair, component]) + before
        level = min(max(level, lowest - zero), highest - zero)  # whole numbers: the same before rounding as after it
        if not down:
            level = (level + TO_WHOLE) - TO_WHOLE
        levels[pair, component, y, x] = int32(level) + int32(zero)


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernels of this module are launched with."""
    flow, numbers = float32[:, :, :, ::1], float32[:, ::1]
    types = (flow, numbers, float32, numbers, boolean, float32, float32)
    return {
        statistics: [(float32[:, :, ::1], float32[:, :, ::1])],
        to_levels: [(*types, levels[:, :, :, ::1]) for levels in (uint8, uint16, int8, int16)],
    }
