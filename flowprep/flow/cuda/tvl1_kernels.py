"""The inner iterations of TV-L1 (flow/tvl1.py), many pairs at once, and how each pair knows when to stop.

Of each pair there are

    state   (2, P, 6, H, W)   planes U1 U2 P11 P12 P21 P22, twice: a launch reads one buffer and writes the other
    data    (P, 4, H, W)      planes N1 N2 C LIMIT: the data term, linearised by a warp

U stands for u tau / theta, so that p takes its differences as they are. With n = grad I1 / |grad I1| and
rho / |grad I1| = n . u + c:

    U_d <- U_d + tau div p_d - clamp(n . U + C, +-LIMIT) n_d          P_d <- (P_d + grad U_d) / (1 + |grad U_d|)

    control (4, P)            BUFFER     the buffer that holds the state of the pair
                              GOING    1 until the warp has converged
                              COUNT    iterations that the next launch is to do, 0 to HALO
                              LEFT     iterations that it may do before the next median filter
    errors  (P, tiles, HALO)  sum of squared changes of U in each tile at each iteration of the last launch

A launch does up to HALO iterations (tile.py) and cannot know before its end when the change fell below the limit. If
that was before its last, the pair stays on the buffer that it started from and does that many again, no more: it stops
at the same iteration as if each were a launch of its own. The host launches as often as the slowest pair may need; a
pair that has stopped costs a launch nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64

from flowprep.flow.cuda.device import kernel
from flowprep.flow.cuda.tile import HALO, HEIGHT, INNER_HEIGHT, INNER_WIDTH, ROWS, STRIPS, THREADS, WIDTH, ZERO

U1, U2, P11, P12, P21, P22 = range(6)
N1, N2, C, LIMIT = range(4)
BUFFER, GOING, COUNT, LEFT = range(4)

ONE = np.float32(1)
ADDERS = 4 if THREADS == 32 else 32  # threads that add up the errors of a pair's tiles


@kernel
def begin_level(flow, state, control):
    """Start pairs on a level from ``flow`` (P, 2, H, W), p = 0."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    height, width = flow.shape[2], flow.shape[3]
    if x == 0 and y == 0:
        control[BUFFER, pair] = 0
    if x < width and y < height:
        state[0, pair, U1, y, x] = flow[pair, 0, y, x]
        state[0, pair, U2, y, x] = flow[pair, 1, y, x]
        for plane in range(P11, P22 + 1):
            state[0, pair, plane, y, x] = ZERO


@kernel
def end_level(state, control, factor, flow):
    """``factor`` U of every pair to ``flow`` (P, 2, H, W)."""
    x, y = cuda.grid(2)
    pair = cuda.blockIdx.z
    if x < flow.shape[3] and y < flow.shape[2]:
        buffer = control[BUFFER, pair]
        flow[pair, 0, y, x] = state[buffer, pair, U1, y, x] * factor
        flow[pair, 1, y, x] = state[buffer, pair, U2, y, x] * factor


@kernel(threads=1)
def begin_warp(control):
    control[GOING, cuda.blockIdx.z] = 1


@kernel(threads=1)
def begin_iterations(control, iterations, filtered):
    """Let every pair that has not converged do ``iterations`` more. ``filtered``: its state was put into the other
    buffer."""
    pair = cuda.blockIdx.z
    if control[GOING, pair]:
        control[BUFFER, pair] ^= filtered
        control[LEFT, pair] = iterations
        control[COUNT, pair] = min(HALO, iterations)


