"""Values between pixels. Planes are read through indices that are kept inside, whatever the flow is.

The samplers take the grey levels (F, H, W) and their derivatives (C, F, H, W) at a level, the number of a frame, and a
position in px; they return the sampled grey level and derivatives.
"""

from __future__ import annotations

import numpy as np
from numba import cuda, float32, int32

from flowprep.flow.cuda.device import inline

ZERO, HALF, ONE, TWO, THREE = (np.float32(value) for value in (0, 0.5, 1, 2, 3))
OUTSIDE = np.float32(3)  # px from the frame at which a position has none of its pixels
FAR = np.float32(1e6)  # px


@inline
def inside(x, y, height, width):
    """Whether all of a position's 16 pixels lie in the frame."""
    return ONE <= x < np.float32(width) - TWO and ONE <= y < np.float32(height) - TWO


@inline
def floor_and_rest(position, size):
    """The pixel before ``position``, and how far from it; positions far from the frame are moved closer."""
    near = max(-OUTSIDE, min(np.float32(size) + OUTSIDE, position))
    whole = np.int32(near)
    if near < np.float32(whole):
        whole = np.int32(whole - 1)
    return whole, near - np.float32(whole)


@inline
def within(index, size):
    """The index of a pixel that exists, the nearest one."""
    return max(np.int32(0), min(np.int32(size - 1), np.int32(index)))


@inline
def weighted_6(grey, slopes, frame, rows, down, columns, across, taps):
    """I, Ix, Iy, Ixx, Ixy, Iyy of ``taps`` x ``taps`` pixels, by their weights."""
    width = np.int32(grey.shape[2])
    p, px, py = grey[frame].flat, slopes[0, frame].flat, slopes[1, frame].flat
    pxx, pxy, pyy = slopes[2, frame].flat, slopes[3, frame].flat, slopes[4, frame].flat
    i, ix, iy, ixx, ixy, iyy = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for k in range(taps):
        for j in range(taps):
            at = np.uint32(rows[k] * width + columns[j])
            weight = down[k] * across[j]
            i += weight * p[at]
            ix += weight * px[at]
            iy += weight * py[at]
            ixx += weight * pxx[at]
            ixy += weight * pxy[at]
            iyy += weight * pyy[at]
    return i, ix, iy, ixx, ixy, iyy


# Cubic


@inline
def cubic_weights(t, a):
    """Weights of the pixels at -1, 0, 1, 2 for a position ``t`` in [0, 1), by cubic convolution (Keys 1981)."""
    s = ONE - t
    before = a * t * (s * s)
    after = a * s * (t * t)
    here = ((a + TWO) * t - (a + THREE)) * (t * t) + ONE
    return before, here, ONE - before - here - after, after


@inline
def cubic_taps(position, size, a, zeros, index, weights):
    """Four pixels around a position and their weights; ``zeros``: whether pixels outside count as 0, or else as the
    border pixel."""
    base, t = floor_and_rest(position, size)
    weights[0], weights[1], weights[2], weights[3] = cubic_weights(t, a)
    for k in range(4):
        wanted = np.int32(base + k - 1)
        index[k] = within(wanted, size)
        if zeros and index[k] != wanted:
            weights[k] = ZERO


@inline
def cubic_3(grey, slopes, frame, x, y, a, zeros):
    """I, Ix, Iy at (x, y), by cubic convolution with that ``a``; ``zeros`` as in :func:`cubic_taps`."""
    height, width = grey.shape[1], grey.shape[2]
    columns, across = cuda.local.array(4, int32), cuda.local.array(4, float32)
    rows, down = cuda.local.array(4, int32), cuda.local.array(4, float32)
    cubic_taps(x, width, a, zeros, columns, across)
    cubic_taps(y, height, a, zeros, rows, down)
    p, px, py = grey[frame].flat, slopes[0, frame].flat, slopes[1, frame].flat
    i, ix, iy = ZERO, ZERO, ZERO
    for k in range(4):
        for j in range(4):
            at = np.uint32(rows[k] * np.int32(width) + columns[j])
            weight = down[k] * across[j]
            i += weight * p[at]
            ix += weight * px[at]
            iy += weight * py[at]
    return i, ix, iy


@inline
def cubic_6(grey, slopes, frame, x, y, a, zeros):
    """I, Ix, Iy, Ixx, Ixy, Iyy at (x, y), as :func:`cubic_3`."""
    height, width = grey.shape[1], grey.shape[2]
    columns, across = cuda.local.array(4, int32), cuda.local.array(4, float32)
    rows, down = cuda.local.array(4, int32), cuda.local.array(4, float32)
    cubic_taps(x, width, a, zeros, columns, across)
    cubic_taps(y, height, a, zeros, rows, down)
    return weighted_6(grey, slopes, frame, rows, down, columns, across, 4)


# Bilinear


@inline
def mirrored(position, size):
    """A position folded back into the frame, whose edges are the mirrors: -1/2 and size - 1/2."""
    period = TWO * np.float32(size)
    t = max(-FAR, min(FAR, position)) + HALF
    t -= period * np.float32(np.int32(t / period))
    t = abs(t)  # the remainder of a negative position is negative: the mirror at -1/2 turns it round
    return min(t, period - t) - HALF


@inline
def bilinear_6(grey, slopes, frame, x, y):
    """I, Ix, Iy, Ixx, Ixy, Iyy at (x, y), the frame mirrored at its edges."""
    height, width = grey.shape[1], grey.shape[2]
    columns, across = cuda.local.array(2, int32), cuda.local.array(2, float32)
    rows, down = cuda.local.array(2, int32), cuda.local.array(2, float32)
    left, across[1] = floor_and_rest(mirrored(x, width), width)
    top, down[1] = floor_and_rest(mirrored(y, height), height)
    across[0], down[0] = ONE - across[1], ONE - down[1]
    columns[0], columns[1] = within(left, width), within(left + 1, width)
    rows[0], rows[1] = within(top, height), within(top + 1, height)
    return weighted_6(grey, slopes, frame, rows, down, columns, across, 2)
