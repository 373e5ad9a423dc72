"""The tiles of TV-L1: how its inner iterations stay on the chip for several of them (Brox: brox_sweeps.py).

A block of threads works on one tile of one pair. Every thread owns ROWS pixels, one below the other; what they hold
stays in its registers from the first iteration of a launch to the last. What neighbours need goes through two planes in
shared memory.

             x = 0 ..... WIDTH - 1
    strip 0  |t0 t1 ............ |    thread (x, strip): ROWS pixels of column x
             |-------------------|
    strip 1  |                   |
             |-------------------|
       :     |                   |    HEIGHT = STRIPS * ROWS

An iteration needs the neighbours of every pixel, so that after k iterations what a tile knows of its k outermost pixels
is wrong, but not at edges that are edges of the frame. Tiles therefore overlap by 2 HALO, and a launch does HALO
iterations at most: each side of an overlap is right in one of its two tiles.

    |<------- WIDTH ------->|
    |<-- kept -->|<- HALO ->|
         |<- HALO ->|<- INNER_WIDTH ->|<- HALO ->|
                                 |<- HALO ->|<-- kept -->|
    frame begins                               frame ends
"""

from __future__ import annotations

import numpy as np

from flowprep.flow.cuda.device import SIMULATED

# Registers decide: 8 rows of 10 values, and what computing takes, are 128 for each of 512 threads, all that there are.
WIDTH, STRIPS, ROWS, HALO = (16, 2, 8, 2) if SIMULATED else (64, 8, 8, 6)
HEIGHT = STRIPS * ROWS
THREADS = WIDTH * STRIPS
INNER_WIDTH, INNER_HEIGHT = WIDTH - 2 * HALO, HEIGHT - 2 * HALO

ZERO = np.float32(0)


def tiles(height: int, width: int) -> tuple[int, int]:
    """Tiles (across, down) that an image takes."""
    return tiles_along(width, WIDTH, INNER_WIDTH), tiles_along(height, HEIGHT, INNER_HEIGHT)


def tiles_along(length: int, size: int, inner: int) -> int:
    """Tiles of ``size`` px that a side takes, each beginning ``inner`` px after the one before."""
    return 1 + max(0, -(-(length - size) // inner))