@kernel(threads=THREADS)
def relax(state, data, control, tau, errors):
    """COUNT iterations of every pair, from one buffer of ``state`` to the other. Blocks: tiles across, down, pairs."""
    pair = cuda.blockIdx.z
    count = control[COUNT, pair]
    if count == 0:
        return
    buffer = control[BUFFER, pair]
    height, width = state.shape[3], state.shape[4]
    column, strip = cuda.threadIdx.x, cuda.threadIdx.y
    top = strip * ROWS  # row of the tile that the thread's first pixel lies in
    x = cuda.blockIdx.x * INNER_WIDTH + column
    y = cuda.blockIdx.y * INNER_HEIGHT + top  # of the first pixel
    left_kept = 0 if cuda.blockIdx.x == 0 else HALO
    right_kept = WIDTH if cuda.blockIdx.x + 1 == cuda.gridDim.x else WIDTH - HALO
    top_kept = 0 if cuda.blockIdx.y == 0 else HALO
    bottom_kept = HEIGHT if cuda.blockIdx.y + 1 == cuda.gridDim.y else HEIGHT - HALO

    one = cuda.shared.array((HEIGHT, WIDTH), float32)
    two = cuda.shared.array((HEIGHT, WIDTH), float32)
    bottom_1 = cuda.shared.array((STRIPS, WIDTH), float32)
    bottom_2 = cuda.shared.array((STRIPS, WIDTH), float32)
    u1, u2 = cuda.local.array(ROWS, float32), cuda.local.array(ROWS, float32)
    p11, p12 = cuda.local.array(ROWS, float32), cuda.local.array(ROWS, float32)
    p21, p22 = cuda.local.array(ROWS, float32), cuda.local.array(ROWS, float32)
    n1, n2 = cuda.local.array(ROWS, float32), cuda.local.array(ROWS, float32)
    c, limit = cuda.local.array(ROWS, float32), cuda.local.array(ROWS, float32)
    change = cuda.local.array(HALO, float32)

    # Pixels outside of the frame are 0 and stay so: nothing of them counts.
    exists = x < width
    for r in range(ROWS):
        if exists and y + r < height:
            u1[r], u2[r] = state[buffer, pair, U1, y + r, x], state[buffer, pair, U2, y + r, x]
            p11[r], p12[r] = state[buffer, pair, P11, y + r, x], state[buffer, pair, P12, y + r, x]
            p21[r], p22[r] = state[buffer, pair, P21, y + r, x], state[buffer, pair, P22, y + r, x]
            n1[r], n2[r] = data[pair, N1, y + r, x], data[pair, N2, y + r, x]
            c[r], limit[r] = data[pair, C, y + r, x], data[pair, LIMIT, y + r, x]
        else:
            u1[r], u2[r], p11[r], p12[r], p21[r], p22[r] = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
            n1[r], n2[r], c[r], limit[r] = ZERO, ZERO, ZERO, ZERO
    has_right = ONE if exists and x + 1 < width and column + 1 < WIDTH else ZERO
    keeps = exists and left_kept <= column < right_kept

    for k in range(count):
        # U from p here, to the left and above.
        for r in range(ROWS):
            one[top + r, column], two[top + r, column] = p11[r], p21[r]
        bottom_1[strip, column], bottom_2[strip, column] = p12[ROWS - 1], p22[ROWS - 1]
        cuda.syncthreads()
        above_1 = bottom_1[strip - 1, column] if strip > 0 else ZERO
        above_2 = bottom_2[strip - 1, column] if strip > 0 else ZERO
        squares = ZERO
        for r in range(ROWS):
            left_1 = one[top + r, column - 1] if column > 0 else ZERO
            left_2 = two[top + r, column - 1] if column > 0 else ZERO
            div_1 = p11[r] - left_1 + (p12[r] - above_1)
            div_2 = p21[r] - left_2 + (p22[r] - above_2)
            above_1, above_2 = p12[r], p22[r]
            step = max(min(n1[r] * u1[r] + (n2[r] * u2[r] + c[r]), limit[r]), -limit[r])
            change_1, change_2 = tau * div_1 - step * n1[r], tau * div_2 - step * n2[r]
            u1[r] += change_1
            u2[r] += change_2
            if top_kept <= top + r < bottom_kept:
                squares += change_1 * change_1 + change_2 * change_2
        change[k] = squares if keeps else ZERO
        cuda.syncthreads()
        # p from U here, to the right and below.
        for r in range(ROWS):
            one[top + r, column], two[top + r, column] = u1[r], u2[r]
        cuda.syncthreads()
        for r in range(ROWS):
            below = min(top + r + 1, HEIGHT - 1)
            has_below = ONE if y + r + 1 < height and top + r + 1 < HEIGHT else ZERO
            u1_x = (one[top + r, min(column + 1, WIDTH - 1)] - u1[r]) * has_right
            u2_x = (two[top + r, min(column + 1, WIDTH - 1)] - u2[r]) * has_right
            u1_y = ((u1[r + 1] if r + 1 < ROWS else one[below, column]) - u1[r]) * has_below
            u2_y = ((u2[r + 1] if r + 1 < ROWS else two[below, column]) - u2[r]) * has_below
            shrink_1 = ONE / (ONE + math.sqrt(u1_x * u1_x + u1_y * u1_y))
            shrink_2 = ONE / (ONE + math.sqrt(u2_x * u2_x + u2_y * u2_y))
            p11[r], p12[r] = (p11[r] + u1_x) * shrink_1, (p12[r] + u1_y) * shrink_1
            p21[r], p22[r] = (p21[r] + u2_x) * shrink_2, (p22[r] + u2_y) * shrink_2
        cuda.syncthreads()

    for r in range(ROWS):
        if keeps and top_kept <= top + r < bottom_kept and y + r < height:
            state[1 - buffer, pair, U1, y + r, x], state[1 - buffer, pair, U2, y + r, x] = u1[r], u2[r]
            state[1 - buffer, pair, P11, y + r, x], state[1 - buffer, pair, P12, y + r, x] = p11[r], p12[r]
            state[1 - buffer, pair, P21, y + r, x], state[1 - buffer, pair, P22, y + r, x] = p21[r], p22[r]

    # The changes of all threads, added up iteration by iteration, always in the same order.
    for k in range(count):
        one[k * STRIPS + strip, column] = change[k]
    cuda.syncthreads()
    total = ZERO
    if strip < count:
        for s in range(STRIPS):
            total += one[strip * STRIPS + s, column]
    two[strip, column] = total
    cuda.syncthreads()
    half = WIDTH // 2
    while half > 0:
        if column < half:
            two[strip, column] += two[strip, column + half]
        cuda.syncthreads()
        half //= 2
    if column == 0 and strip < count:
        errors[pair, cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x, strip] = two[strip, 0]


