"""Median filters of 5 x 5 and 3 x 3 pixels on planes in stripes, the border pixel repeated outside.

The columns of the window are sorted first, each once for all windows that contain it; then networks of minima and
maxima find the middle one of all. For 5 x 5 that makes 59 minima and maxima a pixel (sorting each window anew takes
twice as many). The result is one of the values itself, so it is exact.
"""

from __future__ import annotations

import numpy as np

from flowprep.flow.cpu.compiling import inline
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.simd import left_neighbours, load, maximum, minimum, right_neighbours, splat, store

REACH = 2  # blocks of halo at either end of a row, enough for 5 x 5


def scratch_length(n: int) -> int:
    """float32s of scratch that :func:`median` needs for rows of n blocks."""
    return 2 * (2 * REACH + 1) * (n + 2 * REACH) * LANES


@inline
def ordered(a, b):
    return minimum(a, b), maximum(a, b)


@inline
def sorted_3(a, b, c):
    a, b = ordered(a, b)
    b, c = ordered(b, c)
    a, b = ordered(a, b)
    return a, b, c


@inline
def sorted_5(a, b, c, d, e):
    a, b = ordered(a, b)
    d, e = ordered(d, e)
    c, e = ordered(c, e)
    c, d = ordered(c, d)
    a, d = ordered(a, d)
    a, c = ordered(a, c)
    b, e = ordered(b, e)
    b, d = ordered(b, d)
    b, c = ordered(b, c)
    return a, b, c, d, e


@inline
def middle_of_9(columns, at, width):
    """Median of three sorted columns: rows of ``columns`` (``width`` apart) hold their minima, medians and maxima."""
    side = LANES
    low = maximum(maximum(load(columns, at - side), load(columns, at)), load(columns, at + side))
    row = at + width
    _, mid, _ = sorted_3(load(columns, row - side), load(columns, row), load(columns, row + side))
    row += width
    high = minimum(minimum(load(columns, row - side), load(columns, row)), load(columns, row + side))
    return sorted_3(low, mid, high)[1]


@inline
def merged_2_2(a0, a1, b0, b1):
    """Two sorted pairs merged (Batcher's odd-even merge, as are those below)."""
    low, inner_low = ordered(a0, b0)
    inner_high, high = ordered(a1, b1)
    inner_low, inner_high = ordered(inner_low, inner_high)
    return low, inner_low, inner_high, high


@inline
def merged_5_5(a, b):
    """Two sorted columns of 5 merged into 10."""
    # The even values of both, the odd values of both, then neighbours are put in order.
    even0, low, high, even5 = merged_2_2(a[0], a[4], b[0], b[4])
    inner_low, inner_high = ordered(a[2], b[2])
    even1, even2 = ordered(inner_low, low)
    even3, even4 = ordered(inner_high, high)
    odd0, odd1, odd2, odd3 = merged_2_2(a[1], a[3], b[1], b[3])
    v1, v2 = ordered(odd0, even1)
    v3, v4 = ordered(odd1, even2)
    v5, v6 = ordered(odd2, even3)
    v7, v8 = ordered(odd3, even4)
    return even0, v1, v2, v3, v4, v5, v6, v7, v8, even5


@inline
def middle_of_5_5(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4):
    """Of two sorted fives the values that :func:`merged_5_5` calls odd1, even2, odd2, even3."""
    low, high = ordered(maximum(a0, b0), minimum(a4, b4))
    inner_low, inner_high = ordered(a2, b2)
    odd1, odd2 = ordered(maximum(a1, b1), minimum(a3, b3))
    return odd1, maximum(inner_low, low), odd2, minimum(inner_high, high)


@inline
def middle_6_of_20(a, b):
    """Values 7 to 12 (the smallest is 0) of two sorted tens: of their merge only what these depend on."""
    p, q, r, s = middle_of_5_5(a[0], a[2], a[4], a[6], a[8], b[0], b[2], b[4], b[6], b[8])
    even4 = maximum(p, q)
    even5, even6 = ordered(r, s)
    p, q, r, s = middle_of_5_5(a[1], a[3], a[5], a[7], a[9], b[1], b[3], b[5], b[7], b[9])
    odd3, odd4 = ordered(p, q)
    odd5 = minimum(r, s)
    v7, v8 = ordered(odd3, even4)
    v9, v10 = ordered(odd4, even5)
    v11, v12 = ordered(odd5, even6)
    return v7, v8, v9, v10, v11, v12


