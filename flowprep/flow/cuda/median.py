"""Median filters of 5 x 5 and 3 x 3 pixels on the flow of many pairs at once, the border pixel repeated outside.

A thread walks down one column. The rows of its window, 5 pixels wide, are sorted first, each once for all windows that
contain it; then networks of minima and maxima find the middle one of all: 59 minima and maxima a pixel for 5 x 5, as on
the CPU, and nothing leaves the registers. The result is one of the values itself, so it is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, float32, int32

from flowprep.flow.cuda.device import inline, kernel, pixels
from flowprep.flow.cuda.launch import Launch
from flowprep.flow.cuda.sampling import within

ROWS = 8  # that a thread filters
PLANES = 6  # of a pair's state
FLOW = 2  # of them that are filtered, the first; the others are copied


@inline
def sorted_3(a, b, c):
    a, b = min(a, b), max(a, b)
    b, c = min(b, c), max(b, c)
    a, b = min(a, b), max(a, b)
    return a, b, c


@inline
def sorted_5(a, b, c, d, e):
    a, b = min(a, b), max(a, b)
    d, e = min(d, e), max(d, e)
    c, e = min(c, e), max(c, e)
    c, d = min(c, d), max(c, d)
    a, d = min(a, d), max(a, d)
    a, c = min(a, c), max(a, c)
    b, e = min(b, e), max(b, e)
    b, d = min(b, d), max(b, d)
    b, c = min(b, c), max(b, c)
    return a, b, c, d, e


@inline
def middle_of_9(a, b, c):
    """Median of three sorted rows of 3."""
    low = max(a[0], b[0], c[0])
    middle = max(min(max(a[1], b[1]), c[1]), min(a[1], b[1]))
    high = min(a[2], b[2], c[2])
    return max(min(max(low, middle), high), min(low, middle))


@inline
def merged_2_2(a0, a1, b0, b1):
    """Two sorted pairs merged (Batcher's odd-even merge, as are those below)."""
    low, inner_low = min(a0, b0), max(a0, b0)
    inner_high, high = min(a1, b1), max(a1, b1)
    inner_low, inner_high = min(inner_low, inner_high), max(inner_low, inner_high)
    return low, inner_low, inner_high, high


@inline
def merged_5_5(a, b):
    """Two sorted rows of 5 merged into 10."""
    # The even values of both, the odd values of both, then neighbours are put in order.
    even0, low, high, even5 = merged_2_2(a[0], a[4], b[0], b[4])
    inner_low, inner_high = min(a[2], b[2]), max(a[2], b[2])
    even1, even2 = min(inner_low, low), max(inner_low, low)
    even3, even4 = min(inner_high, high), max(inner_high, high)
    odd0, odd1, odd2, odd3 = merged_2_2(a[1], a[3], b[1], b[3])
    v1, v2 = min(odd0, even1), max(odd0, even1)
    v3, v4 = min(odd1, even2), max(odd1, even2)
    v5, v6 = min(odd2, even3), max(odd2, even3)
    v7, v8 = min(odd3, even4), max(odd3, even4)
    return even0, v1, v2, v3, v4, v5, v6, v7, v8, even5


@inline
def middle_of_5_5(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4):
    """Of two sorted fives the values that :func:`merged_5_5` calls odd1, even2, odd2, even3."""
    lows, highs = max(a0, b0), min(a4, b4)
    low, high = min(lows, highs), max(lows, highs)
    inner_low, inner_high = min(a2, b2), max(a2, b2)
    lows, highs = max(a1, b1), min(a3, b3)
    odd1, odd2 = min(lows, highs), max(lows, highs)
    return odd1, max(inner_low, low), odd2, min(inner_high, high)


@inline
def middle_6_of_20(a, b):
    """Values 7 to 12 (the smallest is 0) of two sorted tens: of their merge only what these depend on."""
    p, q, r, s = middle_of_5_5(a[0], a[2], a[4], a[6], a[8], b[0], b[2], b[4], b[6], b[8])
    even4 = max(p, q)
    even5, even6 = min(r, s), max(r, s)
    t, u, v, w = middle_of_5_5(a[1], a[3], a[5], a[7], a[9], b[1], b[3], b[5], b[7], b[9])
    odd3, odd4 = min(t, u), max(t, u)
    odd5 = min(v, w)
    v7, v8 = min(odd3, even4), max(odd3, even4)
    v9, v10 = min(odd4, even5), max(odd4, even5)
    v11, v12 = min(odd5, even6), max(odd5, even6)
    return v7, v8, v9, v10, v11, v12


@inline
def middle_of_25(c, d):
    """Median of 25 values: ``c`` are values 7 to 12 of those in four rows, ``d`` is the sorted fifth row.

    The 13th smallest of all is the least value that j of ``d`` and 13 - j of the others do not exceed, for some j.
    """
    j_0_to_2 = min(c[5], max(c[4], d[0]), max(c[3], d[1]))
    j_3_to_5 = min(max(c[2], d[2]), max(c[1], d[3]), max(c[0], d[4]))
    return min(j_0_to_2, j_3_to_5)


@inline
def row_of_3(plane, y, columns):
    """The sorted values of three columns in row y."""
    line, values = within(y, plane.shape[0]) * np.int32(plane.shape[1]), plane.flat
    a, b, c = np.uint32(line + columns[0]), np.uint32(line + columns[1]), np.uint32(line + columns[2])
    return sorted_3(values[a], values[b], values[c])


@inline
def row_of_5(plane, y, columns):
    line, values = within(y, plane.shape[0]) * np.int32(plane.shape[1]), plane.flat
    a, b, c = np.uint32(line + columns[0]), np.uint32(line + columns[1]), np.uint32(line + columns[2])
    d, e = np.uint32(line + columns[3]), np.uint32(line + columns[4])
    return sorted_5(values[a], values[b], values[c], values[d], values[e])


@inline
def copy(source, target, top, x):
    for y in range(top, min(top + ROWS, source.shape[0])):
        target[y, x] = source[y, x]


@kernel
def median_3(state, buffer, active):
    """3 x 3: see :func:`median`."""
    x, strip = cuda.grid(2)
    pair, plane = cuda.blockIdx.z // PLANES, cuda.blockIdx.z % PLANES
    height, width = state.shape[3], state.shape[4]
    top = strip * ROWS
    if active[pair] != 0 and x < width and top < height:
        source, target = state[buffer[pair], pair, plane], state[1 - buffer[pair], pair, plane]
        if plane >= FLOW:
            copy(source, target, top, x)
        else:
            columns = within(x - 1, width), np.int32(x), within(x + 1, width)
            above, here = row_of_3(source, top - 1, columns), row_of_3(source, top, columns)
            for y in range(top, min(top + ROWS, height)):
                below = row_of_3(source, y + 1, columns)
                target[y, x] = middle_of_9(above, here, below)
                above, here = here, below


@kernel
def median_5(state, buffer, active):
    """5 x 5: see :func:`median`."""
    x, strip = cuda.grid(2)
    pair, plane = cuda.blockIdx.z // PLANES, cuda.blockIdx.z % PLANES
    height, width = state.shape[3], state.shape[4]
    top = strip * ROWS
    if active[pair] != 0 and x < width and top < height:
        source, target = state[buffer[pair], pair, plane], state[1 - buffer[pair], pair, plane]
        if plane >= FLOW:
            copy(source, target, top, x)
        else:
            left, right = within(x - 1, width), within(x + 1, width)
            columns = within(x - 2, width), left, np.int32(x), right, within(x + 2, width)
            # Two rows at a time, y and y + 1, because they share the rows y - 1 to y + 2. Those are two pairs, each
            # merged once: the lower one of these two rows is the upper one of the next two.
            row_0, row_1 = row_of_5(source, top - 2, columns), row_of_5(source, top - 1, columns)  # y - 2, y - 1, ...
            row_2, row_3 = row_of_5(source, top, columns), row_of_5(source, top + 1, columns)
            upper = merged_5_5(row_1, row_2)
            for y in range(top, min(top + ROWS, height), 2):
                row_4, row_5 = row_of_5(source, y + 2, columns), row_of_5(source, y + 3, columns)
                lower = merged_5_5(row_3, row_4)
                shared = middle_6_of_20(upper, lower)
                target[y, x] = middle_of_25(shared, row_0)
                if y + 1 < height:
                    target[y + 1, x] = middle_of_25(shared, row_5)
                row_0, row_2, row_3 = row_2, row_4, row_5
                upper = lower


def median(state: Any, buffer: Any, active: Any, width: int, stream: Any) -> Launch:
    """For each pair whose ``active`` is not 0, median filter U1 and U2 with a window of ``width`` (3 or 5) px.

    state (2, P, 6, H, W) float32 holds the planes of pairs twice; buffer, active (P,) int32. What is read is buffer
    buffer[pair]; the other one gets the filtered planes and copies of the remaining ones.
    """
    height, columns = state.shape[3:]
    blocks, threads = pixels(-(-height // ROWS), columns, PLANES)
    return Launch({3: median_3, 5: median_5}[width], blocks, threads, stream, state, buffer, active)


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernels of this module are launched with."""
    types = (float32[:, :, :, :, ::1], int32[::1], int32[::1])
    return {median_3: [types], median_5: [types]}