@kernel(threads=ADDERS * HALO)
def judge(errors, tiles, limit, control):
    """Decide for each pair (a block) what the last launch was good for: ``limit`` is the sum of squared changes at
    which a warp has converged."""
    pair = cuda.blockIdx.z
    count = control[COUNT, pair]
    if count == 0:
        return
    adder, k = cuda.threadIdx.x, cuda.threadIdx.y
    sums = cuda.shared.array((HALO, ADDERS), float32)
    total = ZERO
    if k < count:
        for tile in range(adder, tiles, ADDERS):
            total += errors[pair, tile, k]
    sums[k, adder] = total
    cuda.syncthreads()
    if adder == 0 and k == 0:
        enough = 0  # iterations after which the change was small enough; 0 = it never was
        for i in range(count):
            total = ZERO
            for j in range(ADDERS):
                total += sums[i, j]
            if enough == 0 and total <= limit:
                enough = i + 1
        if 0 < enough < count:
            control[COUNT, pair] = enough
        else:
            left = control[LEFT, pair] - count
            control[BUFFER, pair] ^= 1
            control[LEFT, pair] = left
            control[COUNT, pair] = 0 if enough else min(HALO, left)
            control[GOING, pair] = 0 if enough else 1


def signatures() -> dict[Any, list[tuple[Any, ...]]]:
    """Types that the kernels of this module are launched with."""
    state, data, control = float32[:, :, :, :, ::1], float32[:, :, :, ::1], int32[:, ::1]
    errors = float32[:, :, ::1]
    return {
        begin_level: [(data, state, control)],
        end_level: [(state, control, float32, data)],
        begin_warp: [(control,)],
        begin_iterations: [(control, int64, int64)],
        relax: [(state, data, control, float32, errors)],
        judge: [(errors, int64, float32, control)],
    }
