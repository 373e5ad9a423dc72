"""The solver of Brox flow: sweeps of successive over-relaxation, several of them on the chip.

Arrays and symbols are those of brox_kernels.py. A block of threads works on one tile of one pair. Every thread owns
2 x ROWS pixels; what they hold stays in its registers from the first sweep of a launch to the last. Neighbours see A
and B of a pixel through shared memory.

    c = 0   1 .. ACROSS - 1
        rb  rb          rb      strip 0: thread (c, strip) has the columns 2 c and 2 c + 1 of ROWS rows
        br  br          br
        rb  rb          rb      r, b: red and black. Tiles begin at even pixels, so that every thread has its red ones
        br  br          br      at the same places, and none waits while others sweep.
        --------------------
        rb  rb          rb      strip 1

A sweep needs what is up to 2 px away, so that after k sweeps the 2 k outermost pixels of a tile are wrong, but not
along edges of the frame. Tiles therefore overlap, and each keeps what lies HALO or more inside of its other edges:

    frame begins                                frame ends
    |<------- WIDTH ------->|                        |
    |<--- kept ---->|<HALO->|                        |
            |<HALO->|<-kept->|<HALO->|               |
            |        |<HALO->|<-kept->|<HALO->|      |
            |        |        |<HALO->|<--- kept --->|
            |<------>|
           INNER_WIDTH
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64

from flowprep.flow.cuda.brox_kernels import BUFFER, CC, GOING, ONE, RU, RV, SX, SY, WU, WV, ZERO, A, B
from flowprep.flow.cuda.device import SIMULATED, kernel
from flowprep.flow.cuda.tile import tiles_along

# Registers decide: 8 pixels of 9 values, and what computing takes, are 128 for each of 512 threads, all that there are.
ACROSS, STRIPS, ROWS, SWEEPS = (8, 4, 4, 2) if SIMULATED else (32, 16, 4, 5)
THREADS = ACROSS * STRIPS
WIDTH, HEIGHT = 2 * ACROSS, ROWS * STRIPS
HALO = 2 * SWEEPS
INNER_WIDTH, INNER_HEIGHT = WIDTH - 2 * HALO, HEIGHT - 2 * HALO
PIXELS, PIXELS_BELOW = 2 * ROWS, 2 * (ROWS + 1)  # of a thread; with those below it
ADDERS = 4 if SIMULATED else 32  # threads that add up the errors of a pair's tiles


def tiles(height: int, width: int) -> tuple[int, int]:
    """Tiles (across, down) that an image takes."""
    return tiles_along(width, WIDTH, INNER_WIDTH), tiles_along(height, HEIGHT, INNER_HEIGHT)


@kernel(threads=1)
def begin_sweeps(control):
    """Every pair (a block) is going."""
    control[GOING, cuda.blockIdx.z] = 1


def _sweeper(measuring: bool) -> Any:
    @kernel(threads=THREADS)
    def sweep(flow, control, odd, system, sweeps, omega, errors):
        """``sweeps`` sweeps of every pair that is going, from one buffer of ``flow`` to the other.

        Blocks: tiles across, down, pairs. More than SWEEPS only where a single tile holds the frame.
        """
        pair = cuda.blockIdx.z
        if control[GOING, pair] == 0:
            return
        source = control[BUFFER, pair] ^ odd
        height, width = flow.shape[3], flow.shape[4]
        c, strip = cuda.threadIdx.x, cuda.threadIdx.y
        top = strip * ROWS  # row of the tile that the thread's first pixels lie in
        x, y = cuda.blockIdx.x * INNER_WIDTH + 2 * c, cuda.blockIdx.y * INNER_HEIGHT + top  # of the first pixel
        keep = ONE - omega

        # Columns 2 c, then columns 2 c + 1, so that neighbouring threads read neighbouring values.
        all_a = cuda.shared.array((2, HEIGHT, ACROSS), float32)
        all_b = cuda.shared.array((2, HEIGHT, ACROSS), float32)
        a, b = cuda.local.array(PIXELS, float32), cuda.local.array(PIXELS, float32)
        ru, rv = cuda.local.array(PIXELS, float32), cuda.local.array(PIXELS, float32)
        wu, wv = cuda.local.array(PIXELS, float32), cuda.local.array(PIXELS, float32)
        cc, sy = cuda.local.array(PIXELS, float32), cuda.local.array(PIXELS_BELOW, float32)
        # SX between the two columns of a thread, and SX between them and its neighbours'.
        inner, outer = cuda.local.array(ROWS, float32), cuda.local.array(PIXELS, float32)
        squares = cuda.local.array(PIXELS, float32)  # of changes in the last sweep

        # Pixels outside of the frame are copies of those at its edge; nothing flows between them and the frame, and
        # with W = 0 they stay small. Indices are unsigned: others would be looked at for being negative.
        from_a, from_b = flow[source, pair, A].flat, flow[source, pair, B].flat
        from_sx, from_sy, from_cc = system[pair, SX].flat, system[pair, SY].flat, system[pair, CC].flat
        from_ru, from_rv = system[pair, RU].flat, system[pair, RV].flat
        from_wu, from_wv = system[pair, WU].flat, system[pair, WV].flat
        for r in range(ROWS + 1):
            line = min(y + r, height - 1) * width
            for j in range(2):
                i, at = 2 * r + j, np.uint32(line + min(x + j, width - 1))
                s = from_sy[at]
                sy[i] = s if y + r < height else ZERO
                if r < ROWS:
                    a[i], b[i], cc[i], ru[i], rv[i] = from_a[at], from_b[at], from_cc[at], from_ru[at], from_rv[at]
                    all_a[j, top + r, c], all_b[j, top + r, c] = a[i], b[i]
                    weight_u, weight_v = from_wu[at], from_wv[at]
                    exists = y + r < height and x + j < width
                    wu[i], wv[i] = weight_u if exists else ZERO, weight_v if exists else ZERO
            if r < ROWS:
                outer[2 * r] = from_sx[np.uint32(line + min(x, width - 1))]
                s = from_sx[np.uint32(line + min(x + 1, width - 1))]
                inner[r] = s if x + 1 < width else ZERO
                s = from_sx[np.uint32(line + min(x + 2, width - 1))]
                outer[2 * r + 1] = s if x + 2 < width else ZERO
        cuda.syncthreads()

        left, right = max(c - 1, 0), min(c + 1, ACROSS - 1)
        up, down = max(top - 1, 0), min(top + ROWS, HEIGHT - 1)

        for _ in range(sweeps):
            for colour in range(2):  # red, black
                for r in range(ROWS):
                    j = (r + colour) & 1
                    i = 2 * r + j
                    side = right if j else left
                    above_a, above_b = (a[i - 2], b[i - 2]) if r > 0 else (all_a[j, up, c], all_b[j, up, c])
                    below_a, below_b = (a[i + 2], b[i + 2]) if r + 1 < ROWS else (all_a[j, down, c], all_b[j, down, c])
                    # Written as chains of multiplications with additions, an instruction each.
                    sum_a = ru[i] + inner[r] * a[i ^ 1] + sy[i] * above_a + sy[i + 2] * below_a
                    sum_b = rv[i] + inner[r] * b[i ^ 1] + sy[i] * above_b + sy[i + 2] * below_b
                    sum_a += outer[i] * all_a[1 - j, top + r, side]
                    sum_b += outer[i] * all_b[1 - j, top + r, side]
                    new_a = keep * a[i] + wu[i] * (sum_a - cc[i] * b[i])
                    new_b = keep * b[i] + wv[i] * (sum_b - cc[i] * new_a)
                    if measuring:
                        squares[i] = (new_a - a[i]) * (new_a - a[i]) + (new_b - b[i]) * (new_b - b[i])
                    a[i], b[i] = new_a, new_b
                    all_a[j, top + r, c], all_b[j, top + r, c] = new_a, new_b
                cuda.syncthreads()

        first_x = HALO if cuda.blockIdx.x > 0 else 0
        first_y = HALO if cuda.blockIdx.y > 0 else 0
        last_x = WIDTH - HALO if cuda.blockIdx.x + 1 < cuda.gridDim.x else WIDTH
        last_y = HEIGHT - HALO if cuda.blockIdx.y + 1 < cuda.gridDim.y else HEIGHT
        keeps = first_x <= 2 * c < last_x  # HALO is even: both columns or none
        total = ZERO
        to_a, to_b = flow[1 - source, pair, A].flat, flow[1 - source, pair, B].flat
        for r in range(ROWS):
            for j in range(2):
                if keeps and first_y <= top + r < last_y and y + r < height and x + j < width:
                    i, at = 2 * r + j, np.uint32((y + r) * width + x + j)
                    to_a[at], to_b[at] = a[i], b[i]
                    if measuring:
                        total += squares[i]

        if measuring:  # the changes of all threads, always added up in the same order
            sums = cuda.shared.array(THREADS, float32)
            thread = strip * ACROSS + c
            sums[thread] = total
            cuda.syncthreads()
            half = THREADS // 2
            while half > 0:
                if thread < half:
                    sums[thread] += sums[thread + half]
                cuda.syncthreads()
                half //= 2
            if thread == 0:
                errors[pair, cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x] = sums[0]

    return sweep


sweep = _sweeper(False)  # as many sweeps as are launched: ``errors`` stay as they are
sweep_measured = _sweeper(True)


@kernel(threads=ADDERS)
def judge(errors, tiles, limit, control):
    """Behind :func:`sweep_measured`: turn each pair (a block) to what it wrote, and stop those whose sum of squared
    changes is at most ``limit``."""
    pair, adder = cuda.blockIdx.z, cuda.threadIdx.x
    if control[GOING, pair] == 0:
        return
    sums = cuda.shared.array(ADDERS, float32)
    total = ZERO
    for tile in range(adder, tiles, ADDERS):
        total += errors[pair, tile]
    sums[adder] = total
    cuda.syncthreads()
    if adder == 0:
        total = ZERO
        for i in range(ADDERS):
            total += sums[i]
        control[BUFFER, pair] ^= 1
        control[GOING, pair] = 0 if total <= limit else 1


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernels of this module are launched with."""
    flow, planes, control, errors = float32[:, :, :, :, ::1], float32[:, :, :, ::1], int32[:, ::1], float32[:, ::1]
    types = flow, control, int64, planes, int64, float32, errors
    return {
        begin_sweeps: [(control,)],
        sweep: [types],
        sweep_measured: [types],
        judge: [(errors, int64, float32, control)],
    }