@inline
def middle_of_25(c, d):
    """Median of 25 values: ``c`` are values 7 to 12 of those in four columns, ``d`` is the sorted fifth column.

    The 13th smallest of all is the least value that j of ``d`` and 13 - j of the others do not exceed, for some j.
    """
    j_0_to_2 = minimum(minimum(c[5], maximum(c[4], d[0])), maximum(c[3], d[1]))
    j_3_to_5 = minimum(minimum(maximum(c[2], d[2]), maximum(c[1], d[3])), maximum(c[0], d[4]))
    return minimum(j_0_to_2, j_3_to_5)


@inline
def column(columns, at, width):
    """The five sorted values of the columns at ``at``, rows ``width`` apart."""
    first, second, third = load(columns, at), load(columns, at + width), load(columns, at + 2 * width)
    return first, second, third, load(columns, at + 3 * width), load(columns, at + 4 * width)


@inline
def filtered_row_5(columns, at, width, n, state, to, block):
    """Medians of one row from its sorted columns, two blocks at a time, because b and b + 1 share the columns b - 1 to
    b + 2. Those are two pairs, each merged once: the right one of these two blocks is the left one of the next two.
    """
    left = merged_5_5(column(columns, at - LANES, width), column(columns, at, width))
    for b in range(0, n, 2):
        here = at + b * LANES
        right = merged_5_5(column(columns, here + LANES, width), column(columns, here + 2 * LANES, width))
        shared = middle_6_of_20(left, right)
        store(state, to, middle_of_25(shared, column(columns, here - 2 * LANES, width)))
        if b + 1 < n:
            store(state, to + block, middle_of_25(shared, column(columns, here + 3 * LANES, width)))
        left = right
        to += 2 * block


@inline
def copy_row(state, at, line, to, width, n, block):
    """One row of a plane into ``line`` from ``to`` on, with REACH blocks of halo at either end."""
    blocks_at = to + REACH * LANES
    for b in range(n):
        store(line, blocks_at + b * LANES, load(state, at + b * block))
    last = width - 1
    border = line[blocks_at + last % n * LANES + last // n]
    for x in range(width, n * LANES):
        line[blocks_at + x % n * LANES + x // n] = border
    left, right = splat(line[blocks_at]), splat(border)
    for b in range(REACH):
        # For n = 1 the second halo is made from the first.
        source = blocks_at + (n - 1 - b) * LANES
        store(line, blocks_at - (b + 1) * LANES, left_neighbours(left, load(line, source)))
        source = blocks_at + b * LANES
        store(line, blocks_at + (n + b) * LANES, right_neighbours(load(line, source), right))


@inline
def median(state, plane, height, width, n, block, row, size, scratch):
    """Filter one plane of ``state`` in place with a window of ``size`` (3 or 5) pixels.

    Block b of row y of the plane begins at plane + y * row + b * block. scratch (:func:`scratch_length`): 2 REACH + 1
    rows of the plane and as many of sorted columns, n + 2 REACH blocks each.
    """
    reach = size // 2
    length = (n + 2 * REACH) * LANES
    slots = 2 * REACH + 1  # row y lies in slot y % slots
    columns = slots * length
    for y in range(-reach, height):
        coming = y + reach
        if coming < height:
            copy_row(state, plane + coming * row, scratch, coming % slots * length, width, n, block)
        if y < 0:
            continue
        above, below = max(0, y - 1) % slots * length, min(height - 1, y + 1) % slots * length
        here = y % slots * length
        if size == 3:
            for x in range(0, length, LANES):
                a, b, c = sorted_3(load(scratch, above + x), load(scratch, here + x), load(scratch, below + x))
                store(scratch, columns + x, a)
                store(scratch, columns + length + x, b)
                store(scratch, columns + 2 * length + x, c)
        else:
            top, bottom = max(0, y - 2) % slots * length, min(height - 1, y + 2) % slots * length
            for x in range(0, length, LANES):
                p, q, r = load(scratch, top + x), load(scratch, above + x), load(scratch, here + x)
                a, b, c, d, e = sorted_5(p, q, r, load(scratch, below + x), load(scratch, bottom + x))
                store(scratch, columns + x, a)
                store(scratch, columns + length + x, b)
                store(scratch, columns + 2 * length + x, c)
                store(scratch, columns + 3 * length + x, d)
                store(scratch, columns + 4 * length + x, e)
        to = plane + y * row
        first = columns + REACH * LANES
        if size == 5:
            filtered_row_5(scratch, first, length, n, state, to, block)
        else:
            for b in range(n):
                store(state, to + b * block, middle_of_9(scratch, first + b * LANES, length))
        # What stood in the slots behind the last pixel is overwritten: back to zero.
        last = width - 1
        for x in range(last + 1, n * LANES):
            state[to + x % n * block + x // n] = np.float32(0)
