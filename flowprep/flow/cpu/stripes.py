"""The memory layout of the iterations: rows in stripes.

A row of W pixels is cut into LANES stripes of n neighbouring pixels, n = ceil(W / LANES). Block b holds pixel b of
every stripe, so lane l of block b is pixel x = l n + b. For W = 12, LANES = 4, n = 3:

    pixels   0 1 2 | 3 4 5 | 6 7 8 | 9 10 11
    block 0  0   3   6   9          what is left of block 1 is block 0, what is right of it is block 2:
    block 1  1   4   7  10          neighbours are whole blocks, no lane has to move.
    block 2  2   5   8  11
    block 3  3   6   9   -          the halo, right of block 2: block 0 moved by one lane. Left of block 0 is block
                                    n - 1 moved the other way.

Slots of pixels that do not exist (x >= W) hold zeros. Several planes of one row lie side by side, block by block, so
that a kernel walks through memory once: with planes A, B, C a row is A0 B0 C0 A1 B1 C1 ... (A0 = block 0 of A, LANES
float32s).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowprep.flow.cpu.compiling import kernel
from flowprep.flow.cpu.llvm import LANES
from flowprep.flow.cpu.rearranging import transpose

ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector


def blocks(width: int, *, even: bool = False) -> int:
    """Blocks of a row of ``width`` pixels; ``even``: so that neighbouring stripes begin on pixels of one parity."""
    count = -(-width // LANES)
    return count + count % 2 if even else count


def aligned(*shape: int) -> NDArray[np.float32]:
    """Zeros, beginning at a multiple of ALIGNMENT bytes."""
    count = int(np.prod(shape))
    raw = np.zeros(count * 4 + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count * 4].view(np.float32).reshape(shape)


def pitch(width: int) -> int:
    """float32s from one row of a plane (pixels in their natural order) to the next: a multiple of LANES.

    Room for as many pixels as the stripes have slots, and for five taps that begin at the last.
    """
    return blocks(width + 4, even=True) * LANES


@kernel
def to_stripes(plane, target, height, width, pitch, n, block, row):
    """Pixels of a plane, rows ``pitch`` apart, to blocks that lie ``block`` apart in rows ``row`` apart.

    The plane is read up to LANES stripes from each row's begin, whatever stands behind the last pixel.
    """
    for y in range(height):
        source, to = y * pitch, y * row
        if n >= LANES:
            for b in range(0, n, LANES):
                b = min(b, n - LANES)
                transpose(plane, source + b, n, target, to + b * block, block)
        else:
            for lane in range(LANES):
                for b in range(n):
                    target[to + b * block + lane] = plane[source + lane * n + b]
        for x in range(width, n * LANES):
            target[to + x % n * block + x // n] = np.float32(0)


@kernel
def from_stripes(source, plane, height, width, pitch, n, block, row):
    """The way back; what stands behind the last pixel of a row is undefined."""
    for y in range(height):
        at, to = y * row, y * pitch
        if n >= LANES:
            for b in range(0, n, LANES):
                b = min(b, n - LANES)
                transpose(source, at + b * block, block, plane, to + b, n)
        else:
            for lane in range(LANES):
                for b in range(n):
                    plane[to + lane * n + b] = source[at + b * block + lane]


def existing_pixels(width: int, n: int) -> NDArray[np.float32]:
    """A row of one plane in stripes: 1 where a pixel exists, 0 in the slots behind the last."""
    x = np.arange(LANES)[None, :] * n + np.arange(n)[:, None]
    row = aligned(n * LANES)
    row[:] = (x < width).ravel()
    return row
